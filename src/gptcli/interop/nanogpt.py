"""nanoGPT's checkpoints (`ckpt.pt`): GPT-2's names, plain matrices, and the shape in a table beside them."""

from __future__ import annotations

from dataclasses import replace

import torch

from gptcli.config import validate
from gptcli.config.load import with_origin
from gptcli.errors import CheckpointError, ConfigError
from gptcli.interop.gpt2 import GPT2
from gptcli.interop.huggingface import assembled
from gptcli.interop.pickles import Pickled
from gptcli.interop.weights import LoadedWeights
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT

MODEL = "model/"
COMPILED = "_orig_mod."
"""What torch.compile puts before a name."""

NANOGPT = replace(GPT2, name="nanoGPT", table=tuple(replace(rule, transposed=False) for rule in GPT2.table))


def read_nanogpt(pickled: Pickled, source: str) -> GPT:
    """The model, in evaluation mode, in fp32.

    Raises:
        CheckpointError: this is no checkpoint of nanoGPT, or its tensors are not those of its own description.
    """
    args = pickled.rest.get("model_args")
    if not isinstance(args, dict):
        raise CheckpointError(f"{source} has no model_args", "it is not a checkpoint of nanoGPT's train.py")
    missing = [
        key for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size") if type(args.get(key)) is not int
    ]
    if missing:
        raise CheckpointError(f"{source}: model_args has no whole number {missing[0]}", "it is damaged")
    values = {
        "vocab_size": args["vocab_size"],
        "n_layer": args["n_layer"],
        "n_head": args["n_head"],
        "n_embd": args["n_embd"],
        "context_length": args["block_size"],
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "position": "learned",
        "mlp": "gelu",
        "qk_norm": False,
        "bias": bool(args.get("bias", True)),
        "tie_embeddings": True,
    }
    try:
        config = validate(ModelConfig, with_origin(values, source))
    except ConfigError as error:
        raise CheckpointError(str(error), "it is damaged") from error
    given = {
        name.removeprefix(MODEL).removeprefix(COMPILED): tensor
        for name, tensor in pickled.tensors.items()
        if name.startswith(MODEL)
    }
    return assembled(LoadedWeights(source, given), NANOGPT, config, torch.device("cpu"))
