"""A model as one ONNX graph, `input_ids` (B, T) int64 -> `logits` (B, T, V), for onnxruntime and others. No cache.

torch's exporter follows the model's own code, so every architecture of ours goes through it, those without a class
elsewhere too. Both axes are dynamic; T goes up to the context length, but no further than the rotary tables
that the graph holds.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch

from gptcli.errors import UsageError
from gptcli.interop.readers import quiet
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.storage import fsync_path, storage_errors

LARGEST_TABLE = 2**23
"""Numbers in each of the graph's rotary tables at most: 131,072 positions of a head of 64."""
LARGEST_FILE = 1_800_000_000
"""Weights beyond so many bytes go to a file beside the graph: protocol buffers end at 2 GiB."""


def write_onnx(model: GPT, path: Path) -> tuple[str, ...]:
    """Write the graph to `path`; notes for the user, each in a line.

    Raises:
        UsageError: the context is too short for the lengths to be left open.
        StorageError: the disk is full or the path cannot be written.
    """
    model = with_plain_attention(model)
    config, longest = model.config, longest_sequence(model.config)
    # torch decides once, for the lengths given here, what the model decides by length: whether a window hides anything.
    # What it computes for longer sequences is right for shorter ones too.
    windows = [block.window for block in model.blocks if 0 < block.window < longest]
    shortest = max([2, *(window + 1 for window in windows)])
    if longest <= shortest:
        raise UsageError(
            f"--to onnx needs a context longer than {shortest} tokens and than every sliding window by two, not "
            f"{longest}",
            "--to hf writes every model",
        )
    ids = torch.zeros((2, shortest + 1), dtype=torch.long)
    sequence = torch.export.Dim("sequence", min=shortest, max=longest)
    with warnings.catch_warnings(), quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program = torch.onnx.export(
            model,
            (ids,),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: sequence}},
            dynamo=True,
            verbose=False,
        )
    is_large = sum(tensor.nbytes for tensor in model.parameters()) > LARGEST_FILE
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}") as folder:
            program.save(Path(folder, path.name), external_data=is_large)
            for file in sorted(Path(folder).iterdir(), reverse=True):  # the graph last: it names the weights
                fsync_path(file)
                file.replace(path.parent / file.name)
        fsync_path(path.parent)
    notes = [f"its weights lie in {path.name}.data, which belongs beside it"] * is_large
    if longest < config.context_length:
        notes.append(
            f"it reads sequences of up to {longest:,} tokens; the model's context is {config.context_length:,}"
        )
    return tuple(notes)


def longest_sequence(config: ModelConfig) -> int:
    """Tokens that the graph reads at most: its rotary tables have a row for each."""
    if config.position != "rope":
        return config.context_length
    return min(config.context_length, max(1, LARGEST_TABLE // config.rotary_dim))


def with_plain_attention(model: GPT) -> GPT:
    """The same weights in a model that attends by the formula, whose steps are the graph's; rotary tables laid out."""
    config = model.config.model_copy(update={"attention": "reference"})
    plain = build_model(config, device="meta", dtype=model.embedding.weight.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    if config.position == "rope":
        plain.rope.fill(longest_sequence(config), torch.device("cpu"))
    return plain.eval()
