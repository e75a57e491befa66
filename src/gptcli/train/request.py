"""The request of a training: the run that it names, and all settings that follow from it."""

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
    """The arguments and options of `gptcli train` as typed, and the settings of a command that builds on it."""

    corpus: tuple[str, ...] = ()
    config_files: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    cache_dir: Path | None = None
    init_from: str | None = None
    """The model to start from, by `--init-from`; None: the one of the settings, if any."""
    defaults: RawConfig = field(default_factory=RawConfig)
    """Settings of the command itself, which a run that is resumed, -c files and --set values replace."""
    overrides: RawConfig = field(default_factory=RawConfig)
    """Settings of the command's options, which replace those of -c files and --set values."""
    force: bool = False
    """Whether to train even if the estimate says that the memory does not suffice."""
    max_seconds: float | None = None
    """The time budget in seconds, by `--time`; None: that of the settings, if any. With `resume`, further seconds."""
    began: float = field(default_factory=time.monotonic)
    """The start of the time budget on the clock of `time.monotonic()`: the start of the process, if it is known."""


def named_run(request: TrainRequest) -> TrainRequest:
    """Return the request with the run to resume as `out`, also if it was named in the place of the corpus."""
    if request.resume and request.out is None and len(request.corpus) == 1:
        path = expanded(request.corpus[0])
        if RunDirectory.is_run(path):
            return replace(request, corpus=(), out=path)
    return request


def resumable_run(request: TrainRequest) -> RunDirectory | None:
    """Return the run to resume, or None to begin one.

    Raises:
        UsageError: the run is not named, or there is one already that is not to be resumed.
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
    """Return `runs/NAME`, named after the corpus or "mix", with a number if that exists already."""
    corpus = corpus or ("mix",)
    path = Path(corpus[0])
    # A glob such as texts/*.txt or texts/**/*.md is named after its directory.
    plain = [part for part in (path, *path.parents) if not any(glob.has_magic(p) for p in part.parts)]
    stem = (
        (plain[0].name or os.path.basename(os.path.realpath(plain[0]))).split(".")[0] if corpus[0] != "-" else "stdin"
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "run"
    candidates = (RUNS / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())


def settings_of(request: TrainRequest, history: History) -> RawConfig:
    """Return the user's settings: the command's, those of the resumed run, -c files, --set values, CORPUS and options.

    Raises:
        ConfigError: a file or value cannot be read, or a key may not change when a run is resumed.
        UsageError: the run began from another model.
        DataError: the text of a resumed run is not where its settings say.
    """
    base = read_toml(history.run.config_path) if history.run else RawConfig()
    settings = read_settings(request.config_files, request.assignments, merge(request.defaults, base))
    corpus = {"data": {"corpus": list(request.corpus)}} if request.corpus else {}
    start = {"train": {"init_from": request.init_from}} if request.init_from else {}
    merged = merge(settings, request.overrides, with_origin(corpus, "CORPUS"), with_origin(start, "--init-from"))
    if history.run is None:
        return with_budget(merged, request.max_seconds)
    merged = with_new_end(merged, base, request.max_seconds, history.spent_seconds)
    require_same_initial(merged, base, history.run)
    for line in require_same_run(history, merged, base):
        say(line)
    require_corpus(history, merged)
    return merged


def with_budget(settings: RawConfig, seconds: float | None) -> RawConfig:
    """Return the settings with the time budget, if one is given."""
    return settings if seconds is None else merge(settings, with_origin({"train": {"max_seconds": seconds}}, "--time"))


def with_new_end(settings: RawConfig, base: RawConfig, more: float | None, spent: float) -> RawConfig:
    """Return the settings of a resumed run, without the old plan of its end if they give it a new end.

    Args:
        settings: the settings with the changes.
        base: the settings before.
        more: the seconds of `--time`, which begin when the run is resumed and end it instead of a number of steps.
        spent: the seconds of its time budget that the run has used already.
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
    """Yield the files and folders of a corpus that are not where the settings say."""
    mix = (source for entry in data.get("mix") or () for source in entry["corpus"])
    for source in (*(data.get("corpus") or ()), *mix, *([data["val"]] if data.get("val") else [])):
        is_path = source != "-" and not source.startswith(("hf:", "python:"))
        if is_path and not any(mark in source for mark in "*?[@") and not expanded(source).exists():
            yield source


def require_corpus(history: History, user: RawConfig) -> None:
    """Require that the text of a resumed run is where its settings say.

    Raises:
        DataError: it is not; the remedy shows how to name its new place.
    """
    data = user.values.get("data", {})
    missing = next(missing_sources(data), None)
    if history.run is None or missing is None:
        return
    option = "" if missing in (data.get("corpus") or ()) else "--set data.val=PATH "
    option = "--set data.mix=... " if data.get("mix") else option
    raise DataError(
        f"{history.run.path} is trained on {missing}, which is not there (a relative path counts from {Path.cwd()})",
        f"if the same text lies elsewhere, name it: {resume_command(history.run.path, option.strip() or 'PATH')}",
    )
