"""`gptcli export`: a model written for another program, and checked by reading it back.

This module lists the formats and what each can hold; each is written by the module of its name.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from gptcli.errors import UsageError, missing_extra
from gptcli.interop.adapted import write_adapter
from gptcli.interop.card import model_card
from gptcli.interop.families import family_of
from gptcli.interop.generation_config import CONFIG, with_chat_ends
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.interop.load import LoadedModel, load_model
from gptcli.interop.merging import merge_checks
from gptcli.interop.nanogpt import CHECKPOINT, read_nanogpt, write_nanogpt
from gptcli.interop.native import NATIVE
from gptcli.interop.ollama import GGUF_FILE, MODELFILE, write_modelfile
from gptcli.interop.parity import ParityCheck, compare, parity_ids, require_exact
from gptcli.interop.peft_config import ADAPTER_CONFIG
from gptcli.interop.pickles import read_pickle
from gptcli.interop.readers import is_installed, llama_cpp_parity, onnxruntime_parity, transformers_parity
from gptcli.interop.staging import foreign_name, staged_directory, staged_file
from gptcli.models.adapter_config import NoAdapter
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.finite import require_range
from gptcli.storage import write_atomic

Format = Literal["hf", "gguf", "ollama", "onnx", "nanogpt"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CARD = "README.md"
LAST: dict[str, str] = {"hf": CONFIG, "ollama": MODELFILE, "nanogpt": CHECKPOINT}
"""The file without which no program opens the directory, by format."""


class Ability(NamedTuple):
    """The capabilities of a format, and the packages that it needs: (package, extra)."""

    dtypes: tuple[str, ...]
    is_directory: bool = False
    quantizes: bool = False
    needs: tuple[tuple[str, str], ...] = ()


ABILITIES: dict[str, Ability] = {
    "hf": Ability(("f32", "bf16", "f16"), is_directory=True),
    "gguf": Ability(("f32", "bf16", "f16"), quantizes=True, needs=(("gguf", "gguf"),)),
    "ollama": Ability(("f32", "bf16", "f16"), is_directory=True, quantizes=True, needs=(("gguf", "gguf"),)),
    "onnx": Ability(("f32", "f16"), needs=(("onnx", "onnx"), ("onnxscript", "onnx"))),
    "nanogpt": Ability(("f32", "bf16", "f16"), is_directory=True),
}


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of `gptcli export`."""

    model: str
    to: Format
    out: Path
    checkpoint: str = "best"
    dtype: str | None = None
    quantize: str | None = None
    license: str | None = None
    force: bool = False
    """True to replace a file at `out`."""
    merge: bool = True
    """False to write the adapter of a model alone, in the form of PEFT."""


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: the file or directory.
        numbers: the type of the stored weights, such as `f32` or `q8_0`.
        notes: notes for the user, each in a line.
        checks: one for each installed reader.
    """

    path: Path
    format: Format
    numbers: str
    notes: tuple[str, ...]
    checks: tuple[ParityCheck, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return {
            "path": str(self.path),
            "format": self.format,
            "numbers": self.numbers,
            "notes": list(self.notes),
            "proofs": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        """Return a line with what was written, and one for each note and each check."""
        return "\n".join([f"{self.path}: {self.format}, {self.numbers}", *self.notes, *map(str, self.checks)])


def export(request: ExportRequest) -> Exported:
    """Write the model as requested and check what was written.

    An existing file is replaced only with `force`, a directory that is not empty never. The export appears at its place
    when it is whole and checked.

    Raises:
        UsageError: the format cannot hold the model, its tokenizer, or its weights in the requested type; a package is
            missing.
        CheckpointError: there is no such model, or what was written does not compute the same.
        StorageError: the disk is full or the place cannot be written.
    """
    require_able(request)
    loaded = load_model(request.model, checkpoint=request.checkpoint, merge=request.merge)
    merging = merge_checks(loaded, request.model, request.checkpoint) if request.merge else ()
    require_exact(merging, request.out)
    last = LAST.get(request.to) if request.merge else ADAPTER_CONFIG
    with staged_file(request.out) if last is None else staged_directory(request.out, last) as place:
        exported = write(request, loaded, place)
        require_exact(exported.checks, request.out, only_finite=exported.numbers != "f32")
    if request.to == "onnx":
        from gptcli.interop.onnx import remove_unused_weights

        remove_unused_weights(request.out)
    return replace(exported, path=request.out, checks=(*merging, *exported.checks))


def require_able(request: ExportRequest) -> None:
    """Refuse a request that the format or the place rules out, before anything is read."""
    ability = ABILITIES[request.to]
    if request.out.exists() and not (request.out.is_dir() or request.out.is_file()):
        raise UsageError(f"{request.out} is a device or a pipe, which no export replaces", "choose another --out")
    if request.out.is_dir() and not ability.is_directory:
        raise UsageError(f"{request.out} is a directory, and {request.to} is a file", "choose another --out")
    if request.out.is_dir() and (name := foreign_name(request.out)):
        raise UsageError(f"{request.out} is not empty (it holds {name!r})", "choose another --out")
    if request.out.is_file() and not request.force:
        raise UsageError(f"{request.out} exists already", "add --force to replace it, or choose another --out")
    if not request.merge and request.to != "hf":
        raise UsageError(f"--to {request.to} holds no adapter beside its base model", "leave out --no-merge")
    if not request.merge and request.dtype:
        raise UsageError("an adapter is stored in f32", "leave out --dtype")
    if request.dtype and request.quantize:
        raise UsageError("--dtype and --quantize both set how weights are stored", "give one of them")
    if request.quantize and not ability.quantizes:
        able = " or ".join(name for name, other in ABILITIES.items() if other.quantizes)
        raise UsageError(f"--to {request.to} holds no quantized weights", f"choose --to {able}")
    if request.dtype and request.dtype not in ability.dtypes:
        raise UsageError(
            f"--to {request.to} cannot be written in {request.dtype}", f"choose from {', '.join(ability.dtypes)}"
        )
    for package, extra in ability.needs:
        if not is_installed(package):
            raise missing_extra(package, extra, f"--to {request.to}")
    if request.quantize:
        from gptcli.interop.gguf import require_quantization

        require_quantization(request.quantize)


def write(request: ExportRequest, loaded: LoadedModel, place: Path) -> Exported:
    """Write to `place`, a temporary file or directory that becomes the requested one."""
    dtype, name = request.dtype or "f32", os.path.basename(os.path.realpath(request.out))
    if not request.merge:
        return export_adapter(loaded, place, request.model)
    match request.to:
        case "hf":
            return export_huggingface(loaded, place, dtype, request.license, name)
        case "gguf":
            return export_gguf(loaded, place, request.quantize or dtype, request.license, place.stem)
        case "ollama":
            return export_ollama(loaded, place, request.quantize or dtype, request.license, name)
        case "onnx":
            return export_onnx(loaded, place, dtype)
        case "nanogpt":
            return export_nanogpt(loaded, place, dtype, name)


def export_huggingface(loaded: LoadedModel, out: Path, dtype: str, license: str | None, name: str) -> Exported:
    """Write a model directory with a card for `name`; read it back by transformers or, without it, by gptcli."""
    model, tokenizer = converted(loaded.model, dtype), loaded.tokenizer.for_export()
    opened = write_huggingface(model, tokenizer, out, stop_ids=loaded.stop_ids)
    write_atomic(out / CARD, model_card(loaded, name=name, license=license, dtype=dtype, opened=opened))
    family, _ = family_of(loaded.model.config)
    if family is not NATIVE and is_installed("transformers"):
        return Exported(out, "hf", dtype, (opened,), (transformers_parity(loaded, out),))
    notes = [opened] if family is NATIVE else [opened, "transformers is not installed, so it did not check the export"]
    model, _ = read_huggingface(out)
    return Exported(out, "hf", dtype, tuple(notes), (compare(loaded.model, "gptcli", model, parity_ids(loaded)),))


def export_adapter(loaded: LoadedModel, out: Path, model: str) -> Exported:
    """Write the adapter of a model in the form of PEFT, and read it back.

    Raises:
        UsageError: the model has no adapter.
    """
    config, base, _ = loaded.adapter
    if isinstance(config, NoAdapter):
        raise UsageError(f"{model} has no adapter", "leave out --no-merge")
    opened = write_adapter(loaded.model, config, base, loaded.tokenizer.for_export(), out, stop_ids=loaded.stop_ids)
    again = load_model(out, merge=False)
    return Exported(out, "hf", "f32", (opened,), (compare(loaded.model, "gptcli", again.model, parity_ids(loaded)),))


def export_gguf(loaded: LoadedModel, out: Path, numbers: str, license: str | None, name: str) -> Exported:
    """Write a GGUF file; read it back from its own content, and by llama.cpp if llama-cpp-python is installed."""
    from gptcli.interop.gguf import GgufMetadata, read_gguf, write_gguf

    # The scales of quantized weights have 16 bits.
    require_range(loaded.model.state_dict(), DTYPES.get(numbers, torch.float16), "choose --dtype f32")
    metadata = GgufMetadata(name, license, with_chat_ends(loaded.tokenizer, loaded.stop_ids))
    notes = write_gguf(loaded.model, loaded.tokenizer, out, numbers, metadata)
    checks = [compare(loaded.model, f"gguf {version('gguf')}", read_gguf(out), parity_ids(loaded))]
    if is_installed("llama_cpp"):
        checks.append(llama_cpp_parity(loaded, out))
    else:
        notes = (*notes, "llama-cpp-python is not installed, so llama.cpp did not check the export")
    return Exported(out, "gguf", numbers, notes, tuple(checks))


def export_ollama(loaded: LoadedModel, out: Path, numbers: str, license: str | None, name: str) -> Exported:
    """Write a directory with a GGUF file, checked as such, and the Modelfile for `ollama create`."""
    exported = export_gguf(loaded, out / GGUF_FILE, numbers, license, name)
    stop_ids = with_chat_ends(loaded.tokenizer, loaded.stop_ids)
    notes = write_modelfile(out / MODELFILE, loaded.tokenizer, stop_ids, loaded.model.config.context_length)
    return replace(exported, path=out, format="ollama", notes=(*exported.notes, *notes))


def export_onnx(loaded: LoadedModel, out: Path, dtype: str) -> Exported:
    """Write an ONNX graph; run it by onnxruntime if that is installed."""
    from gptcli.interop.onnx import write_onnx

    notes = write_onnx(converted(loaded.model, dtype), out)
    if is_installed("onnxruntime"):
        return Exported(out, "onnx", dtype, notes, (onnxruntime_parity(loaded, out),))
    return Exported(out, "onnx", dtype, (*notes, "onnxruntime is not installed, so the export was not checked"), ())


def export_nanogpt(loaded: LoadedModel, out: Path, dtype: str, name: str) -> Exported:
    """Write a checkpoint of nanoGPT with the characters of data set `name`; read it back as `gptcli import` does."""
    notes = write_nanogpt(converted(loaded.model, dtype), loaded.tokenizer, out, name)
    path = out / CHECKPOINT
    check = compare(loaded.model, "gptcli import", read_nanogpt(read_pickle(path), str(path)), parity_ids(loaded))
    return Exported(out, "nanogpt", dtype, notes, (check,))


def converted(model: GPT, dtype: str) -> GPT:
    """Return a copy of the model in another dtype.

    Raises:
        UsageError: a weight is too large for the dtype.
    """
    if dtype == "f32":
        return model
    require_range(model.state_dict(), DTYPES[dtype], "choose --dtype f32")
    copy = build_model(model.config, device="meta", dtype=DTYPES[dtype])
    copy.load_state_dict({name: t.to(DTYPES[dtype]) for name, t in model.state_dict().items()}, assign=True)
    return copy.eval()
