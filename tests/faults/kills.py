"""SIGKILL at any moment of a training: what is left is whole, and the training that goes on ends as if nothing was."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Command, Nursery
from faults.victim import INTERVAL, being_saved, make_corpus, newest_good, train_command
from gptcli.checkpoint.report import verify_files
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.train.verify_resume import first_difference, last_step
from tiny_base import write_tiny_base

MOST_STEPS_LOST = 2 * INTERVAL
"""An interval, and the steps that are made while one checkpoint is written: the next waits for it."""


@dataclass
class Kills:
    """Counts of a campaign."""

    trials: int = 0
    within_a_save: int = 0
    lost_checkpoints: int = 0
    """Kills after which no checkpoint verified, or only an older one than before."""
    most_steps_lost: int = 0
    damaged_files: list[str] = field(default_factory=list)
    """What `checkpoint verify` says after a kill of files that were only half replaced."""
    runs: int = 0
    """Trainings that were killed again and again until they were done."""
    differences: list[str] = field(default_factory=list)
    """In what a run that was done differs from the one that was never killed."""


def kill_campaign(
    nursery: Nursery, corpus: Path, trials: int, within_a_save: int, seed: int = 0, **settings: object
) -> Kills:
    """Kill `trials` times, at least `within_a_save` of them in the midst of a save; `settings` as `train_command`.

    The runs are in the folder of the corpus.
    """
    chance, counts, folder = random.Random(seed), Kills(), corpus.parent
    began = time.monotonic()
    whole = nursery.run(train_command(corpus, folder / "whole", **settings), folder)
    assert whole.code == 0, whole.said
    whole_seconds = time.monotonic() - began
    while counts.trials < trials or counts.within_a_save < within_a_save:
        run = folder / f"killed-{counts.runs}"
        is_done = False
        while not is_done:
            command = nursery.start(train_command(corpus, run, **settings), folder)
            aims = counts.within_a_save < within_a_save and chance.random() < 0.8
            before = newest_good(run)
            if aims:
                wait_for_a_save(command, run, chance.uniform(0, 0.02))
            else:
                sleep_while_running(command, chance.uniform(0, whole_seconds))
            is_done = not command.is_running()
            command.kill()
            if is_done:
                assert command.code == 0, command.said
                break
            counts.trials += 1
            counts.within_a_save += bool(being_saved(run))
            good = newest_good(run)
            if RunDirectory.is_run(run):
                counts.damaged_files += [str(error) for files in verify_files(run).files for error in files.damaged]
            counts.lost_checkpoints += good < before
            counts.most_steps_lost = max(counts.most_steps_lost, last_step(run) - good)
        counts.runs += 1
        difference = first_difference(folder / "whole", run)
        counts.differences += [difference] if difference else []
    return counts


def adapter_kill_campaign(nursery: Nursery, folder: Path, trials: int, within_a_save: int, seed: int = 0) -> Kills:
    """Kill the training of an adapter, as `kill_campaign`."""
    base = write_tiny_base(folder / "base", n_layer=1)  # the shape in faults.victim
    settings = {
        "train__init_from": base,
        "data__tokenizer__name": None,
        "adapter__name": "lora",
        "adapter__dropout": 0.1,
        "train__max_steps": 60,
    }
    return kill_campaign(nursery, make_corpus(folder), trials, within_a_save, seed, **settings)


def preference_kill_campaign(nursery: Nursery, folder: Path, trials: int, within_a_save: int, seed: int = 0) -> Kills:
    """Kill the training of an adapter on preferences (DPO), as `kill_campaign`."""
    base = write_tiny_base(folder / "base", n_layer=1, context_length=64)
    rows = ({"prompt": f"{n}?", "chosen": f"{n + 1}.", "rejected": f"{n}!"} for n in range(99))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "train__init_from": base,
        "data__tokenizer__name": None,
        "model__context_length": 64,
        "data__kind": "preferences",
        "objective__name": "dpo",
        "adapter__name": "lora",
        "train__max_steps": 60,
    }
    return kill_campaign(nursery, folder / "pairs.jsonl", trials, within_a_save, seed, **settings)


def wait_for_a_save(command: Command, run: Path, delay: float) -> None:
    """Return `delay` seconds into the next save, or when the command has ended."""
    known = set(being_saved(run))
    while command.is_running():
        if set(being_saved(run)) - known:
            time.sleep(delay)
            return


def sleep_while_running(command: Command, seconds: float) -> None:
    end = time.monotonic() + seconds
    while command.is_running() and time.monotonic() < end:
        time.sleep(0.002)
