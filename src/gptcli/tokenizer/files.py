"""Tokenizers on disk: tokenizer.json, GPT-2's vocab.json with merges.txt, and tokenizer_config.json beside them.

Every error is a TokenizerError that names the file. Knows nothing of what the ids mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tokenizers
from tokenizers import models

from gptcli.errors import TokenizerError
from gptcli.storage import storage_errors, write_atomic
from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER, byte_level_tokenizer
from gptcli.tokenizer.special import END_OF_TEXT

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
VOCAB_FILE, MERGES_FILE = "vocab.json", "merges.txt"

Built = TypeVar("Built")

WHAT_TO_GIVE = f"give a {TOKENIZER_FILE}, or a folder with one or with GPT-2's {VOCAB_FILE} and {MERGES_FILE}"


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json, or a folder that holds one or vocab.json and merges.txt.

    Raises:
        TokenizerError: it is missing, damaged, or no tokenizer.
        StorageError: a file cannot be read.
    """
    if not path.exists():
        raise TokenizerError(f"tokenizer {path} does not exist", WHAT_TO_GIVE)
    if path.is_file():
        return read_tokenizer_json(path)
    if (path / TOKENIZER_FILE).exists():
        return read_tokenizer_json(path / TOKENIZER_FILE)
    vocabulary, merges = path / VOCAB_FILE, path / MERGES_FILE
    present = [file for file in (vocabulary, merges) if file.exists()]
    if not present:
        raise TokenizerError(f"{path} holds no tokenizer", WHAT_TO_GIVE)
    if len(present) == 1:
        missing = merges if present == [vocabulary] else vocabulary
        raise TokenizerError(f"{path} has {present[0].name} but no {missing.name}", "GPT-2's vocabulary needs both")
    return read_vocab_and_merges(vocabulary, merges)


def read_settings(folder: Path) -> dict[str, Any]:
    """The contents of tokenizer_config.json, empty where there is none."""
    path = folder / SETTINGS_FILE
    return read_json(path) if path.exists() else {}


def write_files(folder: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Write tokenizer.json and tokenizer_config.json, each whole or not at all."""
    write_atomic(folder / TOKENIZER_FILE, backend.to_str(pretty=True))
    write_atomic(folder / SETTINGS_FILE, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object."""
    with storage_errors(path, "read"):
        content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}", WHAT_TO_GIVE) from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds no JSON object", WHAT_TO_GIVE)
    return value


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json without what would change the ids of a text: truncation, padding and BPE dropout."""
    spec = read_json(path)
    if not isinstance(spec.get("model"), dict):
        raise TokenizerError(f"{path} is no tokenizer: it has no model", WHAT_TO_GIVE)
    spec = {**spec, "truncation": None, "padding": None}
    if "dropout" in spec["model"]:
        spec["model"] = {**spec["model"], "dropout": None}
    return build(path, lambda: tokenizers.Tokenizer.from_str(json.dumps(spec)))


def read_vocab_and_merges(vocabulary: Path, merges: Path) -> tokenizers.Tokenizer:
    """The byte-level BPE of GPT-2's release: its split pattern, and <|endoftext|> where the vocabulary has it."""
    words = read_json(vocabulary)
    model = build(vocabulary.parent, lambda: models.BPE.from_file(str(vocabulary), str(merges)))
    missing = BYTE_OF_CHARACTER.keys() - words.keys()
    if missing:
        raise TokenizerError(
            f"{vocabulary} is no byte-level vocabulary: {len(missing)} bytes lack a token", WHAT_TO_GIVE
        )
    backend = byte_level_tokenizer(model, split_words=True)
    if END_OF_TEXT in words:
        backend.add_special_tokens([END_OF_TEXT])
    return backend


def build(path: Path, read: Callable[[], Built]) -> Built:
    """Run a reader of `tokenizers`, whose errors are plain Exceptions, or panics of its Rust code."""
    try:
        return read()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path} is no tokenizer that the tokenizers library can read: {error}") from error
