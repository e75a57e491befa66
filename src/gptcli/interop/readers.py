"""Parity checks by other programs: the same tokens through the exported file and through the model.

Each program is imported only here, and only if it is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcli.errors import CheckpointError
from gptcli.interop.auto_tokenizer import tokenizer_class_for, tried_texts
from gptcli.interop.load import LoadedModel
from gptcli.interop.parity import ParityCheck, compare, parity_ids
from gptcli.tokenizer.tokenizer import Tokenizer


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    return find_spec(package) is not None


def transformers_parity(loaded: LoadedModel, directory: Path) -> ParityCheck:
    """Check a model directory with transformers in fp32, and its tokenizer, which must give the same ids.

    Raises:
        CheckpointError: transformers does not open the directory, or its tokenizer differs.
    """
    with quiet():
        import transformers

        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        try:
            theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(directory)
            theirs = theirs.float().eval()
            opener = tokenizer_class_for(theirs.config.model_type, loaded.tokenizer.spec())
            tokenizer = getattr(transformers, opener).from_pretrained(directory)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"transformers does not open {directory}: {error}", "do not use it") from error
        ids = parity_ids(loaded)
        for text in (loaded.tokenizer.decode(ids.flatten().numpy()), *tried_texts(loaded.tokenizer)):
            # A special token that is quoted in a text is text, as for our tokenizer.
            encoded = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            require_same_ids("transformers", loaded.tokenizer, text, encoded)
            require_same_text("transformers", loaded.tokenizer, encoded, tokenizer)
        return compare(loaded.model, f"transformers {transformers.__version__}", lambda rows: theirs(rows).logits, ids)


def llama_cpp_parity(loaded: LoadedModel, path: Path) -> ParityCheck:
    """Check a GGUF file with llama.cpp (through llama-cpp-python), with an fp32 cache, and its tokenizer.

    Raises:
        CheckpointError: llama.cpp does not open the file, or its tokenizer differs.
    """
    import llama_cpp

    ids = parity_ids(loaded)
    length = ids.shape[1]
    try:
        llama = llama_cpp.Llama(
            model_path=str(path),
            n_ctx=length,
            n_batch=length,
            n_gpu_layers=0,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            verbose=False,
        )
    except ValueError as error:
        raise CheckpointError(f"llama.cpp does not open {path}: {error}", "do not use it") from error

    def logits(rows: Tensor) -> Tensor:
        found = []
        for row in rows.tolist():
            llama.reset()
            llama.eval(row)
            found.append(torch.from_numpy(llama.scores[:length].copy()))
        return torch.stack(found)

    text, normalizer = loaded.tokenizer.decode(ids.flatten().numpy()), loaded.tokenizer.backend.normalizer
    text = normalizer.normalize_str(text) if normalizer else text  # llama.cpp does not normalize
    require_same_ids("llama.cpp", loaded.tokenizer, text, llama.tokenize(text.encode(), add_bos=False, special=False))
    return compare(loaded.model, f"llama-cpp-python {llama_cpp.__version__}", logits, ids)


def onnxruntime_parity(loaded: LoadedModel, path: Path) -> ParityCheck:
    """Check an ONNX file with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def logits(rows: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"input_ids": rows.numpy()})[0])

    return compare(loaded.model, f"onnxruntime {onnxruntime.__version__}", logits, parity_ids(loaded))


def require_same_ids(reader: str, tokenizer: Tokenizer, text: str, theirs: Sequence[int]) -> None:
    """Refuse a tokenizer that gives a text other ids than ours.

    Raises:
        CheckpointError: it does; the message names the first token that differs.
    """
    ours = tokenizer.encode(text)
    if ours == list(theirs):
        return
    first = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
    raise CheckpointError(
        f"{reader} gives a text {len(theirs)} tokens, of which number {first + 1} is the first to differ from our "
        f"{len(ours)}",
        "use --to hf, and report this",
    )


def require_same_text(reader: str, tokenizer: Tokenizer, ids: Sequence[int], theirs: Any) -> None:
    """Refuse a tokenizer that decodes `ids` to another text than ours.

    Raises:
        CheckpointError: it does.
    """
    if theirs.decode(ids, skip_special_tokens=True) != tokenizer.decode(ids):
        raise CheckpointError(f"{reader} decodes {len(ids)} tokens to another text", "do not use it; report this")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings that other libraries log during the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
