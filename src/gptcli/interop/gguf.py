"""A model as one GGUF file for llama.cpp, and such a file read back into a model from its own content.

The `gguf` package, which is llama.cpp's own, writes it. As in its converter, vectors, norms and learned positions stay
in fp32 whatever the matrices are stored in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.family import Family, ForeignConfig, Json
from gptcli.interop.gguf_families import BIASED, TIED, gguf_family, gguf_family_named
from gptcli.interop.gguf_tokenizer import GgufTokenizer, ending_tokens, gguf_tokenizer
from gptcli.interop.huggingface import tensor_shapes
from gptcli.interop.weights import reordered, require_described, split_tensor
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.storage import atomic_file, storage_errors
from gptcli.tokenizer.tokenizer import Tokenizer

QUANTIZATIONS = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""The quantizations that the gguf package can write for any model; it only reads K-quants and IQ-quants."""

FINE = "q8_0"
"""The type of the output matrix, or tied embedding, if the other matrices have fewer bits."""

ALWAYS_FP32 = ("position_embd.weight",)


def require_quantization(name: str) -> None:
    """Refuse a quantization that cannot be written.

    Raises:
        UsageError: there is no such quantization, or the gguf package cannot write it.
    """
    import gguf

    if name in QUANTIZATIONS:
        return
    kinds = [kind.name for kind in (*gguf.GGMLQuantizationType, *gguf.LlamaFileType)]
    is_known = {name.upper(), f"MOSTLY_{name.upper()}"} & set(kinds)
    raise UsageError(
        f"the gguf package reads {name} but does not write it" if is_known else f"quantization {name!r} is unknown",
        f"choose from {', '.join(QUANTIZATIONS)}, or export f16 and give it to llama.cpp's llama-quantize",
    )


class GgufMetadata(NamedTuple):
    """The metadata of a file besides the model and its tokenizer.

    Attributes:
        name: the name of the model.
        license: the hub's identifier of its licence.
        stop_ids: the tokens that end a text or an answer, besides the one that the tokenizer names.
    """

    name: str
    license: str | None = None
    stop_ids: frozenset[int] = frozenset()


def write_gguf(model: GPT, tokenizer: Tokenizer, path: Path, numbers: str, metadata: GgufMetadata) -> tuple[str, ...]:
    """Write the model's weights in `numbers` (f32, f16, bf16 or one of QUANTIZATIONS) with its tokenizer to `path`.

    Returns:
        Notes for the user, each in a line.

    Raises:
        UsageError: llama.cpp has no architecture for the model, or its tokenizer has no exact form there.
        StorageError: the disk is full or the path cannot be written.
    """
    import gguf

    family = gguf_family(model.config)
    config = family.written_as(model.config)
    vocabulary = gguf_tokenizer(tokenizer, config.vocab_size)
    kept: list[str] = []
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, family.name, use_temp_file=True)
        writer.add_type("model")
        writer.add_name(metadata.name)
        if metadata.license:
            writer.add_license(metadata.license)
        writer.add_file_type(file_type(numbers))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in family.write_config(config).items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{family.name}.{key}", value)
        writer.add_vocab_size(config.vocab_size)
        add_tokenizer(writer, tokenizer, vocabulary)
        endings = add_endings(writer, tokenizer, metadata.stop_ids)
        for tensor_name, tensor in their_tensors(model, family, config):
            kind = tensor_numbers(tensor_name, tensor, numbers, config.tie_embeddings)
            if kind == "f16" and numbers in QUANTIZATIONS:
                kept.append(tensor_name)
            quantization = gguf.GGMLQuantizationType[kind.upper()]
            writer.add_tensor(tensor_name, gguf.quants.quantize(as_array(tensor), quantization), raw_dtype=quantization)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    notes = (*vocabulary.notes, *endings)
    if not kept:
        return notes
    rows = f"{len(kept)} matrices, {kept[0]} first, have rows whose length is not a multiple of 32 and stay in f16"
    return (*notes, rows)


