"""`load_model`: runs, Hugging Face directories, the hub, and what is none of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from checkpoint.sharded import save_in_shards
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.config import Config, dump_toml
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.load import load_model
from gptcli.models.config import ModelConfig
from gptcli.storage import write_atomic
from ranks import run_ranks


class Resolved(Config):
    model: ModelConfig


@pytest.fixture
def run(our_model, make_run) -> Path:
    """A run with checkpoints at steps 10, 20 and 30, of which 20 is the best; every weight holds its step's number."""
    model = our_model()
    return make_run(model, Resolved(model=model.config), {10: 3.0, 20: 1.5, 30: 2.0}, torch.full_like).path


@pytest.mark.parametrize(("checkpoint", "step"), [("best", 20), ("last", 30), ("10", 10), ("00000030", 30)])
def test_the_checkpoint_that_was_asked_for_is_loaded(run, tokenizer, checkpoint, step):
    loaded = load_model(run, checkpoint=checkpoint)
    assert all((tensor == step).all() for tensor in loaded.model.state_dict().values())
    assert f"step {step}" in loaded.source
    assert loaded.run.path == run
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert not loaded.model.training


def test_a_run_is_loaded_in_the_dtype_asked_for(run):
    model = load_model(run, dtype=torch.bfloat16).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


@torch.no_grad()
def test_a_run_computes_what_the_trained_model_did(our_model, tokenizer, some_ids, tmp_path):
    model = our_model(n_kv_head=2, window_pattern=(9, 0), logit_softcap=5.0)
    run = RunDirectory.create(tmp_path / "run")
    write_atomic(run.config_path, dump_toml(Resolved(model=model.config)))
    tokenizer.save(run.path)
    save_checkpoint(run, 1, {"model": model.state_dict()}, {"val_loss": None})
    torch.testing.assert_close(load_model(run.path).model(some_ids), model(some_ids), atol=0, rtol=0)


