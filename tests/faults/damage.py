"""Checkpoints damaged by a disk: a bit flipped, a file cut short. Every damage is found before anything is used."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Nursery
from faults.victim import STEPS, make_corpus, train_command
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run import RunDirectory
from gptcli.errors import CheckpointError

PARTS = ("model", "optimizer")


@dataclass
class Damage:
    """Counts of a campaign: damages made and found, by kind, and what went wrong in words."""

    flips: int = 0
    flips_found: int = 0
    cuts: int = 0
    cuts_found: int = 0
    by_command: int = 0
    failures: list[str] = field(default_factory=list)


def damage_campaign(nursery: Nursery, folder: Path, flips: int, cuts: int, by_command: int, seed: int = 0) -> Damage:
    """Damage the newest checkpoint of a run again and again, each time put back.

    `by_command` of the damages are also shown to `generate`, `eval`, `checkpoint verify` and `train --resume`.
    """
    chance, counts = random.Random(seed), Damage()
    corpus, run = make_corpus(folder), folder / "run"
    assert nursery.run(train_command(corpus, run), folder).code == 0
    newest = RunDirectory(run).checkpoints()[-1].path
    files = sorted(newest.iterdir())
    for number in range(flips + cuts):
        path = chance.choice(files)
        whole = path.read_bytes()
        is_flip = number < flips
        path.write_bytes(flipped(whole, chance) if is_flip else whole[: chance.randrange(len(whole))])
        found = is_found(newest, path)
        counts.flips, counts.cuts = counts.flips + is_flip, counts.cuts + (not is_flip)
        counts.flips_found, counts.cuts_found = (
            counts.flips_found + (found and is_flip),
            counts.cuts_found + (found and not is_flip),
        )
        path.write_bytes(whole)
    for _ in range(by_command):
        path = chance.choice(files)
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, chance))
        counts.failures += shown_to_commands(nursery, folder, corpus, run, path)
        counts.by_command += 1
        path.write_bytes(whole)
    return counts


def flipped(content: bytes, chance: random.Random) -> bytes:
    bit = chance.randrange(8 * len(content))
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def is_found(checkpoint: Path, damaged: Path) -> bool:
    """Whether loading refuses the checkpoint and names the damaged file."""
    try:
        load_checkpoint(checkpoint, PARTS)
    except CheckpointError as error:
        return damaged.name in str(error)
    return False


def shown_to_commands(nursery: Nursery, folder: Path, corpus: Path, run: Path, damaged: Path) -> list[str]:
    """What commands do wrong with a run whose newest checkpoint has a damaged file."""
    wrong = []
    last = ["--checkpoint", "last"]
    for arguments in (["generate", run, "line", *last], ["eval", run, *last], ["checkpoint", "verify", run]):
        command = nursery.run(arguments, folder)
        if command.code != 4 or damaged.name not in command.last_line:
            wrong.append(f"{arguments[0]}, {damaged.name} damaged: exit {command.code}, {command.last_line}")
    copy = folder / "resumed"
    shutil.copytree(run, copy)
    command = nursery.run(train_command(corpus, copy), folder)
    if command.code != 0 or damaged.name not in command.said or f"resumed at step {STEPS - 5} of" not in command.said:
        wrong.append(f"train --resume, {damaged.name} damaged: exit {command.code}, {command.last_line}")
    elif RunDirectory(copy).checkpoints()[-1].damage() is not None:
        wrong.append("train --resume did not replace the damaged checkpoint")
    shutil.rmtree(copy)
    return wrong
