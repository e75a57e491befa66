"""The corpus of stories: its sampling from the grammar, its files, and the lowest possible cross-entropy.

**The floor.** Each story is an independent draw from a distribution P over texts, which `engine.py` evaluates exactly.
The floor of a set of stories is its cross-entropy under P itself,

    -sum(log2 P(story)) / sum(UTF-8 bytes of story)        bits per byte.

A model that gives the stories probabilities Q has the cross-entropy -sum(log2 Q(story)) / bytes. Its expectation over
draws exceeds that of P by the Kullback-Leibler divergence, which is never negative (Gibbs), so P is the best possible
model. On one finite set a model may be better than P by chance, but hardly: for a Q fixed before the set was drawn, the
probability that Q gives it k bits *more* than P does is at most 2^-k (Markov's inequality on Q/P, whose mean under P is
at most 1). A result 0.001 bits per byte below the floor on 200 kB needs k = 200. This does not hold for a model that
was trained on the set, which is why exact duplicates are dropped before the split.

**Bytes.** The bytes of the stories count, without the separators between them. No story is a prefix of a longer one
(`Parse.longer` is zero), so an end-of-document event has probability one under P and costs nothing; the floor is the
same whether or not an evaluation scores that event.

**Duplicates.** A story that has been drawn before is replaced by another draw. With about 100 bits a story that has
never happened in the shipped corpus, and it changes the distribution by less than any printed digit.

Needs the standard library alone.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from stories.engine import Grammar, Sample
from stories.notation import read_grammar

VERSION = 1
SEED = 1
SIZE = 2_000_000
SEPARATOR = "\n\n\n"
"""Separates the stories of a text file (two blank lines); no story contains it."""

GRAMMAR = Path(__file__).parent / "grammar"


class Floor(NamedTuple):
    """The cross-entropy of some documents under the distribution that they were drawn from."""

    documents: int
    bytes: int
    bits: float

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes

    def as_dict(self) -> dict[str, float]:
        return {**self._asdict(), "bits": round(self.bits, 4), "bits_per_byte": round(self.bits_per_byte, 8)}


@cache
def load_grammar() -> Grammar:
    return read_grammar(sorted(GRAMMAR.rglob("*.txt")), start="story")


def draw_stories(size: int = SIZE, seed: int = SEED) -> Iterator[Sample]:
    """Yield distinct stories of `seed`, `size` bytes in all (separators included)."""
    grammar, rng, drawn, seen = load_grammar(), random.Random(seed), 0, set()
    while drawn < size:
        story = grammar.sample(rng)
        if story.text in seen:
            continue
        seen.add(story.text)
        drawn += len((story.text + SEPARATOR).encode())
        yield story


def floor(documents: Iterable[str]) -> Floor:
    """Return the floor of `documents`, by parsing each.

    Raises:
        NotFromGrammarError: the grammar cannot produce one of them.
        ValueError: there are no documents.
    """
    grammar, sizes, bits = load_grammar(), [], []
    for text in documents:
        sizes.append(len(text.encode()))
        bits.append(grammar.parse(text).bits)
    if not sizes:
        raise ValueError("no documents: the floor is not defined")
    return Floor(len(sizes), sum(sizes), math.fsum(bits))


def read_documents(text: str) -> list[str]:
    """Return the documents of a file: JSON lines (strings, or objects with `text`), or text divided by SEPARATOR."""
    if text.startswith(("{", '"')):
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            return [row if isinstance(row, str) else row["text"] for row in rows]
        except json.JSONDecodeError:
            pass  # a story may begin with a quotation mark
    return [document for part in text.split(SEPARATOR) if (document := part.strip("\n"))]


def corpus_files(size: int = SIZE, seed: int = SEED) -> dict[str, bytes]:
    """Return the files of the corpus by name: the stories, their statistics, and the bits of each."""
    stories = list(draw_stories(size, seed))
    text = SEPARATOR.join(story.text for story in stories).encode()
    total = Floor(len(stories), sum(len(s.text.encode()) for s in stories), math.fsum(s.bits for s in stories))
    about = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "separator": SEPARATOR,
        "sha256": hashlib.sha256(text).hexdigest(),
        "file_bytes": len(text),
        **total.as_dict(),
    }
    lines = ["sha256\tbytes\tbits"]
    lines += [f"{digest(s.text)}\t{len(s.text.encode())}\t{s.bits:.6f}" for s in stories]
    return {
        "stories.txt": text,
        "stories.json": (json.dumps(about, indent=2) + "\n").encode(),
        "stories.bits.tsv": ("\n".join(lines) + "\n").encode(),
    }


def digest(text: str) -> str:
    """Return the key of a story in `stories.bits.tsv`: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
