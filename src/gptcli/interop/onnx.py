"""A model as one ONNX graph, `input_ids` (B, T) int64 -> `logits` (B, T, V), for onnxruntime and others. No cache.

torch's exporter follows the model's own code, so every architecture of ours goes through it, those without a class
elsewhere too. Both axes are dynamic; T goes up to the context length, but no further than the rotary tables
that the graph holds.
"""

from __future__ import annotations

import re
import secrets
import warnings
from pathlib import Path

import torch

from gptcli.errors import UsageError
from gptcli.interop.readers import quiet
from gptcli.interop.staging import staged_file
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.storage import remove_tree

LARGEST_TABLE = 2**23
"""Numbers in each of the graph's rotary tables at most: 131,072 positions of a head of 64."""
LARGEST_FILE = 1_800_000_000
"""Weights beyond so many bytes go to a file beside the graph: protocol buffers end at 2 GiB."""


WEIGHTS = re.compile(r"\.[0-9a-f]{8}\.data$")
"""Matches the end of a weights file's name, which follows the name of its graph."""


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
    for node in program.model.graph.all_nodes():  # the exporter notes which line of which file each one comes from
        node.metadata_props.clear()
    is_large = sum(tensor.nbytes for tensor in model.parameters()) > LARGEST_FILE
    with staged_file(path) as temporary:
        save_graph(program, temporary, is_large)
    remove_unused_weights(path)
    notes = [f"its weights lie in the file {path.name}.*.data, which belongs beside it"] * is_large
    if longest < config.context_length:
        notes.append(
            f"it reads sequences of up to {longest:,} tokens; the model's context is {config.context_length:,}"
        )
    return tuple(notes)


def save_graph(program: torch.onnx.ONNXProgram, path: Path, is_large: bool) -> None:
    """Write the graph to `path`, and large weights to a file beside it. Its name is new, so that a graph that is there
    keeps its own weights until it is replaced.
    """
    if not is_large:
        program.save(path)
        return
    named = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    program.save(named, external_data=True)  # to NAMED.data, which the graph refers to
    named.replace(path)


def remove_unused_weights(path: Path) -> None:
    """Remove files of weights beside `path` that its graph does not refer to: those of a graph that it has replaced, or
    of an export that was killed.
    """
    beside = (file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}."))
    found = [file for file in beside if WEIGHTS.search(file.name)]
    if found:
        import onnx

        initializers = onnx.load(path, load_external_data=False).graph.initializer
        used = {entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location"}
        for file in found:
            if file.name not in used:
                remove_tree(file)


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
