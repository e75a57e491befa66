"""Token shards: one split as a stream of tokens in memory-mapped files, with the place of each document.

    index.json            the sizes of the split, and the size and SHA-256 of every file
    tokens-00000.bin ...  the tokens, uint16 if the vocabulary fits, else uint32; all files but the last are full
    document-starts.bin   for each document a uint64: its start in the stream
    document-bytes.bin    for each document a uint64: the UTF-8 bytes of its text
    loss-mask.bin         in a split of examples for each token a bit: whether it is in the loss

Each document is framed as the tokenizer says (`DocumentFraming`): [BOS] doc1 [EOS] [BOS] doc2 [EOS], or with one token
that is both, [EOS] doc1 [EOS] doc2. The documents of a masked split are examples, whose special tokens are their own:
it has no framing. The directory is self-contained and can be copied.
"""

from __future__ import annotations

import copy
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from gptcli import strict_json
from gptcli.console import shell_word
from gptcli.data.cache import WHOLE, VerifiedShare
from gptcli.data.framed import framed
from gptcli.data.loss_mask import BYTE, MASK, MaskPacker, read_bits
from gptcli.data.shard_index import BYTES, COUNT, FORMATS, INDEX, STARTS, token_file_name, write_index
from gptcli.data.stored_files import REMEDY, MappedFile, StoredBytes, different
from gptcli.errors import DataError
from gptcli.storage import LARGE, create_file, read_regular, storage_errors
from gptcli.tokenizer.framing import DocumentFraming

SHARD_BYTES = 1 << 28
READ_TOKENS = 1 << 22


