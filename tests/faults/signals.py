"""SIGTERM, SIGINT and SIGUSR1 in each phase of a training: it saves and leaves, in time, with the right code."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.kills import sleep_while_running, wait_for_a_save
from faults.nursery import Command, Nursery
from faults.victim import make_corpus, newest_good, train_command
from gptcli.train.verify_resume import first_difference, last_step

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STEPS = 40
PHASES = ("start", "compilation", "step", "evaluation", "save", "second signal")
COMPILING_SECONDS = 1.5
"""Of compiling that tiny model, at least."""


@dataclass
class Signals:
    """Counts of a campaign, and what went wrong in words."""

    trials: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0


def signal_campaign(
    nursery: Nursery,
    folder: Path,
    trials: int,
    seed: int = 0,
    phases: Sequence[str] = PHASES,
    signals: Sequence[signal.Signals] = SIGNALS,
) -> Signals:
    """`trials` of each signal in each phase; every stopped training goes on and is compared with an unbroken one."""
    chance, counts = random.Random(seed), Signals()
    corpus = make_corpus(folder)
    for phase in phases:
        # Evaluations that take most of the time, so that a random moment lies within one.
        settings = {"train__eval_every_steps": 1, "train__eval_tokens": 10_000} if phase == "evaluation" else {}
        settings |= {"train__compile": "true"} if phase == "compilation" else {}
        settings["train__max_steps"] = STEPS
        whole = folder / f"whole-{phase.replace(' ', '-')}"
        assert nursery.run(train_command(corpus, whole, **settings), folder).code == 0
        for signum in signals:
            for _ in range(trials):
                run = folder / f"run-{sum(counts.trials.values())}"
                command = nursery.start(train_command(corpus, run, **settings), folder)
                reach(phase, command, run, chance)
                began = time.monotonic()
                command.send(signum)
                if phase == "second signal":
                    command.send(signum)
                code = command.wait()
                counts.longest_seconds = max(counts.longest_seconds, time.monotonic() - began)
                counts.trials[phase] = counts.trials.get(phase, 0) + 1
                wrong = what_is_wrong(phase, signum, code, command, run)
                if not wrong:
                    assert nursery.run(train_command(corpus, run, **settings), folder).code == 0
                    wrong = first_difference(whole, run)
                counts.failures += [f"{signum.name} in {phase}: {wrong}"] if wrong else []
    return counts


def reach(phase: str, command: Command, run: Path, chance: random.Random) -> None:
    """Wait until the command is in that phase."""
    if phase == "start":
        return sleep_while_running(command, chance.uniform(0.02, 0.15))
    if phase == "compilation":
        while command.is_running() and not (run / "run.toml").exists():
            time.sleep(0.001)
        return sleep_while_running(command, chance.uniform(0.02, COMPILING_SECONDS))
    while command.is_running() and last_step(run) < chance.randint(1, 20):
        time.sleep(0.001)
    if phase == "save":
        return wait_for_a_save(command, run, chance.uniform(0, 0.01))
    return sleep_while_running(command, chance.uniform(0, 0.02))


def what_is_wrong(phase: str, signum: signal.Signals, code: int, command: Command, run: Path) -> str | None:
    """None if the command left as it should have."""
    if code == 0:
        return None if phase == "save" else "it had ended before the signal came"  # the last save of all
    if phase == "start" and code == -signum:
        return None  # it came before the command had begun, and ended the interpreter as signals do
    if code != 128 + signum:
        return f"exit code {code}: {command.last_line}"
    if "Traceback" in command.said:
        return f"a traceback: {command.last_line}"
    if phase not in ("start", "second signal") and newest_good(run) != last_step(run):
        return f"step {last_step(run)} was made and {newest_good(run)} saved"
    return None
