"""A disk that fills up while a corpus is prepared: an error that says what is needed and what is free, nothing
half-written, and the right tokens once there is room."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from faults.disk import small_file_system
from faults.nursery import Command, Nursery
from gptcli.storage import TEMPORARY_MARK

DEDUPLICATE = ("exact", "none")
"""The second one maps files of group numbers, as many as there are documents."""


@dataclass
class FullDisks:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


def full_disk_campaign(nursery: Nursery, folder: Path, trials: int, again: int, seed: int = 0) -> FullDisks:
    """Prepare a corpus with its cache on `trials` file systems that may be too small; `again`: after how many of them
    once more with what they hold on a large one."""
    counts, chance = FullDisks(), random.Random(seed)
    corpus = many_documents(folder / "rows.jsonl", chance)
    whole, size = {}, 0
    for deduplicate in DEDUPLICATE:
        cache = folder / f"whole-{deduplicate}"
        command = nursery.run(prepare(corpus, cache, deduplicate), folder)
        assert command.code == 0, command.said
        whole[deduplicate] = tokens_in(cache)
        assert whole[deduplicate]
        size = max(size, sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()))
    for number in range(trials):
        deduplicate = chance.choice(DEDUPLICATE)
        with small_file_system(folder / "small", chance.randrange(16_384, 2 * size)) as place:
            command = nursery.run(prepare(corpus, place / "cache", deduplicate), folder)
            counts.trials += 1
            counts.failed += command.code != 0
            counts.failures += wrong_after(command, place)
            roomy = folder / "roomy"
            if number < again and (place / "cache").exists():
                shutil.copytree(place / "cache", roomy)
        if number < again:
            command = nursery.run(prepare(corpus, roomy, deduplicate), folder)
            if command.code != 0 or tokens_in(roomy) != whole[deduplicate]:
                counts.failures.append(f"with room again: exit {command.code}, {command.last_line}")
            shutil.rmtree(roomy)
    return counts


def many_documents(path: Path, chance: random.Random) -> Path:
    words = [f"word{number}" for number in range(200)]
    with path.open("w") as out:
        for _ in range(1500):
            out.write(json.dumps({"text": " ".join(chance.choices(words, k=chance.randrange(2, 12)))}) + "\n")
    return path


def prepare(corpus: Path, cache: Path, deduplicate: str) -> list[str]:
    settings = [f"--set=data.deduplicate={deduplicate}", "--set=data.tokenizer.name=byte"]
    return ["data", "prepare", str(corpus), "--cache-dir", str(cache), *settings]


def tokens_in(cache: Path) -> set[str]:
    """Hashes of the token files of a cache."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in cache.glob("tokens/*/*/tokens-*.bin")}


def wrong_after(command: Command, place: Path) -> list[str]:
    """Everything that a command did wrong that may have found the disk full."""
    wrong = []
    if command.code not in (0, 5) or "Traceback" in command.said:
        wrong.append(f"exit {command.code}: {command.said[-300:]}")
    if command.code == 5 and not ("bytes" in command.last_line and "free" in command.last_line):
        wrong.append(f"no bytes that are free in: {command.last_line}")
    left = [str(path.relative_to(place)) for path in place.rglob(f"*{TEMPORARY_MARK}*")]
    return [*wrong, *(f"{name} is left" for name in left)]