class ShardWriter:
    """A context manager that writes one split into an empty directory; the split is whole when the block ends well."""

    def __init__(
        self,
        directory: Path,
        vocab_size: int,
        framing: DocumentFraming,
        fingerprint: str,
        shard_bytes: int = SHARD_BYTES,
        *,
        masked: bool = False,
    ) -> None:
        if masked and framing.overhead:
            raise ValueError("the documents of a masked split have no framing")
        self.directory, self.vocab_size, self.framing, self.fingerprint = directory, vocab_size, framing, fingerprint
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self.tokens_per_file = shard_bytes // self.dtype.itemsize
        self.tokens = self.bytes = self.documents = 0
        self.document_bytes = 0
        self.unit_documents = 1
        """The consecutive documents that are used together only: 2 where they are the two answers of preferences."""
        self.hashes: dict[str, Any] = {}
        self.open_files: dict[str, IO[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self.create(STARTS)
        self.create(BYTES)
        self.mask = MaskPacker(lambda packed: self.append(MASK, packed)) if masked else None
        if masked:
            self.create(MASK)

    def add_examples(self, ids: np.ndarray, in_loss: np.ndarray, lengths: np.ndarray, sizes: np.ndarray) -> None:
        """Append documents, each of at least one token, to a masked split.

        The first token of a document, which nothing precedes, is never in the loss.

        Args:
            ids: (N,) the ids of all documents.
            in_loss: (N,) bool, whether each is in the loss.
            lengths: (documents,) the tokens of each document.
            sizes: (documents,) the bytes of the text of each.

        Raises:
            DataError: As `add`.
        """
        if self.mask is None or not len(ids) == len(in_loss) == lengths.sum():
            raise ValueError("examples have masks of their lengths, and are written to a masked split")
        self.require_known(ids)
        starts, mask = np.cumsum(lengths) - lengths, np.array(in_loss)
        mask[starts] = False
        self.begin_documents(self.tokens + starts, sizes, 0)
        self.write(ids)
        self.mask.add(mask)

    def add(self, ids: np.ndarray, size: int, starts: bool) -> None:
        """Append ids (N,) of `size` bytes of text; they begin a document if `starts`.

        Raises:
            DataError: An id is not below the vocabulary size, which is a fault of the tokenizer.
        """
        self.add_all([ids], [size], [starts])

    def add_all(self, ids: Sequence[np.ndarray], sizes: Sequence[int], starts: Sequence[bool]) -> None:
        """Append several arrays of ids at once, as `add` does one after another."""
        lengths, begins = np.array([len(some) for some in ids]), np.asarray(starts, dtype=bool)
        joined = ids[0] if len(ids) == 1 else np.concatenate(ids)
        self.require_known(joined)
        places = np.cumsum(lengths) - lengths  # the place in `joined` at which each array of ids begins
        firsts = np.flatnonzero(begins)
        joined, document_starts = framed(joined.astype(self.dtype), places[firsts], self.framing, not self.documents)
        sums = np.concatenate(([0], np.cumsum(sizes)))
        edges = sums[np.append(firsts, len(sizes))]  # bytes before each document that begins, and in all
        self.begin_documents(self.tokens + document_starts, np.diff(edges), int(edges[0]))
        self.write(joined)

    def require_known(self, ids: np.ndarray) -> None:
        """Raise a DataError if one of the ids is not below the vocabulary size."""
        if len(ids) and int(ids.max()) >= self.vocab_size:
            raise DataError(
                f"the tokenizer gave token {int(ids.max())}, but its vocabulary has {self.vocab_size}",
                "it is damaged: use another",
            )

    def append_split(self, shards: TokenShards, continues: bool) -> None:
        """Append a whole split of the same tokenizer; if it `continues`, its first document is the rest of the last."""
        if not shards.documents:
            return
        if shards.is_masked != (self.mask is not None):
            raise ValueError("only splits that have a mask can be joined to one that has")
        self.unit_documents = shards.unit_documents
        if self.documents and not continues:
            self.write(self.framing.after)
        skipped = len(self.framing.before) if continues else 0
        kept = len(shards) - len(self.framing.after)  # its last document may continue in the next split
        starts = self.tokens - skipped + shards.document_starts.astype(np.int64)
        sizes = shards.sizes.array.astype(np.int64)
        rest = int(sizes[0]) if continues else 0
        self.begin_documents(starts[int(continues) :], sizes[int(continues) :], rest)
        for start in range(skipped, kept, READ_TOKENS):
            self.write(shards.read(start, min(start + READ_TOKENS, kept)))
            if self.mask is not None:
                self.mask.add(shards.read_mask(start, min(start + READ_TOKENS, kept)))

    def begin_documents(self, starts: np.ndarray, sizes: np.ndarray, rest: int) -> None:
        """Add `rest` bytes to the document that is being written, and then documents with these starts and sizes."""
        self.document_bytes += rest
        self.bytes += rest + int(np.sum(sizes, dtype=np.int64))
        if len(starts):
            self.end_document()
            self.append(STARTS, starts.astype(COUNT))
            self.append(BYTES, sizes[:-1].astype(COUNT))
            self.documents += len(starts)
            self.document_bytes = int(sizes[-1])

    def write(self, ids: np.ndarray | Sequence[int]) -> None:
        """Append to the current file, and to the next one when it is full."""
        ids = np.ascontiguousarray(ids, dtype=self.dtype)
        while len(ids):
            number, used = divmod(self.tokens, self.tokens_per_file)
            name = token_file_name(number)
            if used == 0:
                if number:
                    self.open_files.pop(token_file_name(number - 1)).close()
                self.create(name)
            part, ids = ids[: self.tokens_per_file - used], ids[self.tokens_per_file - used :]
            self.append(name, part)
            self.tokens += len(part)

    def end_document(self) -> None:
        """Write the size of the document that ends here."""
        if self.documents:
            self.append(BYTES, np.array([self.document_bytes], dtype=COUNT))
            self.document_bytes = 0

    def create(self, name: str) -> None:
        """Create a file of the split."""
        self.open_files[name] = create_file(self.directory / name)
        self.hashes[name] = hashlib.sha256()

    def append(self, name: str, values: np.ndarray) -> None:
        """Append values to a file of the split."""
        self.open_files[name].write(values.data)
        self.hashes[name].update(values.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None and self.documents:
            self.write(self.framing.after)
            self.end_document()
        if kind is None and self.mask is not None:
            self.mask.end()
        for file in self.open_files.values():
            file.close()
        if kind is None:
            self.write_index()

    def write_index(self) -> None:
        """Write the index, once everything else is written."""
        write_index(
            self.directory,
            {name: digest.hexdigest() for name, digest in self.hashes.items()},
            dtype=self.dtype.name,
            tokens=self.tokens,
            tokens_per_file=self.tokens_per_file,
            bytes=self.bytes,
            documents=self.documents,
            vocab_size=self.vocab_size,
            framing=self.framing,
            tokenizer_fingerprint=self.fingerprint,
            **({} if self.mask is None else {"masked": True, "targets": self.mask.targets}),
            **({} if self.unit_documents == 1 else {"unit_documents": self.unit_documents}),
        )


class TokenShards:
    """A split in a directory that a ShardWriter has written; `len()` is the number of its tokens, framing included."""

    def __init__(self, directory: Path, index: dict[str, Any]) -> None:
        self.directory = directory
        self.index = index
        self.dtype = np.dtype(index["dtype"])
        self.vocab_size: int = index["vocab_size"]
        self.framing = DocumentFraming(index["eot_id"], None if index["format"] == 1 else index["end_id"])
        self.bytes: int = index["bytes"]
        """The UTF-8 bytes of the text."""
        self.documents: int = index["documents"]
        self.tokenizer_fingerprint: str = index["tokenizer_fingerprint"]
        self.elsewhere: list[dict[str, Any]] = index.get("elsewhere", [])
        """The tokens in files of another program: "path", "size", "offset", "tokens" and "sha256" of each stretch."""
        unplaced = [{key: value for key, value in part.items() if key != "path"} for part in self.elsewhere]
        described = index | {"elsewhere": unplaced} if unplaced else index
        self.fingerprint = hashlib.sha256(strict_json.dumps(described, sort_keys=True).encode()).hexdigest()
        """A hash of the tokens, the document boundaries and the tokenizer, wherever the files lie: the index has their
        hashes."""
        self.stored_elsewhere = [
            StoredBytes(Path(part["path"]), part["offset"], part["tokens"] * self.dtype.itemsize, part["sha256"])
            for part in self.elsewhere
        ]
        names = [name for name in sorted(index["files"]) if name not in (STARTS, BYTES, MASK)]
        self.files = [self.map(name, self.dtype) for name in names] + [
            MappedFile(Path(part["path"]), self.dtype, part["size"], part["offset"], part["tokens"])
            for part in self.elsewhere
        ]
        self.edges = [0, *accumulate(len(file.array) for file in self.files)]
        """The place in the stream at which each file begins, and the end of the stream."""
        self.starts, self.sizes = self.map(STARTS, COUNT), self.map(BYTES, COUNT)
        self.is_masked: bool = index.get("masked", False)
        """Whether only some tokens are in the loss, as `read_mask` says."""
        self.unit_documents: int = index.get("unit_documents", 1)
        """The consecutive documents that are used together only: 2 where they are the two answers of preferences."""
        self.reference: np.ndarray | None = None
        """The nats of each token under the model that preferences are measured from, (tokens,) fp32, once known."""
        self.mask = self.map(MASK, BYTE) if self.is_masked else None
        if self.mask is not None and len(self.mask.array) != (len(self) + 7) // 8:
            raise ValueError(f"{MASK} has {len(self.mask.array):,} bytes for {len(self):,} tokens")

    @classmethod
    def open(cls, directory: Path, *, elsewhere: bool = False) -> TokenShards:
        """Map the files of a directory; with `elsewhere`, for the cache alone, also files outside it that it names.

        Raises:
            DataError: It holds no shards, or a file is missing, cut short or of another form.
        """
        path = directory / INDEX
        if not path.is_file():
            raise DataError(f"{directory} holds no token shards ({INDEX} is missing)", "check the path")
        try:
            with storage_errors(path, "read"):
                index = strict_json.parse(read_regular(path, LARGE))
            if index["format"] not in FORMATS:
                known = ", ".join(map(str, FORMATS))
                raise DataError(f"{directory} is of format {index['format']}, and only {known} can be read", REMEDY)
            if index.get("elsewhere") and not elsewhere:
                raise DataError(f"{directory} names files outside of it, which are not opened", REMEDY)
            return cls(directory, index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged: {error!r}", REMEDY) from error

    def map(self, name: str, dtype: np.dtype[Any]) -> MappedFile:
        """Map a file of the split."""
        path = self.directory / name
        if Path(name).name != name or not path.is_file():
            raise DataError(f"{path} is missing", REMEDY)
        return MappedFile(path, dtype, self.index["files"][name]["size"])

    def __len__(self) -> int:
        return int(self.index["tokens"])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens start..stop-1 of the stream, (stop - start,) of `dtype`; they may be in several files.

        Raises:
            IndexError: They are not within the stream.
            DataError: A file was cut short, or a token is not below the vocabulary size.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}..{stop} of {len(self)}")
        parts = []
        position = start
        while position < stop:
            number = bisect_right(self.edges, position) - 1
            file, offset = self.files[number], position - self.edges[number]
            file.check()
            parts.append(file.array[offset : offset + stop - position])
            position += len(parts[-1])
        tokens = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])
        if len(tokens) and tokens.max() >= self.vocab_size:
            raise DataError(
                f"{self.directory} holds token {tokens.max()}, but its vocabulary has {self.vocab_size}", REMEDY
            )
        return tokens

    def read_mask(self, start: int, stop: int) -> np.ndarray:
        """Return whether each of tokens start..stop-1 is in the loss, (stop - start,) bool; without a mask all are.

        Raises:
            IndexError: They are not within the stream.
            DataError: The file was cut short.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}..{stop} of {len(self)}")
        if self.mask is None:
            return np.ones(stop - start, dtype=bool)
        self.mask.check()
        return read_bits(self.mask.array, start, stop)

    def with_reference(self, nats: np.ndarray) -> Self:
        """Return the same split with the nats of each token under a reference model, (tokens,) fp32."""
        shards = copy.copy(self)
        shards.reference = nats
        return shards

    @property
    def document_starts(self) -> np.ndarray:
        """The start of each document in the stream, with the token before it: (documents,) uint64, ascending."""
        self.starts.check()
        return self.starts.array

    def document_bounds(self, number: int) -> tuple[int, int]:
        """Return the positions in the stream at which a document's text, without its framing, starts and stops.

        In a file of tokens that another program wrote the first or last document may lack a part of the framing.
        """
        starts = self.document_starts
        start = int(starts[number])
        stop = int(starts[number + 1]) if number + 1 < self.documents else len(self)
        if start < stop and self.read(start, start + 1)[0] == self.framing.begin_id:
            start += 1
        if start < stop and self.read(stop - 1, stop)[0] == self.framing.end_id:
            stop -= 1
        return start, stop

    def document(self, number: int) -> np.ndarray:
        """Return the tokens of a document's text, without its framing."""
        return self.read(*self.document_bounds(number))

    @property
    def targets(self) -> int:
        """The number of targets: those of the mask, or else all tokens but the first of the stream and those that
        `mask_begin_tokens` masks.
        """
        if self.is_masked:
            return int(self.index["targets"])
        return len(self) - 1 - (0 if self.framing.end_id is None else max(0, self.documents - 1))

    def document_bytes(self, number: int) -> int:
        """Return the UTF-8 bytes of a document's text."""
        self.sizes.check()
        return int(self.sizes.array[number])

    def iter_documents(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield (tokens of the text, its UTF-8 bytes) for each document."""
        return ((self.document(number), self.document_bytes(number)) for number in range(self.documents))

    def verify(self) -> None:
        """Read every file and compare it with its SHA-256 in the index.

        Raises:
            DataError: A file is damaged; the message names it.
        """
        files = [
            StoredBytes(self.directory / name, 0, known["size"], known["sha256"])
            for name, known in self.index["files"].items()
        ]
        for file in different(files):
            raise DataError(f"{file.path} is damaged (its SHA-256 is another)", REMEDY)
        self.verify_elsewhere()

    def verify_elsewhere(self, share: VerifiedShare = WHOLE) -> None:
        """Verify the files of another program that hold the tokens, or one process's share of them, as `verify`."""
        for file in different(self.stored_elsewhere[share.number :: share.of]):
            raise DataError(
                f"{file.path} is damaged: its SHA-256 is not the one that was recorded when it was first read",
                f"restore it from a copy or, if it is right as it is, read it again: touch {shell_word(file.path)}",
            )
