"""Runs that train an adapter: their base stays where it is, and all else is as in any run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetuning import write_conversations
from gptcli.checkpoint.report import verify_files
from gptcli.checkpoint.run_directory import COPY, RunDirectory
from gptcli.errors import CheckpointError, DivergedError, UsageError
from gptcli.interop.base_reference import BASE_FILE, BaseReference
from gptcli.interop.export import ExportRequest, export
from gptcli.interop.import_model import import_model
from gptcli.interop.load import load_model
from gptcli.interop.rebase import rebase
from gptcli.parallel.world import World
from gptcli.session import ModelRequest, open_session
from gptcli.train.rank_setup import layout_of
from gptcli.train.replay import replay
from gptcli.train.request import TrainRequest, settings_of
from gptcli.train.resume import NEW
from gptcli.train.run import train
from killed_training import train_until_killed
from numbered_lines import numbered_lines
from tiny_base import write_tiny_base

SETTINGS = (
    "train.max_steps=6", "train.tokens_per_step=128", "train.batch_size=4", "train.eval_every_steps=3",
    "train.eval_tokens=256", "train.checkpoint_every_steps=3", "train.log_every_steps=1",
    "train.sample_every_steps=0", "device=cpu", "train.precision=fp32", "optim.name=adamw", "optim.lr=0.01",
    "adapter.name=lora", "adapter.rank=4",
)  # fmt: skip
UNSTEADY = ("adapter.dropout=0.1", "adapter.dora=true")
IDS = torch.arange(32).view(2, 16)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a base model and the finished run of an adapter, which no test changes."""
    home = tmp_path_factory.mktemp("adapter")
    (home / "text.txt").write_text(numbered_lines(300))
    write_tiny_base(home / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        train(request(home, home / "run"))
    return home


@pytest.fixture(scope="module")
def unbroken(home: Path) -> Path:
    """A run with dropout and DoRA that was never stopped."""
    train(request(home, home / "unbroken", *UNSTEADY))
    return home / "unbroken"


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """A copy of the folder, whose run has its base in it."""
    shutil.copytree(home, tmp_path / "home")
    rebase(tmp_path / "home/run", str(tmp_path / "home/base"))
    return tmp_path / "home"


def request(home: Path, out: Path, *more: str, base: str = "base", **options: Any) -> TrainRequest:
    settings = (*SETTINGS, *more)
    return TrainRequest((str(home / "text.txt"),), (), settings, out=out, init_from=str(home / base), **options)


def saved(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    path = RunDirectory(run).checkpoint_path(step)
    return {
        f"{part}/{name}": t
        for part in ("model", "optimizer")
        for name, t in load_file(path / f"{part}.safetensors").items()
    }


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def logits(path: Path, **options: Any) -> torch.Tensor:
    return load_model(path, **options).model(IDS)


def test_checkpoints_and_the_finished_run_hold_the_adapter_alone(home: Path) -> None:
    tensors = saved(home / "run", 6)
    assert tensors and all("lora_" in name for name in tensors)
    files = {path.name for path in (home / "run").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", BASE_FILE}
    assert not files & {"config.json", "model.safetensors", COPY}
    base = BaseReference.open(home / "run")
    assert base.reference == str(home / "base") and base == load_model(home / "base").as_base()
    verify_files(home / "run").raise_if_damaged()


def test_a_run_is_opened_as_its_base_with_the_adapter_added(home: Path) -> None:
    merged, beside, base = load_model(home / "run"), load_model(home / "run", merge=False), load_model(home / "base")
    plain = base.model.state_dict()
    assert merged.model.state_dict().keys() == plain.keys()
    assert torch.equal(beside.model.state_dict()["blocks.0.mlp.up.weight"], plain["blocks.0.mlp.up.weight"])
    torch.testing.assert_close(logits(home / "run"), logits(home / "run", merge=False), rtol=0, atol=1e-5)
    assert (logits(home / "run") - logits(home / "base")).abs().max() > 1e-3
    assert not torch.equal(logits(home / "run", checkpoint="3"), logits(home / "run", checkpoint="6"))
    session = open_session(ModelRequest(str(home / "run"), quantize="int8"))
    assert torch.isfinite(session.model(IDS)).all()


def test_a_run_without_its_checkpoints_and_the_directory_for_peft_are_the_same_model(
    copy: Path, tmp_path: Path
) -> None:
    expected = logits(copy / "run")
    export(ExportRequest(str(copy / "run"), "hf", tmp_path / "alone", merge=False))
    shutil.rmtree(copy / "run/checkpoints")
    assert torch.equal(logits(copy / "run"), expected)
    assert torch.equal(logits(tmp_path / "alone"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_a_killed_run_goes_on_to_the_same_bits(home: Path, unbroken: Path, tmp_path: Path, stop_after: int) -> None:
    train_until_killed(request(home, tmp_path / "run", *UNSTEADY), stop_after)
    train(TrainRequest(out=tmp_path / "run", resume=True))
    assert are_equal(saved(unbroken, 6), saved(tmp_path / "run", 6))
    assert replay(tmp_path / "run", 5, tmp_path / "cache")["checkpoint"] == 3


def test_a_base_that_moved_is_found_again_by_the_command_that_the_error_names(copy: Path) -> None:
    expected = logits(copy / "run")
    (copy / "base").rename(copy / "elsewhere")
    for use in (lambda: load_model(copy / "run"), lambda: train(TrainRequest(out=copy / "run", resume=True))):
        with pytest.raises(CheckpointError, match=r"is not at .*base; .*gptcli checkpoint rebase .*run BASE"):
            use()
    rebase(copy / "run", str(copy / "elsewhere"))
    assert torch.equal(logits(copy / "run"), expected)
    shutil.rmtree(copy / "run/checkpoints")
    assert torch.equal(logits(copy / "run"), expected)
    verify_files(copy / "run").raise_if_damaged()


def test_a_base_with_other_weights_is_refused_wherever_it_is_opened(copy: Path) -> None:
    weights = load_file(copy / "base/model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, copy / "base/model.safetensors", {"format": "pt"})
    words = "is not the base model of .*: it has other weights"
    for use in (
        lambda: load_model(copy / "run"),
        lambda: train(TrainRequest(out=copy / "run", resume=True)),
        lambda: rebase(copy / "run", str(copy / "base")),
    ):
        with pytest.raises(CheckpointError, match=words):
            use()


def test_a_directory_for_peft_takes_only_a_base_of_its_shape(copy: Path, tmp_path: Path) -> None:
    export(ExportRequest(str(copy / "run"), "hf", tmp_path / "alone", merge=False))
    expected = logits(tmp_path / "alone")
    (copy / "base").rename(copy / "elsewhere")
    with pytest.raises(CheckpointError, match="gptcli checkpoint rebase"):
        load_model(tmp_path / "alone")
    rebase(tmp_path / "alone", str(copy / "elsewhere"))
    assert torch.equal(logits(tmp_path / "alone"), expected)
    rebase(copy / "run", str(copy / "elsewhere"))
    with pytest.raises(UsageError, match="alone is an adapter; every command reads it as it is"):
        import_model(str(tmp_path / "alone"), tmp_path / "imported")
    with pytest.raises(UsageError, match="has no adapter, and so no base model"):
        rebase(copy / "elsewhere", str(copy / "run"))


def test_an_adapter_that_is_its_own_base_is_refused(copy: Path) -> None:
    name = BaseReference.open(copy / "run")._replace(reference=str(copy / "run"), sha256="", step=None)
    name.save(copy / "run")
    (copy / "run/gptcli-manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is its own base model"):
        load_model(copy / "run")


@pytest.mark.slow
def test_an_adapter_run_is_the_base_of_further_trainings(copy: Path) -> None:
    expected = logits(copy / "run")
    train(request(copy, copy / "full", "adapter.name=none", "train.max_steps=1", base="run"))
    assert (copy / "full" / COPY).is_dir() and not (copy / "full" / BASE_FILE).exists()
    torch.testing.assert_close(logits(copy / "full" / COPY), expected)
    train(request(copy, copy / "second", "train.max_steps=1", base="run"))
    assert BaseReference.open(copy / "second").step == 6
    assert (logits(copy / "second") - expected).abs().max() > 0
    train(TrainRequest((), (), ("train.max_steps=9",), out=copy / "run", resume=True))  # its best is another one now
    assert (logits(copy / "second") - expected).abs().max() > 0


@pytest.mark.slow
def test_exports_merge_the_adapter_and_show_the_difference(home: Path, tmp_path: Path) -> None:
    written = export(ExportRequest(str(home / "run"), "hf", tmp_path / "merged"))
    assert written.text().count("max |Δlogit|") == 2 and written.checks[0].how.startswith("merged in fp32")
    assert written.checks[0].max_difference < 1e-4
    torch.testing.assert_close(logits(tmp_path / "merged"), logits(home / "run"))
    for arguments, words in (
        ((str(home / "base"), "hf"), "has no adapter; leave out --no-merge"),
        ((str(home / "run"), "gguf"), "holds no adapter beside its base model"),
    ):
        with pytest.raises(UsageError, match=words):
            export(ExportRequest(*arguments, tmp_path / "refused", merge=False))


def test_an_adapter_that_diverges_ends_as_an_error_and_nothing_of_it_is_saved(home: Path, tmp_path: Path) -> None:
    more = ("optim.name=sgd", "optim.lr=1e30", "optim.momentum=0", "train.grad_clip=0", "train.max_bad_steps=2")
    with pytest.raises(DivergedError):
        train(request(home, tmp_path / "run", *more))
    assert RunDirectory(tmp_path / "run").checkpoints() == []
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


def test_the_plan_counts_trained_weights_and_sharded_adapters_are_refused(home: Path, tmp_path: Path, capsys) -> None:
    found = train(request(home, tmp_path / "run", dry_run=True))
    trained = sum(tensor.numel() for name, tensor in saved(home / "run", 6).items() if name.startswith("model/"))
    assert found["trained_parameters"] == trained < found["parameters"]
    assert f"trains {trained / 1000:.2f} k of " in capsys.readouterr().err
    world = World()
    world.size = 2
    user = settings_of(request(home, tmp_path / "run", "parallel.strategy=fsdp"), NEW)
    with pytest.raises(UsageError, match=r"needs whole weights on every rank.*set parallel.strategy=ddp"):
        layout_of(user, world)


@pytest.mark.slow
@pytest.mark.parametrize("slots", [{}, {"tie_embeddings": False, "vocab_size": 264}], ids=["tied", "untied, padded"])
def test_new_tokens_are_trained_beside_the_adapter(tmp_path: Path, slots: dict[str, Any]) -> None:
    base = write_tiny_base(tmp_path / "base", context_length=64, **slots)
    write_conversations(tmp_path / "text.txt")
    run = tmp_path / "run"
    examples = ("data.kind=examples", "data.format=jsonl")
    train(request(tmp_path, run, *examples, "train.max_steps=4", "train.checkpoint_every_steps=2"))
    rows = {name: tensor for name, tensor in saved(run, 4).items() if name.endswith("new_rows")}
    assert len(rows) == 1 + ("tie_embeddings" in slots) and all(len(tensor) == 2 for tensor in rows.values())
    old, loaded, expected = load_model(base), load_model(run), logits(run)
    new = range(old.tokenizer.vocab_size, loaded.tokenizer.vocab_size)
    assert loaded.tokenizer.token_text(new[-1]) == "<|im_end|>" and new[-1] in loaded.stop_ids
    before, after = (one.model.state_dict()["embedding.weight"] for one in (old, loaded))
    assert torch.equal(after[: new.start], before[: new.start]) and loaded.model.config.vocab_size == slots.get(
        "vocab_size", 259
    )
    assert (after[new] - before[: new.start].mean(dim=0)).abs().min() > 0
    torch.testing.assert_close(expected, logits(run, merge=False), rtol=0, atol=1e-5)
    shutil.rmtree(RunDirectory(run).checkpoint_path(4))
    train(TrainRequest(out=run, resume=True))
    assert torch.equal(logits(run), expected)
    shutil.rmtree(run / "checkpoints")
    assert torch.equal(logits(run), expected)
    export(ExportRequest(str(run), "hf", tmp_path / "alone", merge=False))
    base.rename(tmp_path / "elsewhere")
    rebase(tmp_path / "alone", str(tmp_path / "elsewhere"))
    assert torch.equal(logits(tmp_path / "alone"), expected)
