"""NaN and infinity in the loss or in one gradient: no byte of weights or moments changes, then the run stops as set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.nursery import Command, Nursery
from faults.victim import make_corpus, newest_good, train_command
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.train.fingerprints import FINGERPRINTS_NAME

KINDS = tuple(itertools.product(("loss", "gradient"), (math.nan, math.inf)))


@dataclass
class BadNumbers:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    failures: list[str] = field(default_factory=list)


def poison(argument: str) -> None:
    """Make the loss, or one number of one gradient, of the steps FIRST to LAST what is said: `loss nan 10 12`."""
    from gptcli.train.loop import Trainer
    from gptcli.train.step import Stepper

    where, value, first, last = argument.split()
    made, original = Trainer.step, Stepper.backpropagate
    now: dict[str, int] = {}

    def step(trainer: Trainer) -> None:
        now["step"] = trainer.state.step + 1
        made(trainer)

    def backpropagate(stepper: Stepper, *arguments: Any) -> Any:
        loss, tokens = original(stepper, *arguments)
        if int(first) <= now.get("step", 0) <= int(last):
            if where == "loss":
                return loss * float(value), tokens
            stepper.parameters[-1].grad.view(-1)[3] = float(value)
        return loss, tokens

    Trainer.step, Stepper.backpropagate = step, backpropagate


def number_campaign(
    nursery: Nursery,
    folder: Path,
    steps: Sequence[int] = (1, 10, 100),
    kinds: Sequence[tuple[str, float]] = KINDS,
    most_steps: int = 110,
) -> BadNumbers:
    """Each of `kinds` at each of `steps`, for one step and for three in a row, from the start and resumed."""
    counts = BadNumbers()
    corpus = make_corpus(folder)
    for (where, value), first, bad, resumed in itertools.product(kinds, steps, (1, 3), (False, True)):
        run = folder / f"run-{counts.trials}"
        settings = {"train__max_steps": most_steps, "train__max_bad_steps": 3}
        if resumed and first == 1:
            continue
        if resumed:  # stopped by the same fault, where it was
            hook = f"faults.bad_numbers:poison {where} {value} {first} {first + 2}"
            assert nursery.run(train_command(corpus, run, **settings), folder, hook=hook, ends_at_once=True).code == 6
        hook = f"faults.bad_numbers:poison {where} {value} {first} {first + bad - 1}"
        command = nursery.run(train_command(corpus, run, **settings), folder, hook=hook, ends_at_once=True)
        counts.trials += 1
        name = f"{value} in the {where} of {bad} steps from {first}{', resumed' if resumed else ''}"
        kept = 3 if resumed else bad
        counts.failures += [f"{name}: {wrong}" for wrong in wrong_after(command, run, first, bad, kept)]
    return counts


def wrong_after(command: Command, run: Path, first: int, bad: int, kept: int) -> list[str]:
    """What a training with `bad` steps from `first` on did wrong; `kept` of them are written down."""
    wrong = []
    if command.code != (6 if bad == 3 else 0):
        wrong.append(f"exit {command.code}: {command.last_line}")
    lines = {line["step"]: line for line in MetricsLog(run / FINGERPRINTS_NAME).read()}
    for step in range(max(first, 2), first + bad):
        if step in lines:  # the step that ends the run is not written down
            same = [key for key in ("weights", "moments") if lines[step][key] != lines[step - 1][key]]
            wrong += [f"step {step} changed the {key}" for key in same]
    records = sorted(path.name for path in (run / "bad-steps").glob("*.json"))
    if records != [f"step-{step:08d}.json" for step in range(first, first + kept)]:
        wrong.append(f"bad-steps holds {records}")
    if first > 5 and newest_good(run) < first // 5 * 5 - 5:
        wrong.append(f"the newest checkpoint is of step {newest_good(run)}")
    return wrong
