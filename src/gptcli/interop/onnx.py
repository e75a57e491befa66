"""A model as one ONNX graph, `input_ids` (B, T) int64 -> `logits` (B, T, V), for onnxruntime and others. No cache.

torch's exporter traces the model's code, so it exports every architecture, also those without a class elsewhere. Both
axes are dynamic; T is limited by the context length and by the rotary tables in the graph.
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
"""The largest number of entries in each of the graph's rotary tables: 131,072 positions of a head of 64."""
LARGEST_FILE = 1_800_000_000
"""The bytes of weights above which they go to a file beside the graph: protocol buffers are limited to 2 GiB."""


WEIGHTS = re.compile(r"\.[0-9a-f]{8}\.data$")
"""Matches the end of a weights file's name, which begins with the name of its graph."""


def write_onnx(model: GPT, path: Path) -> tuple[str, ...]:
    """Write the graph to `path` and return notes for the user, each in a line.

    Raises:
        UsageError: the context is too short for a dynamic length.
        StorageError: the disk is full or the path cannot be written.
    """
    model = with_plain_attention(model)
    config, longest = model.config, longest_sequence(model.config)
    # torch traces the branches of the model that depend on the length, such as whether a window masks anything, for the
    # length given here. What is traced for longer sequences is right for shorter ones too.
    windows = (config.window(layer) for layer in range(config.n_layer))
    shortest = max([2, *(window + 1 for window in windows if 0 < window < longest)])
    if longest <= shortest:
        raise UsageError(
            f"--to onnx needs a context longer than {shortest} tokens and than every sliding window by two, not "
            f"{longest}",
            "--to hf writes every model",
        )
    ids = torch.zeros((2, shortest + 1), dtype=torch.long)
    sequence = torch.export.Dim("sequence", min=shortest, max=longest)
    with warnings.catch_warnings(), quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # warnings about the exporter's own parts
        program = torch.onnx.export(
            model,
            (ids,),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: sequence}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only without dynamo
    for node in program.model.graph.all_nodes():  # the exporter records the source file and line of each one
        node.metadata_props.clear()
    is_large = sum(tensor.nbytes for tensor in model.parameters()) > LARGEST_FILE
    with staged_file(path) as temporary:
        save_graph(program, temporary, is_large)
    remove_unused_weights(path)
    notes = [f"its weights are in the file {path.name}.*.data, which belongs beside it"] * is_large
    if longest < config.context_length:
        notes.append(
            f"it reads sequences of up to {longest:,} tokens; the model's context is {config.context_length:,}"
        )
    return tuple(notes)


def save_graph(program: torch.onnx.ONNXProgram, path: Path, is_large: bool) -> None:
    """Write the graph to `path`, and large weights to a file beside it.

    That file has a new name, so that an existing graph keeps its own weights until it is replaced.
    """
    if not is_large:
        program.save(path)
        return
    named = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    program.save(named, external_data=True)  # writes NAMED.data, which the graph refers to
    named.replace(path)


def remove_unused_weights(path: Path) -> None:
    """Remove weights files beside `path` that its graph does not use, from a replaced graph or a killed export."""
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
    """Return the longest sequence of the graph, whose rotary tables have a row for each token."""
    if config.position != "rope":
        return config.context_length
    return min(config.context_length, max(1, LARGEST_TABLE // config.rotary_dim))


def with_plain_attention(model: GPT) -> GPT:
    """Return the same weights in a model with reference attention, which can be traced, and full rotary tables."""
    config = model.config.model_copy(update={"attention": "reference"})
    plain = build_model(config, device="meta", dtype=model.embedding.weight.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    if config.position == "rope":
        plain.rope.fill(longest_sequence(config), torch.device("cpu"))
    return plain.eval()
