"""Permissions of everything that is written in a run, a cache, exports and an imported model, by umask."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from faults.exports import FORMATS, trained
from faults.nursery import Nursery

UMASKS = (0o022, 0o077, 0o002, 0o027)


@dataclass
class Modes:
    """Counts of a campaign, and what went wrong in words."""

    files: int = 0
    failures: list[str] = field(default_factory=list)


def set_umask(mask: str) -> None:
    """A hook of the nursery."""
    os.umask(int(mask, 8))


def mode_campaign(nursery: Nursery, folder: Path, umasks: tuple[int, ...] = UMASKS) -> Modes:
    """Run what writes under each umask, and look at all that it has written; data of another umask is in the cache."""
    counts = Modes()
    runs = trained(nursery, folder)
    corpus = folder / "corpus.txt"
    for mask in umasks:
        place = folder / f"{mask:03o}"
        cache = ["--cache-dir", place / "cache"]
        settings = [
            "--set=train.max_steps=5",
            f"--config={runs['hf'] / 'run.toml'}",
            "--set=train.sample_every_steps=5",
        ]
        commands: list[list[object]] = [
            ["train", corpus, "--out", place / "run", *settings, *cache],
            ["train", corpus, "--out", place / "warm", *settings],
            ["tokenizer", "train", corpus, "--out", place / "tokenizer", "--vocab-size", "300"],
            *(["export", runs[to], "--to", to, "--out", place / "exports" / to] for to in FORMATS),
            ["import", place / "exports" / "hf", "--out", place / "imported"],
        ]
        for arguments in commands:
            command = nursery.run(arguments, folder, hook=f"faults.modes:set_umask {mask:o}")
            if command.code:
                counts.failures.append(
                    f"{arguments[0]} under umask {mask:03o}: exit {command.code}, {command.last_line}"
                )
        for path in place.rglob("*"):
            counts.files += 1
            found = stat.S_IMODE(path.lstat().st_mode)
            if found != (0o777 if path.is_dir() else 0o666) & ~mask:
                counts.failures.append(f"{path.relative_to(folder)} has {found:03o} under umask {mask:03o}")
    return counts
