"""The units of a corpus of examples in the order of its rows, in a folder, before they are split.

all/                token shards of the documents of all units
records.bin         a RECORD of each unit: the digest of its prompt, the bytes of its text, its tokens
wholes.bin          the digest of each unit
answers.bin         the digest of the last answer of each unit
beginnings.bin      digests of what units begin with, and
owners.bin          the unit of each of them
"""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np

from gptcli.data.duplicates import later_occurrences
from gptcli.data.examples.encode import EncodedUnit
from gptcli.data.examples.identity import DIGEST
from gptcli.data.groups import LinkedGroups
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.split import RECORD
from gptcli.data.token_sizes import TokenSizes
from gptcli.storage import create_file, open_regular
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer

ALL, ENDS = "all", "ends.bin"
NAMES = ("records", "wholes", "answers", "beginnings", "owners")
SIZES = struct.Struct("<2Q")
PLACE = struct.Struct("<q")


def masked_writer(directory: Path, tokenizer: Tokenizer) -> ShardWriter:
    """Return a writer of a masked split of documents that bring their special tokens."""
    return ShardWriter(directory, tokenizer.vocab_size, DocumentFraming(None), tokenizer.fingerprint, masked=True)


class UnitWriter:
    """A context manager that writes units into a new folder."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, sizes: TokenSizes) -> None:
        folder.mkdir()
        self.folder, self.sizes, self.count = folder, sizes, 0
        self.shards = masked_writer(folder / ALL, tokenizer)
        self.files: dict[str, IO[bytes]] = {name: create_file(folder / f"{name}.bin") for name in NAMES}

    def add(self, unit: EncodedUnit) -> None:
        """Append a unit."""
        text_bytes = tokens = 0
        self.shards.unit_documents = len(unit.documents)
        for ids, in_loss in unit.documents:
            size = int(self.sizes.bytes[ids].sum())
            self.shards.add_examples(ids, in_loss, np.array([len(ids)]), np.array([size]))
            text_bytes, tokens = text_bytes + size, tokens + len(ids)
        identity, files = unit.identity, self.files
        files["records"].write(identity.prompt + SIZES.pack(text_bytes, tokens))
        files["wholes"].write(identity.whole)
        files["answers"].write(identity.answer)
        files["beginnings"].write(b"".join(identity.beginnings))
        files["owners"].write(PLACE.pack(self.count) * len(identity.beginnings))
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self.files.values():
            file.close()
        self.shards.__exit__(kind, error, traceback)


class Units:
    """The units in a folder, at least one, that a UnitWriter has written; `len()` is their number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = TokenShards.open(folder / ALL)
        self.records = np.memmap(folder / "records.bin", RECORD, mode="r")
        self.wholes = np.memmap(folder / "wholes.bin", DIGEST, mode="r")
        self.answers = np.memmap(folder / "answers.bin", DIGEST, mode="r")

    def __len__(self) -> int:
        return len(self.records)

    def groups(self) -> LinkedGroups:
        """Return the groups of units that have one prompt, or of which one is what another begins with."""
        pairs = itertools.chain(later_occurrences(self.records, self.folder), self.continued())
        return LinkedGroups(self.folder, len(self), pairs, keeps_duplicates=True)

    def continued(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the units that begin with all of another unit, and these others."""
        with create_file(self.folder / ENDS) as out:
            for name in ("wholes", "beginnings"):  # in this order, so that the first of equal ones is a whole if any is
                with open_regular(self.folder / f"{name}.bin") as file:
                    shutil.copyfileobj(file, out)
        owners = np.append(np.arange(len(self)), np.fromfile(self.folder / "owners.bin", "<i8"))
        ends = np.memmap(self.folder / ENDS, DIGEST, mode="r")
        for places, firsts in later_occurrences(ends, self.folder):
            is_whole = firsts < len(self)
            yield owners[places[is_whole]], owners[firsts[is_whole]]
