"""Stopped trainings that go on with a changed setting or a changed text.

Either the training is the same, bit for bit, or the change and its effect are printed and docs/reliability.md allows
it, or the command is refused and changes no file. A run never holds a training other than the one it says.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from faults.nursery import Command, Nursery
from faults.victim import make_corpus, train_command
from gptcli.config import read_toml, validate
from gptcli.config.base import Config, union_members
from gptcli.train.config import RunConfig
from gptcli.train.fingerprints import FINGERPRINTS_NAME
from gptcli.train.resume import MAY_CHANGE, NOTHING
from gptcli.train.verify_resume import LOGS, first_difference

STEPS, STOP = 20, 10
BASES = {
    "default": {"optim__name": "adamw", "optim__lr": 0.001},
    "other": {
        "optim__name": "muon", "optim__lr": 0.01, "model__position": "learned", "model__norm": "layernorm",
        "model__mlp": "gelu", "schedule__name": "wsd", "data__split": "tail", "data__pack": "document",
    },
}  # fmt: skip
"""Settings of the trainings that are stopped: between them they have most keys of the configuration."""


WRITES_OTHER_LINES = {"train.log_every_steps": "metrics.jsonl", "train.fingerprints": FINGERPRINTS_NAME}
"""The log in which the same training leaves other lines, by the key that says which."""


@dataclass
class OtherTrainings:
    """Counts of a campaign, and what went wrong in words."""

    settings: int = 0
    texts: int = 0
    refused: int = 0
    same: int = 0
    said: int = 0
    """Trainings that went on to other weights, which was allowed and printed."""
    failures: list[str] = field(default_factory=list)


class Change(NamedTuple):
    """A dotted key and the value that it gets."""

    key: str
    value: Any

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def is_allowed(self) -> bool:
        return bool(MAY_CHANGE.get(self.key, MAY_CHANGE.get(self.key.partition(".")[0], NOTHING)))


def end_before(argument: str) -> None:
    """Raise a signal before a step is made: `SIGTERM 10`."""
    from gptcli.train.loop import Trainer

    name, number = argument.split()
    made = Trainer.step

    def step(trainer: Trainer) -> None:
        if trainer.state.step == int(number):
            signal.raise_signal(signal.Signals[name])
        made(trainer)

    Trainer.step = step


def other_training_campaign(nursery: Nursery, folder: Path, part: float = 1.0, seed: int = 0) -> OtherTrainings:
    """Change `part` of all keys, by `--set` and in run.toml, and texts in `part` of all ways."""
    chance, counts = random.Random(seed), OtherTrainings()
    corpus = make_corpus(folder)
    for name, settings in BASES.items():
        settings = settings | {"train__max_steps": STEPS}
        whole, stopped = folder / f"whole-{name}", folder / f"stopped-{name}"
        assert nursery.run(train_command(corpus, whole, **settings), folder).code == 0
        hook = f"faults.other_trainings:end_before SIGTERM {STOP}"
        assert nursery.run(train_command(corpus, stopped, **settings), folder, hook=hook).code == 143
        for change in changes(validate(RunConfig, read_toml(stopped / "run.toml")), ""):
            for in_file in (False, True):
                if chance.random() < part:
                    change_setting(nursery, folder, (whole, stopped), change, in_file, counts)
    text_trials = list(itertools.product(TEXT_CHANGES, ("text.txt", "val.txt"), (STOP, 2)))
    for trial in chance.sample(text_trials, max(1, round(part * len(text_trials)))):
        replace_text(nursery, folder, trial, counts)
    return counts


def changes(config: Config, prefix: str) -> Iterator[Change]:
    """For each key of a configuration, values that it does not have; most of them are valid."""
    for name, information in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            yield from changes(value, f"{prefix}{name}.")
            continue
        for other in others(value, union_members(information.annotation)):
            yield Change(f"{prefix}{name}", other)


def others(value: Any, members: list[Any]) -> Iterator[Any]:
    literals = [choice for kind in members if typing.get_origin(kind) is typing.Literal for choice in kind.__args__]
    if literals:
        yield from (choice for choice in literals if choice != value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int) or (value is None and int in members):
        yield from (2 * (value or 4), (value or 4) + 1)
    elif isinstance(value, float) or (value is None and float in members):
        yield (value or 0.25) / 2
    elif isinstance(value, str) or (value is None and str in members):
        yield "other"
    elif isinstance(value, tuple):
        yield from (["other"], [8])


def change_setting(
    nursery: Nursery, folder: Path, runs: tuple[Path, Path], change: Change, in_file: bool, counts: OtherTrainings
) -> None:
    """Resume a copy of the stopped one of `runs` with the change; the other one was never stopped."""
    whole, stopped = runs
    run = folder / "changed"
    shutil.copytree(stopped, run)
    arguments = ["train", "--resume", "--out", run]
    if in_file:
        values = read_toml(run / "run.toml").values
        *sections, name = change.key.split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = change.value
        (run / "run.toml").write_text(tomli_w.dumps(values))
    else:
        arguments.append(f"--set={change.key}={change.value}")
    before = files_of(run)
    command = nursery.run(arguments, folder)
    counts.settings += 1
    where = f"{change.key} = {change.value!r} {'in run.toml' if in_file else 'by --set'}"
    counts.failures += [f"{where}: {wrong}" for wrong in wrong_after(command, whole, run, before, change, counts)]
    shutil.rmtree(run)


def wrong_after(
    command: Command, whole: Path, run: Path, before: dict[Path, bytes], change: Change, counts: OtherTrainings
) -> Iterator[str]:
    logs = [log for log in LOGS if log != WRITES_OTHER_LINES.get(change.key)]
    if command.code in (2, 3, 5):  # a setting that is refused, a text or another file that is not there
        counts.refused += 1
        if files_of(run) != before:
            yield "it was refused, and yet files of the run changed"
        if not any(word in command.said for word in (change.name, change.name.replace("_", "-"), "on other,")):
            yield f"the refusal does not name the key: {command.last_line}"
    elif command.code != 0:
        yield f"exit code {command.code}: {command.last_line}"
    elif difference := first_difference(whole, run, logs):
        counts.said += 1
        if not change.is_allowed:
            yield f"it goes on as another training: {difference}"
        elif change.key not in command.said:
            yield f"nothing says that it goes on as another training: {difference}"
    else:
        counts.same += 1


def replace_text(
    nursery: Nursery, folder: Path, trial: tuple[Callable[[Path], bool], str, int], counts: OtherTrainings
) -> None:
    """Change the training text or the one to validate on of a run, with a checkpoint and without one, and resume it."""
    change_text, changed, stop = trial
    corpus, val = folder / "text.txt", folder / "val.txt"
    shutil.copy(make_corpus(folder), corpus)
    val.write_text(corpus.read_text()[2000:6000])
    run, fresh = folder / "run", folder / "fresh"
    settings = {"train__max_steps": STEPS, "data__val": val, **BASES["default"]}
    signal_name = "SIGTERM" if stop == STOP else "SIGKILL"  # which leaves no checkpoint
    hook = f"faults.other_trainings:end_before {signal_name} {stop}"
    assert nursery.run(train_command(corpus, run, **settings), folder, hook=hook).code in (143, -9)
    before = files_of(run)
    is_same = change_text(folder / changed)
    command = nursery.run(["train", "--resume", "--out", run], folder)
    remedy = "--set model.vocab_size=0"
    if command.code == 2 and remedy in command.said:  # the new text has more characters
        command = nursery.run(["train", "--resume", "--out", run, *remedy.split()], folder)
    counts.texts += 1
    name = f"{change_text.__name__} in {changed} after {stop} steps"
    if is_same or stop < STOP:
        assert nursery.run(train_command(corpus, fresh, **settings), folder).code == 0
        difference = first_difference(fresh, run) if command.code == 0 else command.last_line
        if difference or not same_measure(fresh, run):
            counts.failures.append(f"{name}: not the training on the text that is there: {difference}")
        counts.same += 1
    elif command.code == 0 or files_of(run) != before:
        counts.failures.append(f"{name}: exit code {command.code}: {command.last_line}")
    else:
        counts.refused += 1
    for path in (run, fresh):
        shutil.rmtree(path, ignore_errors=True)


def same_measure(fresh: Path, run: Path) -> bool:
    """Whether both runs validate on the same tokens, and write the same figures of them."""
    return (
        all(path.read_bytes() == (run / "val" / path.name).read_bytes() for path in (fresh / "val").iterdir())
        and (fresh / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    )


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "writer.lock"}


def other_letter(path: Path) -> bool:
    """Change one letter; size and time of the file stay."""
    times = path.stat()
    text = path.read_text()
    middle = text.index("line", len(text) // 2)
    path.write_text(text[:middle] + "nile" + text[middle + 4 :])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return False


def other_order(path: Path) -> bool:
    """Change the order of the lines; size and time of the file stay."""
    times = path.stat()
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return False


def more_text(path: Path) -> bool:
    with path.open("a") as file:
        file.write("one line more, and it is the last of them all.\n")
    return False


def less_text(path: Path) -> bool:
    path.write_text(path.read_text()[:-400])
    return False


def nothing_but_the_time(path: Path) -> bool:
    """Write the file anew with the same text."""
    path.write_text(path.read_text())
    return True


TEXT_CHANGES = (other_letter, more_text, less_text, other_order, nothing_but_the_time)
"""Functions that change a text file and return whether its text is the same."""
