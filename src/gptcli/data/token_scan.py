"""A corpus that another program has already cut into tokens: it is read in place and checked once.

The cache keeps the places where the documents of the training split begin; the tokens stay in their own files. The
validation split is copied, so that a run directory holds it whole. Such tokens mean nothing without the tokenizer that
made them, which the user names. Documents are framed as the files show, not as the tokenizer would do it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gptcli import strict_json
from gptcli.console import Progress, quantity
from gptcli.data.cache import cache_key, new_entry, only_writer, require_whole
from gptcli.data.config import DataConfig
from gptcli.data.file_formats import SourceFile
from gptcli.data.lost_text import write_lost_text
from gptcli.data.overlap import write_overlap
from gptcli.data.scan import SCAN, EncodedScan, ScanSummary, is_current
from gptcli.data.shard_index import BYTES, COUNT, STARTS, token_file_name, write_index
from gptcli.data.shards import TokenShards
from gptcli.data.sources import find_files
from gptcli.data.split import default_val_bytes
from gptcli.data.token_files import Stretch, TokenFile, cut, is_token_file, open_token_file, validation_beside
from gptcli.data.token_sizes import TokenSizes
from gptcli.data.versions import look_at, require_same
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError
from gptcli.storage import HUGE, create_file, read_regular, sha256_file, write_file
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer

SAMPLE_TOKENS = 1 << 20


@dataclass(frozen=True)
class TokenScan(EncodedScan):
    """A scan of tokens, whose documents are not compared; the framing of the tokenizer is the one that they show."""

    def report(self) -> dict[str, Any]:
        """Return the figures for data.json."""
        return super().report() | {"deduplicate": None}


def scan_tokens(sources: Sequence[str], workspace: Workspace) -> TokenScan:
    """Check the files and find their documents, or take the result from the cache if no file has changed since.

    The validation split is `data.val`, else a file for it beside the others (val.bin), else the last tokens.

    Raises:
        DataError: Texts are mixed in, the tokenizer is not named, a file is damaged, or a token is not in the
            vocabulary.
    """
    config, cache_dir = workspace.config, workspace.cache_dir
    if not all(is_token_file(source) for source in sources) or not is_token_file(config.val or ".bin"):
        raise DataError("texts and files of tokens (.bin) cannot be one corpus", "name either the ones or the others")
    if config.deduplicate == "near":
        raise DataError("documents of tokens are not compared (data.deduplicate=near)", "leave data.deduplicate out")
    train = find_files(sources, config, cache_dir).files
    val = find_files([config.val], config, cache_dir).files if config.val else validation_beside(train)
    validating = {os.path.realpath(file.path) for file in val}
    train = [file for file in train if os.path.realpath(file.path) not in validating]
    if not train:
        raise DataError("nothing is left to train on: every file is one to validate on", "name other files")
    tokenizer = named_tokenizer(config, train[0])
    looked_ns = time.time_ns()
    looked = look_at([*val, *train])
    key = cache_key("token files and what they show", looked, len(val), tokenizer.fingerprint, config.val_fraction)
    entry = cache_dir / "tokens" / key
    with only_writer(entry):
        from_cache = is_current(entry, looked)
        if not from_cache:
            with new_entry(entry) as folder:
                opened = [open_token_file(file) for file in train], [open_token_file(file) for file in val]
                tokenizer = tokenizer.with_framing(shown_framing(tokenizer, [*opened[0], *opened[1]]))
                fields = write_splits(folder, *opened, tokenizer, config.val_fraction)
                shards = [TokenShards.open(folder / name, elsewhere=True) for name in ("val", "train")]
                write_overlap(folder, shards[:1], shards[1:])
                summary = ScanSummary(files=tuple(looked), looked_ns=looked_ns, **fields)
                write_file(folder / SCAN, strict_json.dumps(asdict(summary)))
                tokenizer.save(folder / "tokenizer")
                report = open_token_scan(folder, config, from_cache).report()
                write_file(folder / "report.json", strict_json.dumps(report, indent=2) + "\n")
                require_same(looked)
        require_whole(entry)
        return open_token_scan(entry, config, from_cache)


def open_token_scan(entry: Path, config: DataConfig, from_cache: bool) -> TokenScan:
    """Open the scan of token files in a directory of the cache, which must be verified before."""
    fields = ScanSummary.fields_of(strict_json.parse(read_regular(entry / SCAN, HUGE).decode()))
    tokenizer = load_tokenizer(entry / "tokenizer")
    return TokenScan(
        **fields, config=config, passed_over=(), tokenizer=tokenizer, directory=entry, from_cache=from_cache
    )


def named_tokenizer(config: DataConfig, file: SourceFile) -> Tokenizer:
    """Return the tokenizer that the user names for the tokens, which cannot be one that is learnt from a text."""
    if config.tokenizer.name in ("char", "bpe"):
        beside = file.path.with_name("meta.pkl")
        pickled = f" ({beside} is a pickle, which could run any program, and is not read)" if beside.exists() else ""
        raise DataError(
            f"{file.name} holds tokens and not their tokenizer{pickled}",
            "name the one that made them: --set data.tokenizer=file:PATH (a tokenizer.json, or a folder with GPT-2's "
            "vocab.json and merges.txt), hf:NAME or byte",
        )
    return build_tokenizer(config.tokenizer, lambda: iter(()))


def shown_framing(tokenizer: Tokenizer, files: Sequence[TokenFile]) -> DocumentFraming:
    """Return the framing of the tokenizer without the tokens that do not occur in `files`.

    The files are read until each of the tokens has occurred.
    """
    missing = {id for id in (tokenizer.bos_id, tokenizer.eos_id) if id is not None}
    for ids in (ids for file in files for ids in Stretch(file, 0, file.tokens).chunks()):
        missing -= {id for id in missing if (ids == id).any()}
        if not missing:
            break
    shown = [None if id in missing else id for id in (tokenizer.bos_id, tokenizer.eos_id)]
    return DocumentFraming.of(*shown)


def write_splits(
    folder: Path, train: list[TokenFile], val: list[TokenFile], tokenizer: Tokenizer, fraction: float | None
) -> dict[str, Any]:
    """Write both splits to `folder`, and return the fields of `ScanSummary` about them."""
    kinds = {file.dtype for file in (*train, *val)}
    if len(kinds) > 1:
        raise DataError("the files hold tokens of different widths", "name files that one program wrote")
    total, sizes = sum(file.tokens for file in train), TokenSizes(tokenizer)
    if val:
        place, rule = total, "validation on " + ", ".join(file.name for file in val[:3])
        validated = cut(val, 0, sum(file.tokens for file in val))
    else:
        place = place_of_cut(train, sizes, total, fraction)
        rule = f"the last {100 * (total - place) / total:.3g} % of the tokens"
        validated = cut(train, place, total)
    with Progress("check", total + sum(file.tokens for file in val), unit="tokens", scale=True) as progress:
        splits = [
            write_split(folder / name, stretches, sizes, progress, is_copy=name == "val")
            for name, stretches in (("train", cut(train, 0, place)), ("val", validated))
        ]
    write_lost_text(folder, [sizes.lost_text(split.counts) for split in splits])
    return {
        "train": sizes.statistics(splits[0].documents, splits[0].counts),
        "val": sizes.statistics(splits[1].documents, splits[1].counts),
        "unseen_characters": len(sizes.characters_of(splits[1].counts) - sizes.characters_of(splits[0].counts)),
        **dict.fromkeys(("duplicates", "duplicate_bytes", "blank", "overlap", "overlap_bytes", "grouped", "cut_at"), 0),
        **{"refused": (), "replaced": 0, "separator_warning": ""},
        "split_rule": rule,
        "fingerprint": hashlib.sha256("".join(split.digest.hexdigest() for split in splits).encode()).hexdigest(),
    }


def place_of_cut(files: list[TokenFile], sizes: TokenSizes, total: int, fraction: float | None) -> int:
    """Return the first token to validate on; by default the share is that of a text of the same size."""
    if total < 4:
        raise DataError(f"{files[0].name} holds {quantity(total, 'token')}", "it takes four to train and to validate")
    if fraction is None:
        sample = next(Stretch(files[0], 0, min(files[0].tokens, SAMPLE_TOKENS)).chunks())
        sizes.check(sample, files[0].name, 0)
        text_bytes = max(1.0, float(sizes.bytes[sample].mean()) * total)
        fraction = default_val_bytes(int(text_bytes) or 1) / text_bytes
    return min(max(int(total * (1 - fraction)), 2), total - 2)


class TokenSplit:
    """One split as it is read: the counts of its tokens, and the starts and sizes of its documents."""

    def __init__(self, sizes: TokenSizes, starts: IO[bytes], lengths: IO[bytes]) -> None:
        self.sizes, self.starts, self.lengths = sizes, starts, lengths
        self.counts = np.zeros(sizes.vocab_size, dtype=np.int64)
        self.tokens = self.documents = self.carried = 0
        self.digest = hashlib.sha256()

    def add(self, ids: np.ndarray) -> None:
        """Add tokens. A document begins at the first of all, and with each token that begins one."""
        self.digest.update(ids.astype("<u4").data)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        begin = self.sizes.tokenizer.framing.begin_id
        begins = np.empty(0, dtype=np.int64) if begin is None else np.flatnonzero(ids == begin)
        if not self.tokens and (not len(begins) or begins[0]):
            begins = np.concatenate(([0], begins))
        bytes_before = np.concatenate(([0], np.cumsum(self.sizes.bytes[ids])))
        first, *others = np.diff(bytes_before[np.concatenate(([0], begins, [len(ids)]))]).tolist()
        self.carried += first
        if len(begins):
            ended = [self.carried, *others[:-1]][0 if self.documents else 1 :]
            self.starts.write((begins + self.tokens).astype(COUNT).data)
            self.lengths.write(np.array(ended, dtype=COUNT).data)
            self.carried = others[-1]
        self.documents += len(begins)
        self.tokens += len(ids)

    def end(self) -> None:
        """Write the size of the last document."""
        if self.documents:
            self.lengths.write(np.array([self.carried], dtype=COUNT).data)


def write_split(
    folder: Path, stretches: list[Stretch], sizes: TokenSizes, progress: Progress, *, is_copy: bool
) -> TokenSplit:
    """Write token shards of the stretches: a copy of their tokens if `is_copy`, else a reference to them.

    Raises:
        DataError: A token is not in the vocabulary.
    """
    folder.mkdir(parents=True)
    elsewhere: list[dict[str, Any]] = []
    names = [STARTS, BYTES, *([token_file_name(0)] if is_copy else [])]
    with contextlib.ExitStack() as stack:
        starts, lengths, *copies = (stack.enter_context(create_file(folder / name)) for name in names)
        split = TokenSplit(sizes, starts, lengths)
        for stretch in stretches:
            digest, position = hashlib.sha256(), stretch.first
            for ids in stretch.chunks():
                sizes.check(ids, stretch.file.name, position)
                split.add(ids)
                digest.update(ids.data)
                for copy in copies:
                    copy.write(ids.data)
                position += len(ids)
                progress.update(len(ids))
            elsewhere.append(
                {
                    "path": str(stretch.file.path.absolute()),
                    "size": stretch.file.size,
                    "offset": stretch.offset,
                    "tokens": stretch.length,
                    "sha256": digest.hexdigest(),
                }
            )
        split.end()
    write_index(
        folder,
        {name: sha256_file(folder / name) for name in names},
        dtype=stretches[0].file.dtype.name,
        tokens=split.tokens,
        tokens_per_file=max(1, split.tokens),
        bytes=int(split.counts @ sizes.bytes),
        documents=split.documents,
        vocab_size=sizes.vocab_size,
        framing=sizes.tokenizer.framing,
        tokenizer_fingerprint=sizes.tokenizer.fingerprint,
        **({} if is_copy else {"elsewhere": elsewhere}),
    )
    return split
