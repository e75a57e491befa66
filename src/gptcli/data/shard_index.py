"""The index of token shards, and the names of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.storage import write_file
from gptcli.tokenizer.framing import DocumentFraming

FORMATS = (1, 2, 3)
"""1: `eot_id` is the token before each document, or null. 2: there is also `end_id`, the token after each document.
3: there is a loss mask (`masked`), and no token around documents. A split is written in the first format that fits."""
INDEX, STARTS, BYTES = "index.json", "document-starts.bin", "document-bytes.bin"
COUNT = np.dtype("<u8")


def write_index(directory: Path, hashes: dict[str, str], *, framing: DocumentFraming, **values: Any) -> None:
    """Write the index of a split whose files, with these SHA-256 hashes, are whole in `directory`.

    Args:
        values: The other fields of the index.
    """
    files = {
        name: {"size": (directory / name).stat().st_size, "sha256": digest} for name, digest in sorted(hashes.items())
    }
    values["eot_id"] = framing.begin_id
    number = 3 if values.get("masked") else 1 if framing.end_id is None else 2
    ended = {} if number == 1 else {"end_id": framing.end_id}
    index = {"format": number, **values, **ended, "files": files}
    write_file(directory / INDEX, strict_json.dumps(index, indent=2) + "\n")


def token_file_name(number: int) -> str:
    """Return the name of a file of tokens."""
    return f"tokens-{number:05d}.bin"
