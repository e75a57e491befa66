"""Which figures are measured and how they are shown; that they can be measured is tested with the command."""

from __future__ import annotations

import time

import pytest
import torch

from gptcli.report.bench import clock
from gptcli.report.bench.limits import GPT2, all_figures, summary, tables, thread_counts
from gptcli.report.bench.peak_rates import products

CPU = torch.device("cpu")


@pytest.mark.parametrize(("threads", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts_double_up_to_the_number_itself(threads: int, counts: list[int]) -> None:
    assert thread_counts(threads) == counts


def test_every_format_is_measured_at_every_thread_count_and_at_gpt2s_shapes() -> None:
    figures = dict(all_figures(2048, 2))
    gemms = [one for one in figures.values() if one["what"] == "gemm"]
    assert len(gemms) == 4 * (2 + len(GPT2))
    assert {one["dtype"] for one in gemms} == {"fp32", "bf16", "fp16", "int8"}
    assert {one["what"] for one in figures.values()} == {"gemm", "gemv", "sum", "copy"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_product_that_is_timed_is_that_of_a_linear_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ways = products(CPU, dtype, 5, 16, 7)
    torch.manual_seed(0)
    a, weight = torch.randn(5, 16).to(dtype), torch.randn(7, 16).to(dtype)
    for way in ways:
        assert torch.allclose(way().double(), a.double() @ weight.double().T, rtol=0.05, atol=0.1)


def test_the_median_leaves_out_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([100.0, 1.0, 3.0, 2.0, 50.0])
    monkeypatch.setattr(clock, "stopwatch", lambda work, device: next(taken))
    assert clock.seconds_of(lambda: None, CPU, at_least=0.0) == 2.0


def test_runs_are_added_until_the_time_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([9.0, *[1.0] * 100])
    monkeypatch.setattr(clock, "stopwatch", lambda work, device: next(taken))
    assert clock.seconds_of(lambda: None, CPU, at_least=7.5) == 1.0
    assert len(list(taken)) == 100 - 8


def test_a_stopwatch_times_the_work_itself() -> None:
    assert clock.stopwatch(lambda: time.sleep(0.1), CPU) >= 0.1


def test_a_format_that_torch_lacks_is_a_dash_with_its_reason() -> None:
    rate = {"rate": {"median": 1e9, "low": 1e9, "high": 3e11}}
    figures = [
        {"what": "gemm", "dtype": dtype, "threads": 1, "shape": [64, 64, 64]}
        | (rate if dtype != "int8" else {"unavailable": "no int8 here"})
        for dtype in ("fp32", "bf16", "fp16", "int8")
    ]
    figures += [{"what": what, "threads": 1} | rate for what in ("gemv", "sum", "copy")]
    products, memory = tables({"figures": figures})
    assert products.rows == [("64 x 64 x 64, 1 thread", "300", "300", "300", "-")]
    assert any("no int8 here" in note for note in products.notes)
    assert [row[1] for row in memory.rows] == ["300", "300", "300"]


def test_one_round_without_a_figure_is_no_figure() -> None:
    assert summary([{"rate": 1.0}, {"unavailable": "gone"}]) == {"unavailable": "gone"}
    assert summary([{"rate": 1.0}, {"rate": 3.0}])["rate"]["median"] == 2.0