@torch.no_grad()
def test_a_run_whose_ranks_saved_a_part_each_computes_what_the_trained_model_did(
    our_model, tokenizer, some_ids, tmp_path
):
    model = our_model(n_kv_head=2)
    run = RunDirectory.create(tmp_path / "run")
    write_atomic(run.config_path, dump_toml(Resolved(model=model.config)))
    tokenizer.save(run.path)
    run_ranks(2, save_in_shards, run.path, 1, model.state_dict())
    assert not (run.checkpoint_path(1) / "model.safetensors").exists()
    torch.testing.assert_close(load_model(run.path).model(some_ids), model(some_ids), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("checkpoint", "kind", "words"),
    [
        ("25", CheckpointError, "it has steps 10, 20, 30"),
        ("9" * 5000, CheckpointError, "has no checkpoint"),
        ("newest", UsageError, "choose best, last or a step"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(run, checkpoint, kind, words):
    with pytest.raises(kind, match=words):
        load_model(run, checkpoint=checkpoint)


@pytest.mark.parametrize("checkpoint", ["last", "30"])
def test_a_damaged_checkpoint_is_named_and_no_other_taken_in_its_place(run, checkpoint):
    damaged = run / "checkpoints/step-00000030/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_model(run, checkpoint=checkpoint)


def test_a_best_checkpoint_that_was_removed_is_warned_of_and_the_final_weights_are_named(
    run, our_model, tokenizer, capsys
):
    write_huggingface(our_model(), tokenizer, run)
    (run / "summary.json").write_text('{"best_step": 20, "val_loss": 1.5}')
    load_model(run)
    assert not capsys.readouterr().err
    shutil.rmtree(run / "checkpoints/step-00000020")
    load_model(run, checkpoint="last")
    assert not capsys.readouterr().err
    assert "step 30" in load_model(run).source
    warning = capsys.readouterr().err
    assert "of step 20 with validation loss 1.5000, is gone, and step 30 with 2.0000 is used" in warning
    subprocess.run(warning.partition("no checkpoints: ")[2], shell=True, check=True)
    assert "its final weights" in load_model(run).source


def test_a_run_without_checkpoints_is_refused(our_model, tokenizer, tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    write_atomic(run.config_path, dump_toml(Resolved(model=our_model().config)))
    tokenizer.save(run.path)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        load_model(run.path)


def test_a_run_passed_on_without_its_checkpoints_still_has_its_final_weights(our_model, tokenizer, some_ids, tmp_path):
    model = our_model()
    run = RunDirectory.create(tmp_path / "run")
    write_atomic(run.config_path, dump_toml(Resolved(model=model.config)))
    write_huggingface(model, tokenizer, run.path)
    loaded = load_model(run.path)
    assert loaded.run.path == run.path
    torch.testing.assert_close(loaded.model(some_ids), model(some_ids), atol=0, rtol=0)


def test_a_run_whose_config_lost_its_model_is_refused(run):
    (run / "run.toml").write_text("seed = 1\n")
    with pytest.raises(CheckpointError, match=r"has no \[model\] table"):
        load_model(run)


def test_a_run_whose_config_was_changed_is_refused_in_one_line(run, our_model):
    write_atomic(run / "run.toml", dump_toml(Resolved(model=our_model(n_layer=2).config)))
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    assert "does not hold the model that" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hugging_face_directory_is_loaded(our_model, tokenizer, some_ids, tmp_path):
    model = our_model()
    write_huggingface(model, tokenizer, tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.run is None
    assert str(tmp_path) in loaded.source
    torch.testing.assert_close(loaded.model(some_ids), model(some_ids), atol=0, rtol=0)


@pytest.mark.parametrize("source", ["hf:someone/tiny", "a directory"])
def test_a_checkpoint_of_what_is_no_run_is_refused(our_model, tokenizer, tmp_path, source):
    write_huggingface(our_model(), tokenizer, tmp_path / "model")
    with pytest.raises(UsageError, match=r"is not a run.*leave out --checkpoint"):
        load_model(tmp_path / "model" if source == "a directory" else source, checkpoint="last")


def test_what_is_no_model_says_what_was_looked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither run.toml .* nor config.json"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nothing")
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(CheckpointError, match="is a file"):
        load_model(tmp_path / "file.txt")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """The hub's cache in a folder of its own, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cache(hub: Path, model, tokenizer, revision: str) -> None:
    """Lay a model into the cache as the hub's client does."""
    repo = hub / "models--someone--tiny"
    write_huggingface(model, tokenizer, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / revision).write_text("0" * 40)


@pytest.mark.parametrize(("revision", "name"), [("main", "hf:someone/tiny"), ("v2", "hf:someone/tiny@v2")])
def test_a_cached_hub_model_is_loaded_offline(hub, our_model, tokenizer, some_ids, revision, name):
    model = our_model()
    cache(hub, model, tokenizer, revision)
    loaded = load_model(name)
    assert loaded.source == name
    assert loaded.as_base().reference == f"hf:someone/tiny@{'0' * 40}"  # by which an adapter finds it again
    assert load_model(loaded.as_base().reference).as_base() == loaded.as_base()
    torch.testing.assert_close(loaded.model(some_ids), model(some_ids), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["hf:someone/absent", "hf:not a name", "hf:", "hf:a/b/c"])
def test_a_hub_model_that_cannot_be_had_is_one_line(hub, name):
    with pytest.raises(CheckpointError) as caught:
        load_model(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_are_not_even_fetched(monkeypatch, our_model, tokenizer, tmp_path):
    import huggingface_hub

    asked = {}

    def download(repo: str, **named) -> str:
        asked.update(named)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    write_huggingface(our_model(), tokenizer, tmp_path)
    load_model("hf:someone/tiny")
    wanted = huggingface_hub.utils.filter_repo_objects(
        ["model.safetensors", "config.json", "merges.txt", "pytorch_model.bin", "model.pt", "onnx/config.json"],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(wanted) == ["model.safetensors", "config.json", "merges.txt"]
