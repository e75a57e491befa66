"""Whether a run is compiled: what auto decides, what is said, and what a run keeps to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.train import compiling
from gptcli.train.compiling import LONG_RUN_SECONDS, choose_compile, compiled

CPU, MODEL = torch.device("cpu"), ModelConfig(vocab_size=5)


@pytest.fixture
def has_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: "")


@pytest.mark.usefixtures("has_compiler")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_compiles_long_runs_only_and_says_why(device: str) -> None:
    least = LONG_RUN_SECONDS[device]
    for seconds, wanted in ((least - 1, False), (least, True), (None, False)):
        choice = choose_compile("auto", torch.device(device), MODEL, seconds)
        assert choice.wanted is wanted and "minutes" in choice.reason


@pytest.mark.usefixtures("has_compiler")
def test_auto_leaves_alone_what_compiling_does_not_speed_up() -> None:
    layer_norms = ModelConfig(vocab_size=5, norm="layernorm")
    assert not choose_compile("auto", CPU, layer_norms, 1e6).wanted
    assert choose_compile("auto", torch.device("cuda"), layer_norms, 1e6).wanted
    assert not choose_compile("auto", torch.device("mps"), MODEL, 1e6).wanted


@pytest.mark.usefixtures("has_compiler")
@pytest.mark.parametrize("wanted", [True, False])
def test_a_users_choice_stands_without_comment(wanted: bool) -> None:
    assert choose_compile(wanted, CPU, MODEL, 1.0) == (wanted, "")


def test_without_a_compiler_auto_does_without_and_true_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    choice = choose_compile("auto", CPU, MODEL, 1e6)
    assert not choice.wanted and "C++ compiler" in choice.reason
    with pytest.raises(UsageError, match=r"train\.compile=false"):
        choose_compile(True, CPU, MODEL, 1e6)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_what_cannot_be_compiled_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()

    def reads(ids: torch.Tensor, targets: torch.Tensor, segments: None) -> torch.Tensor:
        return ids.float().sum() if ids.sum().item() > 3 else targets.float().sum()

    with pytest.raises(UsageError, match=r"could not compile.*train\.compile=false") as failure:
        compiled(reads, tmp_path)(torch.ones(2), torch.ones(2), None)
    assert "\n" not in str(failure.value)
