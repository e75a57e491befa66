"""A subset of a corpus that is too large to be read whole: files drawn by their hash, up to a number of bytes.

The subset is kept in the cache as rows, one a document, so that it is read like any other corpus. A document that is
longer than a piece (a million characters) becomes several rows, and the last row is cut.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.data.cache import cache_key, is_whole, new_entry, only_writer
from gptcli.data.chat import read_template
from gptcli.data.config import READING_KEYS, DataConfig
from gptcli.data.corpus import nothing_readable_error, read_pieces, refusal
from gptcli.data.decoding import Decoding
from gptcli.data.field_names import FieldNames
from gptcli.data.file_formats import SourceFile
from gptcli.data.left_out import LeftOut
from gptcli.data.mix import MixScan, scan_mix
from gptcli.data.readers import ScannedFile
from gptcli.data.scan import scan_texts
from gptcli.data.separator_check import separator_warning
from gptcli.data.sources import find_files
from gptcli.data.versions import is_settled, look_at, require_same
from gptcli.data.workspace import Workspace
from gptcli.storage import HUGE, create_text_file, read_regular, write_file

EXCERPT, NOTICES = "excerpt.jsonl", "notices.json"


def scan_subset(workspace: Workspace, corpus_bytes: int | None) -> MixScan:
    """Scan the corpora of `workspace`, or a subset of about `corpus_bytes` of its single corpus, if that has more.

    Raises:
        DataError, StorageError: as `scan_mix`.
    """
    if corpus_bytes is None:
        return scan_mix(workspace)
    config, cache_dir, seed = workspace.config, workspace.cache_dir, workspace.seed
    files, passed_over = find_files(config.corpus, config, cache_dir)
    settings = config.model_dump(mode="json", include=set(READING_KEYS) - {"chat_template"})
    settings["chat_template"] = read_template(config.chat_template)
    looked_ns, looked = time.time_ns(), look_at(files)
    entry = cache_dir / "excerpts" / cache_key(looked, settings, corpus_bytes, seed)
    with only_writer(entry):
        if not (is_whole(entry) and is_settled(looked, notices_of(entry)["looked_ns"])):
            with new_entry(entry) as folder:
                notices = write_subset(folder / EXCERPT, files, looked, config, corpus_bytes, seed)
                write_file(folder / NOTICES, strict_json.dumps(notices | {"looked_ns": looked_ns}))
                require_same(looked)
        notices = notices_of(entry)
    rows = config.model_copy(
        update={
            **{"format": "auto", "text_field": "text", "fields": FieldNames()},
            **{"document_separator": None, "encoding": "utf-8"},
        }
    )
    scan = replace(
        scan_texts([str(entry / EXCERPT)], replace(workspace, config=rows)),
        refused=tuple(LeftOut(*one) for one in notices["refused"]),
        passed_over=tuple(passed_over),
        replaced=notices["replaced"],
        separator_warning=notices["separator_warning"],
    )
    scan.say_notices()
    return MixScan.of_one(scan)


def notices_of(entry: Path) -> dict[str, Any]:
    """Return what a scan of the whole corpus would say about it; see `write_subset`."""
    notices: dict[str, Any] = strict_json.parse(read_regular(entry / NOTICES, HUGE).decode())
    return notices


def write_subset(
    path: Path, files: list[SourceFile], looked: list[ScannedFile], config: DataConfig, corpus_bytes: int, seed: int
) -> dict[str, Any]:
    """Write the subset as rows, and return what a scan of the whole corpus would say about it.

    Args:
        path: the file to write.
        files: the files of the corpus.
        looked: the same files as `look_at` found them.
        config: how they are read.
        corpus_bytes: the size of the subset.
        seed: the seed of the draw.
    """
    refused: list[LeftOut] = []
    decoding = Decoding.of(config)
    with create_text_file(path) as out:
        for text in drawn_texts(files, config, corpus_bytes, seed, decoding, refused):
            out.write(strict_json.dumps({"text": text}, ensure_ascii=False) + "\n")
    if not path.stat().st_size and refused:
        raise nothing_readable_error(refused)
    is_declared = config.document_separator is not None
    names = {one.name for one in refused}
    readable = [file for file in looked if file.name not in names]
    return {
        "refused": refused,
        "replaced": decoding.replaced,
        "separator_warning": "" if is_declared else separator_warning(readable, config),
    }


def drawn_texts(
    files: list[SourceFile], config: DataConfig, wanted: int, seed: int, decoding: Decoding, refused: list[LeftOut]
) -> Iterator[str]:
    """Yield documents of files drawn by the hash of their names: `wanted` bytes of UTF-8, or all if there are fewer.

    A file of a folder whose wanted part cannot be read is added to `refused` instead.
    """
    for file in in_drawn_order(files, seed):
        reason = refusal(file, config, wanted) if file.is_optional else None
        if reason is not None:
            refused.append(LeftOut(file.name, *reason))
            continue
        for piece in read_pieces(file, config, decoding=decoding):
            content = piece.text.encode()
            yield piece.text if len(content) <= wanted else content[:wanted].decode(errors="ignore")
            wanted -= len(content)
            if wanted <= 0:
                return


def in_drawn_order(files: list[SourceFile], seed: int) -> list[SourceFile]:
    """Return the files in an order that depends on the seed and on their paths below their common folder.

    A corpus that is moved therefore gives the same subset.
    """
    root = os.path.commonpath([file.path.absolute().parent for file in files])

    def draw(file: SourceFile) -> bytes:
        return hashlib.blake2b(f"{seed}/{file.path.absolute().relative_to(root)}".encode()).digest()

    return sorted(files, key=draw)
