"""Counts of the text that the tokenizer of prepared data loses, which are kept beside the tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.data.stored_files import REMEDY
from gptcli.errors import DataError
from gptcli.storage import read_regular, write_file
from gptcli.tokenizer.lost_text import LostText
from gptcli.tokenizer.tokenizer import Tokenizer

LOST_TEXT = "lost-text.json"
PARTS = {"train": "the training text", "val": "the validation text"}
"""The splits, in the order in which they are kept, and their names in words."""


def write_lost_text(folder: Path, parts: Sequence[LostText]) -> None:
    """Write the lost text of the training and of the validation split beside their tokens in `folder`."""
    kept = {name: part.as_json() for name, part in zip(PARTS, parts, strict=True)}
    write_file(folder / LOST_TEXT, strict_json.dumps(kept, indent=2) + "\n")


def read_lost_text(folders: Sequence[Path], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the counts that `write_lost_text` has written, summed over `folders`, as JSON can write them.

    Raises:
        DataError: A folder has no counts, and the tokenizer may lose text.
    """
    parts = {name: LostText() for name in PARTS}
    for folder in folders:
        path = folder / LOST_TEXT
        if path.is_file():
            kept = strict_json.parse(read_regular(path).decode())
            parts = {name: part + LostText.of_json(kept[name]) for name, part in parts.items()}
        elif not tokenizer.is_lossless:
            raise DataError(f"{path} is missing", REMEDY)
    return {name: part.as_json() for name, part in parts.items()}


def lost_text_of(report: Mapping[str, Any], part: str) -> LostText:
    """Return the lost text of a split by a report of prepared data; it is empty if the report has no counts."""
    values = (report.get("lost_text") or {}).get(part)
    return LostText.of_json(values) if values else LostText()


def lost_text_warnings(report: Mapping[str, Any]) -> list[str]:
    """Return warnings about the text that the tokenizer loses: a sentence for each split that loses some."""
    sentences = (lost_text_of(report, part).words(name) for part, name in PARTS.items())
    return [sentence for sentence in sentences if sentence]
