"""llama2.c's models (`stories15M.bin`): seven numbers, then Llama's weights in fp32, one after the other.

The form is that of karpathy/llama2.c's export.py, version 0, which its run.c reads. Its RoPE rotates neighbours
(x[2i], x[2i + 1]) where ours rotates (x[i], x[i + D/2]), so the rows of q and k are reordered. The tensors have the
names of Meta's own checkpoints here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gptcli.errors import CheckpointError
from gptcli.interop.family import Rule, Shape
from gptcli.interop.family_parts import gate_up_rows, pairs_order, qkv_rows
from gptcli.interop.huggingface import assembled, tensor_shapes, valid_config
from gptcli.interop.llama import LLAMA
from gptcli.interop.weights import LoadedWeights, require_described
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT
from gptcli.storage import open_regular, storage_errors

HEADER = struct.Struct("<7i")
BYTES = 4
LATER_VERSIONS = struct.pack("<I", 0x616B3432)
"""The first bytes of versions 1 (fp32) and 2 (8 bits) of the form."""
PER_LAYER = (
    "attention_norm",
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn_norm",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)
"""Names in the file's order, in which all layers of one precede the next."""


LLAMA2C = replace(
    LLAMA,
    name="llama2.c",
    prefix="",
    ignored=r"(?!)",
    table=(
        Rule("embedding", ("tok_embeddings",)),
        Rule("blocks.{i}.attention_norm", ("layers.{i}.attention_norm",)),
        Rule(
            "blocks.{i}.attention.qkv",
            ("layers.{i}.attention.wq", "layers.{i}.attention.wk", "layers.{i}.attention.wv"),
            rows=qkv_rows,
            order=pairs_order,
        ),
        Rule("blocks.{i}.attention.output", ("layers.{i}.attention.wo",)),
        Rule("blocks.{i}.mlp_norm", ("layers.{i}.ffn_norm",)),
        Rule("blocks.{i}.mlp.up", ("layers.{i}.feed_forward.w1", "layers.{i}.feed_forward.w3"), rows=gate_up_rows),
        Rule("blocks.{i}.mlp.down", ("layers.{i}.feed_forward.w2",)),
        Rule("final_norm", ("norm",)),
        Rule("head", ("output",)),
    ),
)


def read_llama2c(path: Path) -> GPT:
    """Read the model, in evaluation mode, in fp32.

    Raises:
        CheckpointError: it is not such a file, or its length is not what its header says.
        StorageError: it cannot be read.
    """
    with storage_errors(path, "read"):
        with open_regular(path) as file:
            header = file.read(HEADER.size)
        size = path.stat().st_size
    config = read_header(path, header)
    require_described(config, str(path), size // BYTES, size // BYTES)
    shapes = tensor_shapes(config)
    theirs = {name: shape for mapped in LLAMA2C.map_tensors(config, shapes) for name, shape in mapped.theirs.items()}
    places = dict(layout(config, theirs))
    whole = HEADER.size + BYTES * sum(count for _, count in places.values())
    if size != whole:
        raise CheckpointError(f"{path} has {size:,} bytes but should have {whole:,} by its header", "fetch it again")
    with storage_errors(path, "read"):
        numbers = np.memmap(path, dtype="<f4", mode="c", offset=HEADER.size)
    tensors = {
        name: torch.from_numpy(numbers[start : start + count].reshape(theirs[name]))
        for name, (start, count) in places.items()
        if name in theirs
    }
    return assembled(LoadedWeights(str(path), tensors), LLAMA2C, config, torch.device("cpu"))


def read_header(path: Path, header: bytes) -> ModelConfig:
    """Return the config for the seven numbers; a negative vocabulary size means that the head is not tied."""
    if header.startswith(LATER_VERSIONS):
        raise CheckpointError(f"{path} has llama2.c's version 1 or 2", "export it again with --version 0")
    if len(header) < HEADER.size:
        raise CheckpointError(f"{path} is too short for a model of llama2.c", "check the path")
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len = HEADER.unpack(header)
    values = {
        "vocab_size": abs(vocab_size) or -1,
        "context_length": max_seq_len,
        "n_layer": n_layers,
        "n_head": n_heads,
        "n_kv_head": n_kv_heads,
        "n_embd": dim,
        "intermediate_size": hidden_dim,
        "norm_eps": 1e-5,
        "qk_norm": False,
        "tie_embeddings": vocab_size > 0,
    }
    return valid_config(values, str(path), "it is not a model of llama2.c")


def layout(config: ModelConfig, shapes: dict[str, Shape]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield every name in the file's order with its first number and the count of its numbers.

    Tables of RoPE's angles, which run.c skips too, are between the last norm and the head.
    """
    layers = [f"layers.{i}.{name}" for name in PER_LAYER for i in range(config.n_layer)]
    names = ["tok_embeddings", *layers, "norm"]
    counts = {name: math.prod(shapes[f"{name}.weight"]) for name in names}
    counts["angles"] = config.context_length * config.head_width
    if not config.tie_embeddings:
        counts["output"] = math.prod(shapes["output.weight"])
    start = 0
    for name, count in counts.items():
        yield f"{name}.weight", (start, count)
        start += count
