"""A corpus of any size, made of a smaller one: its documents again and again, with other words each time.

Half of it are rows of documents as they are, a quarter is one long text, a quarter are rows of a sentence or two; one
row in twenty is a duplicate. The same arguments give the same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gptcli import strict_json

ROW_CHARACTERS = 4000
SMALL_CHARACTERS = 120
ROW_FILES = 8
WORD = re.compile(r"[A-Za-z]{4,}")
CHANGED = 0.05
"""Part of the words that get other letters in each copy."""


def write_large_corpus(folder: Path, texts: Sequence[str], wanted: int, seed: int = 0) -> None:
    """Write files of about `wanted` bytes in all into an empty folder."""
    generator = random.Random(seed)
    rows = changed_rows(texts, ROW_CHARACTERS, generator)
    for number in range(ROW_FILES):
        write_rows(folder / f"rows-{number}.jsonl", rows, wanted // 2 // ROW_FILES, generator)
    write_rows(folder / "small.jsonl", changed_rows(texts, SMALL_CHARACTERS, generator), wanted // 4, generator)
    with (folder / "long.txt").open("w", encoding="utf-8", newline="") as out:
        left = wanted // 4
        for text in changed_rows(texts, 100 * ROW_CHARACTERS, generator):
            left -= len(text.encode())
            if left < 0:
                break
            out.write(text)


def changed_rows(texts: Sequence[str], characters: int, generator: random.Random) -> Iterator[str]:
    """Yield pieces of the texts without end, each time with other words."""
    while True:
        letters = "".join(generator.sample("abcdefghijklmnopqrstuvwxyz", 26))
        table = str.maketrans("abcdefghijklmnopqrstuvwxyz", letters)
        words = {word for text in texts for word in WORD.findall(text)}
        other = {word: word.translate(table) for word in sorted(words) if generator.random() < CHANGED}

        def change(found: re.Match[str], other: dict[str, str] = other) -> str:
            return other.get(found[0], found[0])

        for text in texts:
            changed = WORD.sub(change, text)
            for start in range(0, len(changed), characters):
                yield changed[start : start + characters]


def write_rows(path: Path, rows: Iterator[str], wanted: int, generator: random.Random) -> None:
    """Write rows of about `wanted` bytes, one in twenty of which is a duplicate."""
    lately = ""
    with path.open("w", encoding="utf-8") as out:
        for text in rows:
            line = strict_json.dumps({"text": text}) + "\n"
            if lately and generator.random() < 0.05:
                line = lately
            elif generator.random() < 0.1:
                lately = line
            out.write(line)
            wanted -= len(line)
            if wanted < 0:
                return
