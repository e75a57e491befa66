"""`gptcli import` of Hugging Face models, pickled ones too: what it writes computes the same as what it read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from typer.testing import CliRunner

from gptcli.cli.app import app
from gptcli.errors import CheckpointError, TokenizerError, UsageError
from gptcli.interop.import_model import import_model
from gptcli.interop.load import load_model

QWEN2 = transformers.Qwen2Config(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=50,
    max_position_embeddings=32,
    tie_word_embeddings=True,
)


@pytest.fixture
def theirs(lively, tokenizer) -> transformers.PreTrainedModel:
    config = transformers.Qwen2Config(**QWEN2.to_dict() | {"vocab_size": tokenizer.vocab_size})
    return lively(transformers.AutoModelForCausalLM.from_config(config))


@pytest.fixture
def source(theirs, tokenizer, tmp_path) -> Path:
    theirs.save_pretrained(tmp_path / "source")
    tokenizer.save(tmp_path / "source")
    return tmp_path / "source"


def as_pickles(source: Path, theirs, shards: int) -> None:
    """Lay the weights down as transformers 4 did, in one pickle or in several with an index."""
    (source / "model.safetensors").unlink()
    state = theirs.state_dict()  # holds the tied head a second time
    if shards == 1:
        return torch.save(state, source / "pytorch_model.bin")
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(state.items())[number::shards])
        torch.save(part, source / name)
        weight_map |= dict.fromkeys(part, name)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@torch.no_grad()
def same_logits(out: Path, theirs, ids) -> None:
    again = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    torch.testing.assert_close(load_model(out).model(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=1e-4, rtol=0)


def test_the_command_imports_a_hugging_face_directory(source, theirs, some_ids, tmp_path) -> None:
    command = ["import", str(source), "--out", str(tmp_path / "model"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["parameters"] == theirs.num_parameters()
    same_logits(tmp_path / "model", theirs, some_ids)


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_pickled_weights_are_read_as_weights_only(source, theirs, some_ids, tmp_path, shards: int) -> None:
    as_pickles(source, theirs, shards)
    with pytest.raises(CheckpointError, match=r"only as a pickle|has no weights"):
        load_model(source)
    import_model(str(source), tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.bin"))
    same_logits(tmp_path / "model", theirs, some_ids)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_a_pickle_that_is_a_program_is_refused_and_not_run(source, tmp_path) -> None:
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(tmp_path / "opened")))
    with pytest.raises(CheckpointError, match="it must hold weights and nothing else"):
        import_model(str(source), tmp_path / "model")
    assert not (tmp_path / "opened").exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "name", ["../pytorch_model-1.bin", "sub/pytorch_model-1.bin", "/etc/pytorch_model-1.bin", "model-1.safetensors"]
)
def test_an_index_of_pickles_that_leaves_the_directory_is_refused(source, tmp_path, name: str) -> None:
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="not a bin file beside it"):
        import_model(str(source), tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_weights_are_written_in_the_dtype_asked_for(source, tmp_path, name: str, dtype: torch.dtype) -> None:
    done = CliRunner().invoke(app, ["import", str(source), "--out", str(tmp_path / "model"), "--dtype", name])
    assert done.exit_code == 0, done.output
    assert {tensor.dtype for tensor in load_file(tmp_path / "model/model.safetensors").values()} == {dtype}


def test_a_tokenizer_can_be_named_where_the_model_brings_none(source, tokenizer, tmp_path) -> None:
    for file in source.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(TokenizerError, match="holds no tokenizer") as caught:
        import_model(str(source), tmp_path / "model")
    assert "\n" not in str(caught.value)
    tokenizer.save(tmp_path / "elsewhere")
    import_model(str(source), tmp_path / "model", str(tmp_path / "elsewhere"))
    assert load_model(tmp_path / "model").tokenizer.fingerprint == tokenizer.fingerprint


def test_a_missing_tensor_leaves_nothing_behind(source, theirs, tmp_path) -> None:
    as_pickles(source, theirs, 1)
    state = theirs.state_dict()
    del state["model.layers.0.mlp.up_proj.weight"], state["model.layers.1.mlp.up_proj.weight"]
    torch.save(state | {"strange": torch.ones(2)}, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        import_model(str(source), tmp_path / "model")
    assert "missing model.layers.[0-1].mlp.up_proj.weight; unexpected strange" in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "model").exists()


def test_pickled_tensors_that_are_no_floats_are_named(source, theirs, tmp_path) -> None:
    as_pickles(source, theirs, 1)
    complex_norm = {"model.norm.weight": torch.ones(32, dtype=torch.complex64)}
    torch.save(theirs.state_dict() | complex_norm, source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is complex64, should be one of"):
        import_model(str(source), tmp_path / "model")


def test_what_cannot_be_imported_is_refused_in_one_line(source, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.toml").write_text("seed = 1\n")
    refused = [
        (str(tmp_path / "empty"), "m", CheckpointError, "not a model directory"),
        (str(tmp_path / "absent"), "m", CheckpointError, "does not exist"),
        (str(tmp_path / "run"), "m", UsageError, "every command reads it"),
        (str(tmp_path / "text.txt"), "m", UsageError, "holds no tokenizer"),
        (str(source), "source", UsageError, "is not empty"),
    ]
    for name, out, kind, words in refused:
        with pytest.raises(kind, match=words) as caught:
            import_model(name, tmp_path / out)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="not a known kind of model"):
        import_model(str(tmp_path / "text.txt"), tmp_path / "m", str(source))


@pytest.mark.parametrize("kept", ["model.safetensors", "pytorch_model.bin"])
def test_pickles_are_fetched_from_the_hub_only_where_there_is_nothing_else(
    monkeypatch, source, theirs, some_ids, tmp_path, kept: str
) -> None:
    import huggingface_hub

    if kept == "pytorch_model.bin":
        as_pickles(source, theirs, 1)
    asked = []

    def download(repo: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((repo, revision, "pytorch_model*.bin" in allow_patterns))
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    import_model("hf:someone/tiny@v2", tmp_path / "model")
    assert asked == [("someone/tiny", "v2", False)] + [("someone/tiny", "v2", True)] * (kept != "model.safetensors")
    same_logits(tmp_path / "model", theirs, some_ids)
