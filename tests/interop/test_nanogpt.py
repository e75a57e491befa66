"""A checkpoint as nanoGPT's train.py writes it computes what transformers computes, read from it and written to it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gptcli.cli.app import app
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.load import load_model
from gptcli.interop.nanogpt import read_nanogpt, write_nanogpt
from gptcli.interop.pickles import Pickled, read_pickle
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.tokenizer import load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

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


NANO = {
    "norm": "layernorm",
    "norm_eps": 1e-5,
    "position": "learned",
    "mlp": "gelu",
    "qk_norm": False,
    "bias": True,
}


def written(model, tokenizer, directory) -> tuple[dict, tuple[str, ...]]:
    """What torch's reader of weights finds in the file that is written, and what is said of it."""
    notes = write_nanogpt(model, tokenizer, directory, directory.name)
    return torch.load(directory / "ckpt.pt", weights_only=True), notes


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_written_checkpoint_computes_what_transformers_computes_from_it(
    our_model, tokenizer, some_ids, tmp_path, bias
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = our_model(**NANO | {"bias": bias})
    checkpoint, _ = written(model, tokenizer, tmp_path)
    args = checkpoint["model_args"]
    assert args == {
        "n_layer": 3, "n_head": 4, "n_embd": 48, "block_size": 64, "bias": bias, "vocab_size": 257, "dropout": 0.0
    }  # fmt: skip
    theirs = GPT2LMHeadModel(
        GPT2Config(n_layer=3, n_head=4, n_embd=48, n_positions=64, vocab_size=257, activation_function="gelu")
    ).eval()
    state = {name: tensor.T if name.endswith(CONV1D) else tensor for name, tensor in checkpoint["model"].items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and (not missing if bias else all(name.endswith(".bias") for name in missing))
    for name in missing:
        theirs.get_parameter(name).zero_()
    torch.testing.assert_close(theirs(some_ids).logits, model(some_ids), atol=1e-4, rtol=0)


def test_a_written_checkpoint_comes_back_as_it_was(our_model, tokenizer, tmp_path) -> None:
    model = our_model(**NANO)
    write_nanogpt(model, tokenizer, tmp_path, "book")
    again = read_nanogpt(read_pickle(tmp_path / "ckpt.pt"), "ckpt.pt")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_characters_get_the_tables_that_sample_py_looks_for(our_model, tmp_path) -> None:
    characters = build_tokenizer(CharTokenizerConfig(), lambda: iter(["héllo\n"]))
    model = our_model(**NANO, vocab_size=characters.vocab_size)
    checkpoint, notes = written(model, characters, tmp_path)
    found = Path("data", checkpoint["config"]["dataset"], "meta.pkl")  # as sample.py joins them, in nanoGPT's folder
    meta = pickle.loads((tmp_path / "meta.pkl").read_bytes())
    assert [meta["stoi"][character] for character in "héllo\n"] == characters.encode("héllo\n")
    assert "".join(meta["itos"][id] for id in characters.encode("héllo\n")) == "héllo\n"
    assert meta["vocab_size"] == len(meta["itos"]) == characters.vocab_size
    assert "<unk>" not in meta["stoi"] and str(found) in notes[0]


def test_tokens_that_sample_py_does_not_know_are_said(our_model, tokenizer, tmp_path, shared) -> None:
    _, notes = written(our_model(**NANO), tokenizer, tmp_path / "bytes")
    assert "cannot decode this model's text" in notes[0]
    gpt2 = load_tokenizer(shared / "tokenizers" / "gpt2")
    _, notes = written(our_model(**NANO, vocab_size=gpt2.vocab_size, n_layer=1), gpt2, tmp_path / "gpt2")
    assert not notes


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"mlp": "gelu_tanh"}, "mlp must be gelu, not gelu_tanh"),
        ({"norm": "rmsnorm"}, "norm must be layernorm, not rmsnorm"),
        ({"norm_eps": 1e-6}, "norm_eps must be 1e-05, not 1e-06"),
        ({"position": "rope"}, "position must be learned, not rope"),
        ({"tie_embeddings": False}, "tie_embeddings must be on, not off"),
        ({"qk_norm": True}, "qk_norm must be off, not on"),
        ({"n_kv_head": 2}, "n_kv_head must be 4, not 2"),
        ({"intermediate_size": 100}, "intermediate_size must be 192, not 100"),
        ({"logit_softcap": 3.0}, "logit_softcap must be none, not 3.0"),
        ({"window_pattern": (5,)}, "window_pattern must be"),
        ({"smear": True}, "smear must be off, not on"),
    ],
    ids=str,
)
def test_a_model_that_nanogpt_cannot_compute_is_refused_in_words(our_model, tokenizer, tmp_path, slots, words) -> None:
    with pytest.raises(UsageError, match=words):
        write_nanogpt(our_model(**NANO | slots), tokenizer, tmp_path, "book")
    assert not list(tmp_path.iterdir())
