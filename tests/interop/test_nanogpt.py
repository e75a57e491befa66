"""A checkpoint as nanoGPT's train.py writes it becomes a model that computes what transformers computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gptcli.cli.app import app
from gptcli.errors import CheckpointError
from gptcli.interop.load import load_model
from gptcli.interop.nanogpt import read_nanogpt
from gptcli.interop.pickles import Pickled, read_pickle

CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
"""What transformers keeps transposed, as the first GPT-2 did, and nanoGPT does not."""


@pytest.fixture
def reference(lively, tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=3, n_embd=36, n_positions=40, vocab_size=tokenizer.vocab_size,
                        activation_function="gelu")  # fmt: skip
    return lively(GPT2LMHeadModel(config))


@pytest.fixture
def content(reference) -> dict:
    """What `ckpt.pt` holds: the compiled model's state, the optimizer's, and tables of settings."""
    theirs = {name: tensor.T if name.endswith(CONV1D) else tensor for name, tensor in reference.state_dict().items()}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    config = reference.config
    return {
        "model": {f"_orig_mod.{name}": tensor.clone() for name, tensor in theirs.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd, "bias": True,
                       "block_size": config.n_positions, "vocab_size": config.vocab_size, "dropout": 0.0},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "compile": True},
    }  # fmt: skip


def test_the_command_writes_a_model_that_computes_the_same_logits(content, reference, tokenizer, tmp_path) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    tokenizer.save(tmp_path / "tokenizer")
    command = ["import", tmp_path / "ckpt.pt", "--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "model"]
    done = CliRunner().invoke(app, [str(part) for part in command])
    assert done.exit_code == 0, done.output
    assert "GPT2LMHeadModel" in done.stdout
    ids = torch.randint(tokenizer.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_model(tmp_path / "model", dtype=torch.float64).model(ids)
        expected = reference.double()(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_file_of_weights_is_read_whole(content, tmp_path: Path, legacy: bool) -> None:
    torch.save(content, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=not legacy)
    pickled = read_pickle(tmp_path / "ckpt.pt")
    for name, tensor in content["model"].items():
        assert torch.equal(pickled.tensors[f"model/{name}"], tensor)
    assert pickled.rest["model_args"] == content["model_args"] and pickled.rest["iter_num"] == 7


def pickled(content: dict) -> Pickled:
    tensors = {f"model/{name}": tensor for name, tensor in content["model"].items()}
    return Pickled(tensors, {"model_args": content["model_args"]})


def test_a_model_without_biases_or_with_a_head_stored_twice_is_read(content, reference) -> None:
    ids = torch.arange(20)[None]
    for name in list(content["model"]):
        if name.endswith(".bias"):
            del content["model"][name]
    content["model_args"]["bias"] = False
    for name, tensor in reference.named_parameters():
        if name.endswith(".bias"):
            tensor.data.zero_()
    with torch.no_grad():
        found, expected = read_nanogpt(pickled(content), "ckpt.pt").double()(ids), reference.double()(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda content: content.pop("model_args"), "model_args"),
        (lambda content: content["model_args"].pop("n_head"), "n_head"),
        (lambda content: content["model"].pop("_orig_mod.transformer.h.1.mlp.c_fc.weight"), "h.1.mlp.c_fc.weight"),
        (lambda content: content["model_args"].update(n_embd=24), "has shape"),
        (lambda content: content["model"].update(strange=torch.ones(2)), "strange"),
        (lambda content: content["model"]["_orig_mod.lm_head.weight"].add_(1), "lm_head.weight"),
    ],
)
def test_what_is_not_nanogpts_is_named(content, spoil, named: str) -> None:
    spoil(content)
    given = Pickled(
        {f"model/{name}": tensor for name, tensor in content["model"].items()},
        {key: value for key, value in content.items() if key == "model_args"},
    )
    with pytest.raises(CheckpointError, match=named):
        read_nanogpt(given, "ckpt.pt")
