"""Whether a run is compiled: what auto decides, what is said, and what a run keeps to."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.train import compiling, rank_setup
from gptcli.train.compiling import COMPILATION, choose_compile, compiled, possible_compilation
from gptcli.train.run import TrainRequest, train

CPU, MODEL = torch.device("cpu"), ModelConfig(vocab_size=5)


@pytest.fixture
def has_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "missing_compiler", lambda device: "")


@pytest.mark.usefixtures("has_compiler")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_compiles_long_runs_only_and_says_why(device: str) -> None:
    least = COMPILATION[device].least_run
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
def test_what_compiling_gives_is_counted_on_only_where_a_run_may_be_compiled() -> None:
    auto, always = (possible_compilation(wanted, CPU, MODEL) for wanted in ("auto", True))
    assert auto == COMPILATION["cpu"] and always == COMPILATION["cpu"]._replace(least_run=0.0)
    assert possible_compilation(False, CPU, MODEL) is None
    assert possible_compilation("auto", CPU, ModelConfig(vocab_size=5, norm="layernorm")) is None
    assert possible_compilation(True, torch.device("mps"), MODEL) is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiling_pays_from_the_shortest_run_on_that_is_compiled(device: str) -> None:
    least_run, seconds, gain = COMPILATION[device]
    assert (least_run - seconds) * gain > least_run


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


def test_a_run_keeps_to_what_was_decided_at_its_start_and_compiles_into_the_cache_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, run = tmp_path / "corpus.txt", tmp_path / "run"
    corpus.write_text("".join(f"line {n} counts {n * n}.\n" for n in range(300)))
    shape = (
        "model.n_layer=1",
        "model.n_embd=16",
        "model.n_head=1",
        "model.context_length=16",
        "data.tokenizer.name=char",
    )
    steps = ("train.max_steps=2", "train.tokens_per_step=64", "train.sample_every_steps=0", "device=cpu")
    train(TrainRequest(corpus=(str(corpus),), assignments=(*shape, *steps), out=run))
    assert tomllib.loads((run / "run.toml").read_text())["train"]["compile"] is False, "two steps are soon over"
    at_once = COMPILATION["cpu"]._replace(least_run=0.0)
    monkeypatch.setattr(compiling, "COMPILATION", {"cpu": at_once})  # from now on auto would compile

    def never(loss_sum: object, cache_dir: Path) -> None:
        raise AssertionError(f"compiled into {cache_dir}")

    monkeypatch.setattr(rank_setup, "compiled", never)
    train(TrainRequest(out=run, resume=True, assignments=("train.max_steps=4",)))
    request = TrainRequest(corpus=(str(corpus),), assignments=(*shape, *steps), cache_dir=tmp_path / "elsewhere")
    with pytest.raises(AssertionError, match=r"compiled into .*elsewhere"):
        train(replace(request, out=tmp_path / "another"))
