"""Two trainings on one directory, begun at the same moment: one runs, the other names it and leaves at once."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Command, Nursery
from faults.victim import make_corpus, newest_good, train_command

STEPS = 20
LONGEST = 10.0
"""Seconds that the one which is refused may take on a busy machine; what it took is reported."""


@dataclass
class Races:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    longest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def race_campaign(nursery: Nursery, folder: Path, trials: int) -> Races:
    counts = Races()
    corpus, run = make_corpus(folder), folder / "run"
    command = train_command(corpus, run, train__max_steps=STEPS)
    for _ in range(trials):
        shutil.rmtree(run, ignore_errors=True)
        began = time.monotonic()
        first, second = nursery.start(command, folder), nursery.start(command, folder)
        ended: dict[int, float] = {}
        while len(ended) < 2:
            for number, started in enumerate((first, second)):
                if number not in ended and not started.is_running():
                    ended[number] = time.monotonic() - began
            time.sleep(0.001)
        counts.trials += 1
        counts.failures += wrong_after(first, second, ended, run, counts)
    return counts


def wrong_after(first: Command, second: Command, ended: dict[int, float], run: Path, counts: Races) -> list[str]:
    """What two trainings at once did wrong. The later one may also find the run done, and say so."""
    refused = [number for number, command in enumerate((first, second)) if command.code == 2]
    if newest_good(run) != STEPS:
        return [f"the run is at step {newest_good(run)}"]
    if sorted((first.code, second.code)) == [0, 0]:
        return []  # one came after the other, and found all done
    if sorted((first.code, second.code)) != [0, 2]:
        return [f"exit {first.code} and {second.code}: {first.last_line} / {second.last_line}"]
    loser, winner = ((first, second), (second, first))[refused[0]]
    counts.longest_seconds = max(counts.longest_seconds, ended[refused[0]])
    wrong = [] if f"process {winner.pid}" in loser.last_line else [f"it does not name {winner.pid}: {loser.last_line}"]
    return wrong + ([f"it took {ended[refused[0]]:.1f} s"] if ended[refused[0]] > LONGEST else [])
