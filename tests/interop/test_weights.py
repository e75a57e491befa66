"""Files that are missing, damaged, hostile or of another model: one line that names the file and the tensor."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptcli.errors import CheckpointError
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.nn.thresholds import FIRST_TABLE


@pytest.fixture
def directory(our_model, tokenizer, tmp_path) -> Path:
    """A whole qwen3 directory, to be damaged."""
    write_huggingface(our_model(), tokenizer, tmp_path)
    return tmp_path


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_huggingface(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(directory: Path, edit: Callable[[dict], None]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def change_config(directory: Path, **values) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def write_index(directory: Path, weight_map: dict[str, str]) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_missing_tensor_is_named(directory):
    change(directory, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "missing model.layers.1.mlp.up_proj.weight" in refusal(directory)


def test_an_unexpected_tensor_is_named(directory):
    change(directory, lambda tensors: tensors.update({"model.layers.0.mlp.router": torch.ones(2)}))
    assert "unexpected model.layers.0.mlp.router" in refusal(directory)


def test_a_wrong_shape_is_named_with_both_shapes(directory):
    change(directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(47)}))
    assert "model.norm.weight has shape (47,), should be (48,)" in refusal(directory)


def test_swapped_axes_are_a_wrong_shape(directory):
    name = "model.layers.2.mlp.down_proj.weight"
    change(directory, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))
    assert f"{name} has shape (128, 48), should be (48, 128)" in refusal(directory)


def test_tensors_that_are_no_floats_are_named(directory):
    change(directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(48, dtype=torch.int8)}))
    assert "model.norm.weight is I8" in refusal(directory)


def test_weights_of_another_family_list_every_name_in_one_line(directory):
    change_config(directory, model_type="llama")
    assert "unexpected model.layers.[0-2].self_attn.k_norm.weight, model.layers.[0-2].self_attn.q_norm" in refusal(
        directory
    )


def test_more_layers_than_the_weights_have_are_missing(directory):
    change_config(directory, num_hidden_layers=4, layer_types=None)
    assert "missing model.layers.3.input_layernorm.weight" in refusal(directory)


def test_an_untied_config_without_a_head_is_refused(directory):
    change_config(directory, tie_word_embeddings=False)
    assert "missing lm_head.weight" in refusal(directory)


def test_a_tied_model_may_store_its_head_again(directory):
    change(directory, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert read_huggingface(directory)[0].config.tie_embeddings


def test_a_tied_config_with_another_head_is_refused(directory):
    change(directory, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}))
    assert "ties lm_head.weight to model.embed_tokens.weight, but they differ" in refusal(directory)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path(self.mark),))


def test_a_pickle_is_never_opened(directory, tmp_path):
    (directory / "model.safetensors").unlink()
    hostile = Hostile()
    hostile.mark = str(tmp_path / "opened")
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(hostile))
    message = refusal(directory)
    assert "only as a pickle (pytorch_model.bin)" in message
    assert "gptcli import reads it as weights only" in message
    assert not (tmp_path / "opened").exists()


def test_a_directory_without_weights_says_what_was_looked_for(directory):
    (directory / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refusal(directory)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\m.safetensors", "..", "a.bin"],
)
def test_an_index_that_leaves_the_directory_is_refused(directory, name):
    write_index(directory, {"model.norm.weight": name})
    assert "which is not a safetensors file beside it" in refusal(directory)


def test_a_missing_shard_is_named(directory):
    write_index(directory, {"a": "model-00001-of-00001.safetensors", "b": "model-00002-of-00002.safetensors"})
    assert "lacks model-00002-of-00002.safetensors" in refusal(directory)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b"\xff", b"[" * 10**5]
)
def test_a_bad_index_is_refused(directory, content):
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_bytes(content)
    assert "model.safetensors.index.json" in refusal(directory)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file_is_named(directory, keep):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{path} is damaged" in refusal(directory)


@pytest.mark.parametrize("content", [b"", b"not json", b"[1]", b"[" * 10**5])
def test_a_bad_config_is_named(directory, content):
    (directory / "config.json").write_bytes(content)
    assert f"{directory / 'config.json'} is not" in refusal(directory)


def test_quantized_weights_are_refused(directory):
    change_config(directory, quantization_config={"quant_method": "gptq"})
    assert "quantized" in refusal(directory)


def test_training_on_the_model_does_not_write_to_the_file(directory):
    before = (directory / "model.safetensors").read_bytes()
    model, _ = read_huggingface(directory)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.zero_()
    assert all(tensor.requires_grad for tensor in model.parameters())
    assert (directory / "model.safetensors").read_bytes() == before


def test_a_failed_write_keeps_the_old_weights_and_leaves_nothing(directory, our_model, tokenizer, monkeypatch):
    from gptcli.checkpoint import tensor_files
    from gptcli.errors import StorageError

    def full_disk(*arguments, **named):
        Path(arguments[1]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    files = {path: path.read_bytes() for path in directory.iterdir()}
    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        write_huggingface(our_model(n_layer=1), tokenizer, directory)
    assert {path: path.read_bytes() for path in directory.iterdir()} == files


@pytest.mark.parametrize(
    "claimed",
    [
        {"num_hidden_layers": 10_000},
        {"hidden_size": 2**27, "head_dim": 2**27},
        {"vocab_size": 2**27},
        {"intermediate_size": 2**27},
        {"num_attention_heads": 2**27, "num_key_value_heads": 2**27},
        {"head_dim": 2**20},
    ],
    ids=str,
)
def test_a_config_of_far_more_than_the_files_hold_is_refused_before_a_module_is_made(directory, claimed, monkeypatch):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | claimed))
    monkeypatch.setattr("gptcli.interop.huggingface.build_model", lambda *args, **kwargs: pytest.fail("it was built"))
    assert "but its files hold" in refusal(directory)


def test_a_context_of_134_million_tokens_costs_no_memory(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 2**27}))
    model, _ = read_huggingface(directory)
    model(torch.zeros(1, 5, dtype=torch.long))
    assert model.config.context_length == 2**27 and model.rope.cos.numel() <= FIRST_TABLE
