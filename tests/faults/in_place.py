"""The baseline: the usual scheme, `torch.save` to one file again and again, under the same faults."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.damage import flipped
from faults.nursery import Command, Nursery
from faults.victim import INTERVAL, make_corpus, train_command
from gptcli import strict_json
from gptcli.train.verify_resume import last_step

FILE = "ckpt.pt"
LARGER = {"model__n_embd": 192, "model__n_layer": 2, "train__max_steps": 60}
"""A model whose file takes long enough to write that a kill can be aimed at it, and more steps than are waited for."""
LONGEST_WRITE = 0.01
"""Seconds, about, that it takes."""


@dataclass
class Baseline:
    """Counts of a campaign."""

    kills_within_a_save: int = 0
    unreadable: int = 0
    flips: int = 0
    flips_found: int = 0
    cuts: int = 0
    cuts_found: int = 0


class InPlaceSaver:
    """Stands in for `BackgroundSaver`."""

    def __init__(self, run: Any, **kept: Any) -> None:
        self.path, self.step, self.seconds = run.checkpoints_dir / FILE, None, None

    def submit(self, step: int, parts: Mapping[str, Any], state: Mapping[str, Any], before: Callable[[], None]) -> None:
        import torch

        self.step = step
        before()
        torch.save({**parts, "state": strict_json.dumps(dict(state))}, self.path)

    def has(self, step: int) -> bool:
        return self.step == step

    def wait(self) -> None:
        return None


def install(argument: str) -> None:
    """As a hook of the nursery."""
    from gptcli.train import loop

    loop.BackgroundSaver = InPlaceSaver


def baseline_campaign(nursery: Nursery, folder: Path, kills: int, flips: int, cuts: int, seed: int = 0) -> Baseline:
    """Kill within a save `kills` times, then damage a whole file."""
    chance, counts = random.Random(seed), Baseline()
    corpus, hook = make_corpus(folder), "faults.in_place:install"
    assert nursery.run(train_command(corpus, folder / "whole", **LARGER), folder, hook=hook).code == 0
    size = (folder / "whole" / "checkpoints" / FILE).stat().st_size
    while counts.kills_within_a_save < kills:
        run = folder / f"run-{counts.kills_within_a_save}"
        command = nursery.start(train_command(corpus, run, **LARGER), folder, hook=hook)
        path = run / "checkpoints" / FILE
        if wait_for_a_write(command, run, path, size, chance):
            command.kill()
            counts.kills_within_a_save += 1
            counts.unreadable += not is_readable(path)
        else:
            command.kill()
        shutil.rmtree(run, ignore_errors=True)
    path = folder / "whole" / "checkpoints" / FILE
    assert is_readable(path), "what is found damaged below must have been whole"
    content = path.read_bytes()
    for number in range(flips + cuts):
        is_flip = number < flips
        path.write_bytes(flipped(content, chance) if is_flip else content[: chance.randrange(len(content))])
        found = not is_readable(path)
        counts.flips, counts.cuts = counts.flips + is_flip, counts.cuts + (not is_flip)
        counts.flips_found += found and is_flip
        counts.cuts_found += found and not is_flip
    return counts


def wait_for_a_write(command: Command, run: Path, path: Path, size: int, chance: random.Random) -> bool:
    """Return in the midst of a save after the first; False if the command has ended before."""
    wanted = chance.randint(2, 8) * INTERVAL
    while command.is_running():
        with contextlib.suppress(FileNotFoundError):
            if last_step(run) >= wanted and path.stat().st_size < size:
                time.sleep(chance.uniform(0, LONGEST_WRITE))
                return True
    return False


def is_readable(path: Path) -> bool:
    """Whether torch reads it without an error."""
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of many kinds: EOFError, RuntimeError, UnpicklingError, ...
        return False
    return True
