"""The units of a corpus of examples in the order of its rows, in a folder, before they are split.

all/                token shards of the documents of all units
records.bin         a RECORD of each unit: the digest of its prompt, the bytes of its text, its tokens
spaced.bin          the digest of the prompt of each unit, whose runs of white space are one space
wholes.bin          the digest of each unit
answers.bin         the digest of the last answer of each unit
beginnings.bin      digests of what units begin with, and
owners.bin          the unit of each of them
"""

from __future__ import annotations

import itertools
import shutil
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
NAMES = ("records", "spaced", "wholes", "answers", "beginnings", "owners")
UNITS_AT_ONCE = 512
"""The units that are written at once."""


def masked_writer(directory: Path, tokenizer: Tokenizer) -> ShardWriter:
    """Return a writer of a masked split of documents that bring their special tokens."""
    return ShardWriter(directory, tokenizer.vocab_size, DocumentFraming(None), tokenizer.fingerprint, masked=True)


class UnitWriter:
    """A context manager that writes units into a new folder."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, sizes: TokenSizes) -> None:
        folder.mkdir()
        self.folder, self.sizes, self.count = folder, sizes, 0
        self.waiting: list[EncodedUnit] = []
        self.shards = masked_writer(folder / ALL, tokenizer)
        self.files: dict[str, IO[bytes]] = {name: create_file(folder / f"{name}.bin") for name in NAMES}

    def add(self, unit: EncodedUnit) -> None:
        """Append a unit; all have as many documents."""
        self.waiting.append(unit)
        self.count += 1
        if len(self.waiting) == UNITS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the units that were added since the last call."""
        units, files = self.waiting, self.files
        if not units:
            return
        first, of_unit = self.count - len(units), len(units[0].documents)
        documents = [document for unit in units for document in unit.documents]
        ids = np.concatenate([document.ids for document in documents])
        in_loss = np.concatenate([document.in_loss for document in documents])
        lengths = np.array([len(document.ids) for document in documents])
        sizes = np.add.reduceat(self.sizes.bytes[ids], np.cumsum(lengths) - lengths)
        self.shards.unit_documents = of_unit
        self.shards.add_examples(ids, in_loss, lengths, sizes)
        records = np.empty(len(units), RECORD)
        prompts = np.frombuffer(b"".join(unit.identity.prompt for unit in units), DIGEST)
        records["high"], records["low"] = prompts["high"], prompts["low"]
        records["bytes"], records["characters"] = (
            each.reshape(-1, of_unit).sum(axis=1)
            for each in (sizes, lengths)  # tokens, of which a unit has some
        )
        files["records"].write(records.data)
        files["spaced"].write(b"".join(unit.identity.spaced for unit in units))
        files["wholes"].write(b"".join(unit.identity.whole for unit in units))
        files["answers"].write(b"".join(unit.identity.answer for unit in units))
        files["beginnings"].write(b"".join(one for unit in units for one in unit.identity.beginnings))
        owners = np.repeat(np.arange(first, self.count), [len(unit.identity.beginnings) for unit in units])
        files["owners"].write(owners.astype("<i8").data)
        self.waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        for file in self.files.values():
            file.close()
        self.shards.__exit__(kind, error, traceback)


class Units:
    """The units in a folder, at least one, that a UnitWriter has written; `len()` is their number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = TokenShards.open(folder / ALL)
        self.records = np.memmap(folder / "records.bin", RECORD, mode="r")
        self.spaced = np.memmap(folder / "spaced.bin", DIGEST, mode="r")
        self.wholes = np.memmap(folder / "wholes.bin", DIGEST, mode="r")
        self.answers = np.memmap(folder / "answers.bin", DIGEST, mode="r")

    def __len__(self) -> int:
        return len(self.records)

    def groups(self) -> LinkedGroups:
        """Return the groups of units that have one prompt, but for white space, or of which one is what another begins
        with.
        """
        prompts = (later_occurrences(digests, self.folder) for digests in (self.records, self.spaced))
        pairs = itertools.chain(*prompts, self.continued())
        return LinkedGroups(self.folder, len(self), pairs, keeps_duplicates=True)

    def beginnings(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the units that begin with an earlier answer, (N,), and the digests of what they begin with, (N,)."""
        owners = np.fromfile(self.folder / "owners.bin", "<i8")
        return owners, np.fromfile(self.folder / "beginnings.bin", DIGEST)

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
