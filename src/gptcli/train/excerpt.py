"""A part of a corpus that is too large to be read whole: files drawn by their hash, so many bytes of them.

What was drawn is kept in the cache as rows, one a document, so that it is read like any other corpus. A document that
is longer than a piece (a million characters) becomes several rows, and the last one is cut.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from gptcli.data.cache import cache_key, only_writer
from gptcli.data.chat import read_template
from gptcli.data.config import READING_KEYS, DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.file_formats import SourceFile
from gptcli.data.passes import look_at
from gptcli.data.prepare import CorpusScan, scan_corpus
from gptcli.data.sources import find_files
from gptcli.storage import atomic_directory


def scan_excerpt(config: DataConfig, corpus_bytes: int | None, cache_dir: Path, seed: int) -> CorpusScan:
    """Scan the corpus of `config`, or only an excerpt of about `corpus_bytes` of it if it has more than that.

    Raises:
        DataError, StorageError: as `scan_corpus`.
    """
    if corpus_bytes is None:
        return scan_corpus(config.corpus, config, cache_dir, seed)
    files = find_files(config.corpus, config, cache_dir)
    settings = config.model_dump(mode="json", include=set(READING_KEYS) - {"chat_template"})
    settings["chat_template"] = read_template(config.chat_template)
    entry = cache_dir / "excerpts" / cache_key([look_at(file) for file in files], settings, corpus_bytes, seed)
    with only_writer(entry):
        if not entry.exists():
            with atomic_directory(entry) as folder, (folder / "excerpt.jsonl").open("w", encoding="utf-8") as out:
                for text in drawn_texts(files, config, corpus_bytes, seed):
                    out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    rows = config.model_copy(update={"format": "auto", "text_field": "text", "document_separator": None})
    return scan_corpus([str(entry / "excerpt.jsonl")], rows, cache_dir, seed)


def drawn_texts(files: list[SourceFile], config: DataConfig, wanted: int, seed: int) -> Iterator[str]:
    """Documents of files drawn by the hash of their names: `wanted` bytes of UTF-8, or all if there are fewer."""
    for file in in_drawn_order(files, seed):
        for piece in read_pieces(file, config):
            content = piece.text.encode()
            yield piece.text if len(content) <= wanted else content[:wanted].decode(errors="ignore")
            wanted -= len(content)
            if wanted <= 0:
                return


def in_drawn_order(files: list[SourceFile], seed: int) -> list[SourceFile]:
    """The files in an order that depends on the seed and on where they lie below their common folder, not on where that
    lies: a corpus that is moved gives the same excerpt."""
    root = os.path.commonpath([file.path.absolute().parent for file in files])

    def draw(file: SourceFile) -> bytes:
        return hashlib.blake2b(f"{seed}/{file.path.absolute().relative_to(root)}".encode()).digest()

    return sorted(files, key=draw)
