"""Checkpoints and runs damaged by a disk: a bit flipped, a file cut short. Every damage is found before it is used."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Nursery
from faults.victim import STEPS, make_corpus, train_command
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.report import verify_files
from gptcli.checkpoint.run_directory import RunDirectory
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


@dataclass
class RunDamage:
    """Counts of a campaign over all files of finished runs: bits flipped, and what went wrong in words."""

    flips: int = 0
    found: int = 0
    """By `checkpoint verify`."""
    by_command: int = 0
    """Flips after which `generate` and `eval` were run too."""
    refused: int = 0
    """Commands that ended with an error that names the damaged file; all others gave the output of the whole run."""
    files: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


def run_damage_campaign(nursery: Nursery, folder: Path, flips: int, by_command: int, seed: int = 0) -> RunDamage:
    """Flip one bit in any file of a finished run, of the same run without its checkpoints, and of a run that started
    from it, each time put back: each is found, and no command gives another output without a word."""
    chance, counts = random.Random(seed), RunDamage()
    corpus, whole = make_corpus(folder), folder / "whole"
    assert nursery.run(train_command(corpus, whole, train__sample_every_steps=50), folder).code == 0
    passed_on, started = folder / "passed-on", folder / "started"
    shutil.copytree(whole, passed_on, ignore=shutil.ignore_patterns("checkpoints"))
    short = ["--set=train.max_steps=10", "--set=train.eval_tokens=256", "--set=device=cpu"]
    command = nursery.run(["train", corpus, "--init-from", whole, "--out", started, *short], folder)
    assert command.code == 0, command.said
    runs = [whole, passed_on, started]
    outputs = {run: outputs_of(nursery, run, folder) for run in runs}
    for number in range(flips):
        run = runs[number % len(runs)]
        path = chance.choice([file for file in sorted(run.rglob("*")) if file.is_file() and file.stat().st_size])
        content = path.read_bytes()
        path.write_bytes(flipped(content, chance))
        counts.flips += 1
        counts.files.add(path.name)
        if names_damage(run, path):
            counts.found += 1
        else:
            counts.failures.append(f"checkpoint verify did not find a bit flipped in {path.relative_to(folder)}")
        if number < by_command:
            counts.by_command += 1
            found = zip(outputs_of(nursery, run, folder), outputs[run], strict=True)
            for (code, said, text), (_, _, expected) in found:
                is_refused = code != 0 and path.name in said
                counts.refused += is_refused
                if not is_refused and (code, text) != (0, expected):
                    counts.failures.append(f"{path.relative_to(folder)} damaged: exit {code}, {said or text}")
        path.write_bytes(content)
    return counts


def outputs_of(nursery: Nursery, run: Path, folder: Path) -> list[tuple[int, str, str]]:
    """(exit code, last line of stderr, stdout) of the commands that use a run."""
    commands = (["generate", run, "line", "--max-new-tokens", "20"], ["eval", run])
    ended = [nursery.run(arguments, folder) for arguments in commands]
    return [(command.code, command.last_line, command.stdout_path.read_text()) for command in ended]


def names_damage(run: Path, damaged: Path) -> bool:
    """Whether verifying the run refuses it and names the damaged file."""
    try:
        verify_files(run).raise_if_damaged()
    except CheckpointError as error:
        return damaged.name in str(error)
    return False