def their_tensors(model: GPT, family: Family, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield name and content of every tensor of the file in order; missing weights (GPT-2's biases) are zero."""
    shapes, state = tensor_shapes(config), model.state_dict()
    for mapped in family.map_tensors(config, shapes):
        tensor = state.get(mapped.ours)
        tensor = torch.zeros(shapes[mapped.ours]) if tensor is None else tensor
        yield from split_tensor(mapped, tensor.detach()).items()


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a contiguous array in fp32."""
    return tensor.to("cpu", torch.float32).contiguous().numpy()


def tensor_numbers(name: str, tensor: Tensor, numbers: str, tied: bool) -> str:
    """Return the type in which a tensor is stored."""
    if tensor.dim() < 2 or name in ALWAYS_FP32:
        return "f32"
    if numbers not in QUANTIZATIONS:
        return numbers
    if tensor.shape[-1] % 32:
        return "f16"
    return FINE if name == ("token_embd.weight" if tied else "output.weight") else numbers


def file_type(numbers: str) -> int:
    """Return llama.cpp's number of the type of most matrices."""
    import gguf

    return gguf.LlamaFileType["ALL_F32" if numbers == "f32" else f"MOSTLY_{numbers.upper()}"]


def add_tokenizer(writer: Any, tokenizer: Tokenizer, vocabulary: GgufTokenizer) -> None:
    """Add the tokenizer's keys."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    special = {
        writer.add_bos_token_id: tokenizer.framing.begin_id,
        writer.add_unk_token_id: tokenizer.unk_id,
    }
    for add, id in special.items():
        if id is not None and id < len(vocabulary.tokens):
            add(id)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def add_endings(writer: Any, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> tuple[str, ...]:
    """Add the keys of the tokens at which llama.cpp stops; return a note if there are more than it has keys for."""
    endings = ending_tokens(tokenizer, stop_ids)
    keys = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, id in zip(keys, endings[:3], strict=True):
        if id is not None:
            add(id)
    if not endings.left_out:
        return ()
    names = ", ".join(tokenizer.token_text(id) for id in endings.left_out)
    return (f"llama.cpp has no key for more than three tokens that end a text: give it also the stop text {names}",)


def read_gguf(path: Path) -> GPT:
    """Read the model of a file of an architecture that is written here, dequantized to fp32, in evaluation mode.

    Raises:
        CheckpointError: it is not a GGUF file, damaged, or of another architecture; or its tensors are not those that
            its keys describe.
    """
    import gguf

    with storage_errors(path, "read"):
        try:
            reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} is not a whole GGUF file: {error}", "write it again") from error
    keys: Json = {name: field.contents() for name, field in reader.fields.items()}
    found = {tensor.name: tensor for tensor in reader.tensors}
    family = gguf_family_named(keys.get("general.architecture"), str(path))
    described = {name.removeprefix(f"{family.name}."): value for name, value in keys.items()}
    described[TIED], described[BIASED] = "output.weight" not in found, "blk.0.attn_output.bias" in found
    rows = len(keys.get("tokenizer.ggml.tokens") or ())
    config = ModelConfig(vocab_size=rows, **family.read_config(ForeignConfig(str(path), described)))
    numbers = sum(int(tensor.n_elements) for tensor in found.values())
    require_described(config, str(path), numbers, len(found))
    state = {}
    for mapped in family.map_tensors(config, tensor_shapes(config)):
        parts = []
        for name, shape in mapped.theirs.items():
            if name not in found:
                raise CheckpointError(f"{path} has no tensor {name}", "write it again")
            values = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
            if values.shape != shape:
                raise CheckpointError(f"{path}: {name} has shape {values.shape}, should be {shape}", "write it again")
            # A copy, since the reader's arrays are views of the mapped file.
            parts.append(torch.from_numpy(np.array(values, dtype=np.float32)))
        state[mapped.ours] = reordered(mapped, torch.cat(parts))
    model = build_model(config, device="meta")
    model.load_state_dict(state, assign=True)
    return model.eval()
