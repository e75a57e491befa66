"""Exports that are killed at any moment: the old target or the new one is there, and the next export succeeds and
leaves nothing else."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Nursery
from faults.victim import SETTINGS, make_corpus
from gptcli.storage import TEMPORARY_MARK

FORMATS = ("hf", "gguf", "nanogpt")
PLACES = ("absent", "old")
"""Of the target: it is not there, or an empty directory, or a file that is replaced with --force."""
PLAIN = {"model.qk_norm": "false"}
NANOGPT = PLAIN | {
    **{"model.position": "learned", "model.norm": "layernorm", "model.norm_eps": 1e-5},
    **{"model.mlp": "gelu", "model.bias": "true", "model.tie_embeddings": "true"},
}
"""Settings of a model that nanoGPT can hold, and of one that llama.cpp can."""
STEP = 5


@dataclass
class Exports:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    killed_before_the_target: int = 0
    failures: list[str] = field(default_factory=list)


def kill_at_rename(number: str) -> None:
    """A hook of the nursery: end this process in place of its rename of that number, without transformers, whose import
    takes longer than an export."""
    from gptcli.interop import export

    export.is_installed = lambda package: package not in ("transformers", "llama_cpp")
    replace, left = os.replace, [int(number)]

    def counted(source: str, target: str) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        replace(source, target)

    os.replace = counted


NEVER = 10**9


def export_campaign(
    nursery: Nursery, folder: Path, trials: int, seed: int = 0, formats: tuple[str, ...] = FORMATS
) -> Exports:
    """Kill exports in all these formats at a moment by chance, half of them in place of a rename."""
    counts, chance = Exports(), random.Random(seed)
    runs = trained(nursery, folder, formats)
    whole, seconds = {}, {}
    for to in formats:
        began = time.monotonic()
        command = nursery.run(export(runs[to], to, folder / f"whole-{to}"), folder, hook=hook(NEVER))
        assert command.code == 0, command.said
        whole[to], seconds[to] = content(folder / f"whole-{to}"), time.monotonic() - began
    for number in range(trials):
        to, place = formats[number % len(formats)], PLACES[number // len(formats) % 2]
        # The name is the same in all trials, since the card says it.
        out = folder / f"trial-{number}" / f"whole-{to}"
        old = prepared(out, to, place)
        aimed = chance.random() < 0.5
        command = nursery.start(export(runs[to], to, out), folder, hook=hook(chance.randrange(12) if aimed else NEVER))
        if not aimed:
            time.sleep(chance.uniform(0, seconds[to]))
            command.send(signal.SIGKILL)
        command.wait()
        counts.trials += 1
        what = f"{to}, {place}, exit {command.code}"
        found = content(out)
        if command.code not in (0, -signal.SIGKILL):
            counts.failures.append(f"{what}: {command.last_line}")
        is_new = found == whole[to]
        if found != old and not is_new and not is_recoverable(out):
            counts.failures.append(f"{what}: {sorted(found)} is neither old nor new")
        counts.killed_before_the_target += not is_new
        if not is_new:
            command = nursery.run(export(runs[to], to, out), folder, hook=hook(NEVER))
            if content(out) != whole[to]:
                counts.failures.append(f"{what}, and again: {command.last_line}, {sorted(content(out))}")
            left = [path.name for path in out.parent.rglob("*") if TEMPORARY_MARK in path.name]
            counts.failures += [f"{what}: {name} is left by the next export" for name in left]
        shutil.rmtree(out.parent)
    return counts


def hook(number: int) -> str:
    return f"faults.exports:kill_at_rename {number}"


def trained(nursery: Nursery, folder: Path, formats: tuple[str, ...] = FORMATS) -> dict[str, Path]:
    """By format a run that it can hold."""
    corpus, runs = make_corpus(folder), {}
    for to, slots in {"hf": PLAIN, "nanogpt": NANOGPT}.items():
        if to not in ("hf", *formats):
            continue
        runs[to] = folder / f"run-{to}"
        settings = SETTINGS | slots | {"train.max_steps": STEP, "data.tokenizer.name": "byte", "model.dropout": 0.0}
        given = (f"--set={name}={value}" for name, value in settings.items())
        command = nursery.run(["train", corpus, "--out", runs[to], *given], folder)
        assert command.code == 0, command.said
    return runs | {"gguf": runs["hf"]}


def export(run: Path, to: str, out: Path) -> list[object]:
    return ["export", run, "--to", to, "--out", out, *(["--force"] if to == "gguf" else [])]


def prepared(out: Path, to: str, place: str) -> dict[str, bytes]:
    """Make the target as it is before the export; its content."""
    out.parent.mkdir()
    if place == "old" and to == "gguf":
        out.write_text("old")
    elif place == "old":
        out.mkdir()
    return content(out)


def content(out: Path) -> dict[str, bytes]:
    """The target's files, without what is half-written."""
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if TEMPORARY_MARK not in name}


def is_recoverable(out: Path) -> bool:
    """Whether the target is a directory that was there, and whose files were being moved: no program takes them for a
    model, and the next export finishes the move."""
    names = set(content(out))
    return not names & {"config.json", "ckpt.pt"} and any(TEMPORARY_MARK in path.name for path in out.iterdir())
