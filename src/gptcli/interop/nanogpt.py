"""nanoGPT's checkpoints (`ckpt.pt`): GPT-2's names, plain matrices, and the shape in a table beside them.

nanoGPT's `sample.py` reads them with the tokens of GPT-2, or with a table of characters, `meta.pkl`, in the folder
`config["dataset"]` below its `data/`.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.family import show
from gptcli.interop.gpt2 import GPT2
from gptcli.interop.huggingface import assembled, valid_config
from gptcli.interop.pickles import Pickled
from gptcli.interop.weights import LoadedWeights
from gptcli.models.config import WITHOUT_EFFECT, ModelConfig
from gptcli.models.gpt import GPT
from gptcli.storage import atomic_file, write_atomic
from gptcli.tokenizer.tokenizer import Tokenizer

CHECKPOINT, CHARACTERS = "ckpt.pt", "meta.pkl"
FIXED = {
    "norm": "layernorm",
    "norm_eps": 1e-5,
    "position": "learned",
    "mlp": "gelu",
    "qk_norm": False,
    "tie_embeddings": True,
}
"""The slots of every model of nanoGPT; its GELU is the exact one."""
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
"""The sizes in its model_args, by the names of our slots except for `block_size`, the context length."""
GPT2_SAMPLE = ("Hello world<|endoftext|>", [15496, 995, 50256])

MODEL = "model/"
COMPILED = "_orig_mod."
"""The prefix that torch.compile adds to names."""

NANOGPT = replace(GPT2, name="nanoGPT", table=tuple(replace(rule, transposed=False) for rule in GPT2.table))


def read_nanogpt(pickled: Pickled, source: str) -> GPT:
    """Read the model, in evaluation mode, in fp32.

    Raises:
        CheckpointError: it is not a checkpoint of nanoGPT, or its tensors do not match its own description.
    """
    args = pickled.rest.get("model_args")
    if not isinstance(args, dict):
        raise CheckpointError(f"{source} has no model_args", "it is not a checkpoint of nanoGPT's train.py")
    missing = [key for key in SIZES if type(args.get(key)) is not int]
    if missing:
        raise CheckpointError(f"{source}: model_args has no whole number {missing[0]}", "it is damaged")
    sizes = {"context_length" if key == "block_size" else key: args[key] for key in SIZES}
    config = valid_config({**sizes, "bias": bool(args.get("bias", True)), **FIXED}, source, "it is damaged")
    given = {
        name.removeprefix(MODEL).removeprefix(COMPILED): tensor
        for name, tensor in pickled.tensors.items()
        if name.startswith(MODEL)
    }
    return assembled(LoadedWeights(source, given), NANOGPT, config, torch.device("cpu"))


def write_nanogpt(model: GPT, tokenizer: Tokenizer, directory: Path, name: str) -> tuple[str, ...]:
    """Write ckpt.pt, in the model's dtype, and for a character tokenizer meta.pkl, to `directory`.

    sample.py looks for the characters in the data set `name`, which is no path, since a path would name this machine's
    folders.

    Returns:
        Notes for the user, each in a line.

    Raises:
        UsageError: nanoGPT's model cannot compute this one; the message says why.
        StorageError: the disk is full or the directory cannot be written.
    """
    config = model.config
    require_nanogpt(config)
    state = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    theirs = {name: state[mapped.ours] for mapped in NANOGPT.map_tensors(config, shapes) for name in mapped.theirs}
    theirs["lm_head.weight"] = theirs["transformer.wte.weight"]
    checkpoint = {
        "model": theirs,
        "model_args": {
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "block_size": config.context_length,
            "bias": config.bias,
            "vocab_size": config.vocab_size,
            "dropout": config.dropout,
        },
        "config": {},
    }
    if tokenizer.name == "char":
        checkpoint["config"] = {"dataset": name}
        write_atomic(directory / CHARACTERS, pickle.dumps(character_tables(tokenizer)))
    with atomic_file(directory / CHECKPOINT) as temporary:
        torch.save(checkpoint, temporary)
    return tokenizer_notes(tokenizer, name)


def require_nanogpt(config: ModelConfig) -> None:
    """Refuse a model that nanoGPT's does not compute; a slot not named here must be at its default."""
    wanted = {
        slot: FIXED.get(slot, field.default)
        for slot, field in ModelConfig.model_fields.items()
        if slot not in {*SIZES, "context_length", "bias", *WITHOUT_EFFECT}
    }
    # These follow from the sizes, or have no effect without RoPE.
    actual = config.model_dump() | {"n_kv_head": None, "head_dim": None, "intermediate_size": None}
    actual |= {"rope_theta": wanted["rope_theta"], "rotary_fraction": wanted["rotary_fraction"]}
    actual |= {"window_pattern": tuple(filter(None, config.window_pattern))}
    wrong = [
        f"{slot} must be {show(value)}, not {show(actual[slot])}"
        for slot, value in wanted.items()
        if actual[slot] != value
    ]
    sizes = {
        "n_kv_head": (config.kv_heads, config.n_head),
        "n_head * head_dim": (config.n_head * config.head_width, config.n_embd),
        "intermediate_size": (config.mlp_width, 4 * config.n_embd),
    }
    wrong += [f"{name} must be {needed}, not {found}" for name, (found, needed) in sizes.items() if found != needed]
    if wrong:
        raise UsageError(f"nanoGPT's model cannot compute this one: {'; '.join(wrong)}", "--to hf writes every model")


def character_tables(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the tables of nanoGPT's meta.pkl. Special tokens can be decoded, but no text is encoded to them."""
    texts = {id: tokenizer.backend.id_to_token(id) for id in range(tokenizer.vocab_size)}
    known = {text: id for id, text in texts.items() if id not in tokenizer.special_ids}
    return {"vocab_size": tokenizer.vocab_size, "itos": texts, "stoi": known}


def tokenizer_notes(tokenizer: Tokenizer, name: str) -> tuple[str, ...]:
    """Return the note about the tokenizer that sample.py needs, if any."""
    if tokenizer.name == "char":
        return (f"sample.py looks for its characters at data/{name}/{CHARACTERS} in nanoGPT's folder: copy them there",)
    text, ids = GPT2_SAMPLE
    if tokenizer.vocab_size == ids[-1] + 1 and tokenizer.encode(text, allow_special=True) == ids:
        return ()
    return ("sample.py reads only the tokens of GPT-2 and tables of characters: it cannot decode this model's text",)
