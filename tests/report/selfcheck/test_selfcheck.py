"""`gptcli selfcheck` passes on a machine that computes well, and finds whatever is made wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from command import gptcli
from gptcli.checkpoint.load import Checkpoint
from gptcli.data.batch import Batch
from gptcli.errors import UsageError, WrongResultError
from gptcli.nn import attention
from gptcli.nn.cache import LayerPart
from gptcli.parallel.strategy import Strategy
from gptcli.report.selfcheck import files, numbers, run, subject
from gptcli.report.selfcheck.results import Measurement
from gptcli.report.selfcheck.run import CHECKS, Check, self_check

Patch = pytest.MonkeyPatch
SECONDS = {"compile", "resume"}
"""The checks that take seconds."""
QUICK = [check for check in CHECKS if check.name not in SECONDS]


def failures(checks: Sequence[Check] = QUICK) -> set[str]:
    return {result.name for result in self_check("cpu", checks).failures}


def test_a_good_machine_passes() -> None:
    report = self_check("cpu", QUICK)
    assert [result.status for result in report.results] == ["ok"] * len(QUICK)
    report.raise_if_failed()


def wrong_attention(patch: Patch) -> None:
    """The fused kernel is wrong in fp32."""
    right = attention.F.scaled_dot_product_attention

    def kernel(q: Tensor, *some: Any, **more: Any) -> Tensor:
        return right(q * (1.001 if q.dtype == torch.float32 else 1), *some, **more)

    patch.setattr(attention.F, "scaled_dot_product_attention", kernel)


def wrong_accumulation(patch: Patch) -> None:
    """The mean of the means of micro-batches, which have different numbers of targets."""
    right = subject.accumulate_gradients

    def mean_of_means(strategy: Strategy, batches: list[Batch], *others: Any) -> tuple[Tensor, int]:
        each = [right(strategy, [batch], *others) for batch in batches]
        for parameter in strategy.parameters:
            parameter.grad /= len(batches)
        return torch.stack([means for means, _ in each]).mean(0), sum(tokens for _, tokens in each)

    patch.setattr(subject, "accumulate_gradients", mean_of_means)


def wrong_cache(patch: Patch) -> None:
    """The first value of every row is lost."""
    right = LayerPart.update

    def update(self: LayerPart, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = right(self, k, v)
        values = values.clone()
        values[:, :, 0] = 0
        return keys, values

    patch.setattr(LayerPart, "update", update)


def wrong_threads(patch: Patch) -> None:
    right = subject.gradient

    def gradient(*arguments: object) -> subject.Gradient:
        found = right(*arguments)
        return found._replace(vector=found.vector * (1 + 0.01 * (torch.get_num_threads() == 1)))

    patch.setattr(numbers, "gradient", gradient)


def wrong_loading(patch: Patch) -> None:
    right = files.load_checkpoint

    def load(*arguments: object) -> Checkpoint:
        found = right(*arguments)
        next(iter(found.tensors["optimizer"].values())).view(-1)[0] += 1e-6
        return found

    patch.setattr(files, "load_checkpoint", load)


@pytest.mark.parametrize(
    ("make_wrong", "found"),
    [
        (wrong_attention, {"attention", "fp64"}),
        (wrong_accumulation, {"accumulation"}),
        (wrong_cache, {"cache"}),
        (wrong_threads, {"threads"}),
        (wrong_loading, {"save"}),
    ],
)
def test_what_is_wrong_is_found(make_wrong: Callable[[Patch], None], found: set[str], monkeypatch: Patch) -> None:
    if torch.get_num_threads() == 1:
        monkeypatch.setattr(numbers.torch, "get_num_threads", lambda: 2)
    make_wrong(monkeypatch)
    assert failures() == found


def test_not_a_number_is_not_near_anything() -> None:
    assert subject.relative(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")


def test_a_check_that_raises_has_failed_and_one_that_cannot_be_made_is_skipped() -> None:
    def breaks(device: torch.device, folder: Path) -> Measurement:
        raise RuntimeError("a kernel\nis missing")

    def cannot(device: torch.device, folder: Path) -> Measurement:
        raise UsageError("no compiler", "install one")

    checks = [Check("one", "it works", breaks), Check("other", "it works", cannot), CHECKS[0]]
    report = self_check("cpu", checks)
    assert [result.status for result in report.results] == ["failed", "skipped", "ok"]
    lines = report.text().splitlines()
    assert lines[0].endswith("it works: RuntimeError: a kernel") and lines[1].endswith("no compiler")
    with pytest.raises(WrongResultError, match="one on cpu"):
        report.raise_if_failed()


def test_the_command_prints_one_object_and_ends_with_8(monkeypatch: Patch) -> None:
    def differs(device: torch.device, folder: Path) -> Measurement:
        return Measurement(2, 0)

    monkeypatch.setattr(run, "self_check", lambda device: self_check(device, [Check("ids", "they are equal", differs)]))
    result = gptcli("selfcheck", "--device", "cpu", "--json")
    assert result.returncode == 8
    found = json.loads(result.stdout)
    assert found["ok"] is False and found["checks"][0]["difference"] == 2
    assert {"machine", "versions"} <= set(found)


@pytest.mark.slow
def test_all_checks_pass_or_are_skipped_with_a_reason() -> None:
    report = self_check("cpu")
    assert [result.name for result in report.results] == [check.name for check in CHECKS]
    assert not report.failures and all(result.reason for result in report.results if result.status == "skipped")


@pytest.mark.gpu
def test_a_gpu_passes() -> None:
    assert not self_check("cuda").failures
