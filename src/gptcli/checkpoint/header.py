"""Checks of a safetensors file's header, before the library parses the file.

The format: 8 bytes of little-endian header length, a JSON header (name -> dtype, shape, [begin, end)), then the data
(https://github.com/huggingface/safetensors). Reads no tensor.
"""

from __future__ import annotations

import struct
from pathlib import Path

from gptcli import strict_json
from gptcli.errors import CheckpointError
from gptcli.storage import open_regular

MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 2**16


def require_sane_header(path: Path) -> None:
    """Check that the header is bounded and that the tensors it names fill the file exactly once, without overlap.

    Raises:
        CheckpointError: the header is wrong; the message says how.
    """
    size = path.stat().st_size
    with open_regular(path) as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise CheckpointError(f"{path} is damaged or hostile: its header claims {length:,} bytes")
        text = file.read(length)
    try:
        entries = {name: entry for name, entry in strict_json.parse(text).items() if name != "__metadata__"}
        if len(entries) > MAX_TENSORS:
            raise ValueError(f"{len(entries):,} tensors")
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        end = 0
        for begin, stop in spans:
            if begin != end or stop < begin:
                raise ValueError("tensors overlap or leave gaps")
            end = stop
        if end != size - 8 - length:
            raise ValueError("tensors do not fill the file")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or hostile: bad safetensors header: {error}") from error
