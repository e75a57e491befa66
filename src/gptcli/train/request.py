"""The request of `gptcli train`: the run that it names, and all settings that follow from it."""

from __future__ import annotations

import glob
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig, merge, read_toml
from gptcli.config.load import with_origin
from gptcli.config.shipped import read_settings
from gptcli.console import say, shell_word
from gptcli.errors import CheckpointError, DataError, UsageError
from gptcli.storage import expanded
from gptcli.train.initial_checkpoint import require_same_initial
from gptcli.train.resume import History, require_same_run, resume_command

RUNS = Path("runs")
"""The directory of runs for which no --out is given."""


@dataclass(frozen=True)
class TrainRequest:
    """The arguments and options of `gptcli train` as typed."""

    corpus: tuple[str, ...] = ()
    config_files: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    cache_dir: Path | None = None
    init_from: str | None = None
    """The model to start from, as `--init-from` gives it; None: what the settings say."""
    force: bool = False
    """Whether to train where the estimate says that the memory does not suffice."""
    max_seconds: float | None = None
    """The time budget, as `--time` gives it; None: what the settings say. With `resume`, so many seconds more."""
    began: float = field(default_factory=time.monotonic)
    """The time when the budget began to run, on `time.monotonic()`: the start of the process, where that is known."""


def named_run(request: TrainRequest) -> TrainRequest:
    """The request with the run to resume in its place, where it was named as if it were the corpus."""
    if request.resume and request.out is None and len(request.corpus) == 1:
        path = expanded(request.corpus[0])
        if RunDirectory.is_run(path):
            return replace(request, corpus=(), out=path)
    return request


def resumable_run(request: TrainRequest) -> RunDirectory | None:
    """The run to go on with, or None to begin one; refuses to begin where one already is.

    Raises:
        UsageError: the run is not named, or one lies there and is not to be resumed.
        CheckpointError: there is no run to resume, and no corpus to begin one with.
    """
    if request.resume:
        if request.out is None:
            run = next((Path(source) for source in request.corpus if RunDirectory.is_run(Path(source))), None)
            corpus = " ".join(shell_word(source) for source in request.corpus if run is None or source != str(run))
            command = resume_command(run or Path("runs/NAME"), corpus)
            raise UsageError("--resume needs the directory of a run", f"name it: {command}")
        if RunDirectory.is_run(request.out):
            return RunDirectory.open(request.out)
        if not request.corpus and not request.config_files:
            raise CheckpointError(f"{request.out} is no run directory: nothing to resume", "check the path")
        say(f"{request.out} holds no run yet: starting from the beginning")
    elif request.out is not None and RunDirectory.is_run(request.out) and not request.dry_run:
        raise UsageError(f"{request.out} already holds a run", "add --resume to go on with it, or choose another --out")
    if not request.dry_run:
        RunDirectory.require_creatable(request.out or fresh_directory(request.corpus))
    return None


def fresh_directory(corpus: tuple[str, ...]) -> Path:
    """`runs/NAME` after the corpus, or the mix if there is none, with a number if there is one of that name already."""
    corpus = corpus or ("mix",)
    path = Path(corpus[0])
    # The name of a glob such as texts/*.txt or texts/**/*.md is that of the directory that it looks in.
    plain = [part for part in (path, *path.parents) if not any(glob.has_magic(p) for p in part.parts)]
    stem = (
        (plain[0].name or os.path.basename(os.path.realpath(plain[0]))).split(".")[0] if corpus[0] != "-" else "stdin"
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "run"
    candidates = (RUNS / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())


def settings_of(request: TrainRequest, history: History) -> RawConfig:
    """The user's settings: those of the resumed run, then -c files, --set values, CORPUS and options.

    Raises:
        ConfigError: a file or value cannot be read, or a key may not change when the run goes on.
        UsageError: the run began from another model.
        DataError: the text that a resumed run is trained on is not where its settings say.
    """
    base = read_toml(history.run.config_path) if history.run else RawConfig()
    settings = read_settings(request.config_files, request.assignments, base)
    corpus = {"data": {"corpus": list(request.corpus)}} if request.corpus else {}
    start = {"train": {"init_from": request.init_from}} if request.init_from else {}
    merged = merge(settings, with_origin(corpus, "CORPUS"), with_origin(start, "--init-from"))
    if history.run is None:
        return with_budget(merged, request.max_seconds)
    merged = with_new_end(merged, base, request.max_seconds, history.spent_seconds)
    require_same_initial(merged, base, history.run)
    for line in require_same_run(history, merged, base):
        say(line)
    require_corpus(history, merged)
    return merged


def with_budget(settings: RawConfig, seconds: float | None) -> RawConfig:
    """The settings with a time budget, where one is given."""
    return settings if seconds is None else merge(settings, with_origin({"train": {"max_seconds": seconds}}, "--time"))


def with_new_end(settings: RawConfig, base: RawConfig, more: float | None, spent: float) -> RawConfig:
    """The settings of a resumed run; where they give it another end, nothing is left of the one that was planned.

    Args:
        base: the settings before.
        more: the seconds of `--time`, which begin when the run is resumed and end it instead of a number of steps.
        spent: the seconds of its time budget that the run has spent already.
    """
    planned, train = base.values.get("train", {}), dict(settings.values.get("train", {}))
    if more is not None and train.get("max_steps") == planned.get("max_steps"):
        train.pop("max_steps", None)
    is_moved = more is not None or any(train.get(key) != planned.get(key) for key in ("max_steps", "max_seconds"))
    if is_moved and train.get("pace") == planned.get("pace"):
        train.pop("pace", None)
    settings = RawConfig({**settings.values, "train": train}, settings.origins)
    return with_budget(settings, None if more is None else round(spent + more, 3))


def missing_sources(data: Mapping[str, Any]) -> Iterator[str]:
    """The files and folders of a corpus that are not where the settings say."""
    mix = (source for entry in data.get("mix") or () for source in entry["corpus"])
    for source in (*(data.get("corpus") or ()), *mix, *([data["val"]] if data.get("val") else [])):
        is_path = source != "-" and not source.startswith(("hf:", "python:"))
        if is_path and not any(mark in source for mark in "*?[@") and not expanded(source).exists():
            yield source


def require_corpus(history: History, user: RawConfig) -> None:
    """Raises DataError: the text of a resumed run is not where its settings say; names the way to say where it is."""
    data = user.values.get("data", {})
    missing = next(missing_sources(data), None) if history.run else None
    if missing is None:
        return
    option = "" if missing in (data.get("corpus") or ()) else "--set data.val=PATH "
    option = "--set data.mix=... " if data.get("mix") else option
    raise DataError(
        f"{history.run.path} is trained on {missing}, which is not there (a relative path counts from {Path.cwd()})",
        f"if the same text lies elsewhere, name it: {resume_command(history.run.path, option.strip() or 'PATH')}",
    )
