"""Damage in every kind of file of a prepared cache: a bit flipped, a file cut, emptied or removed.

The next preparation must give the tokens of the whole cache, bit for bit, and name the damaged file in a line; so must
a training, and one that is resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import itertools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from faults.damage import flipped
from faults.nursery import Nursery
from faults.victim import make_corpus, train_command
from gptcli.data import prepare, scan, streams
from gptcli.data.cache import VERIFIED
from gptcli.data.config import DataConfig
from gptcli.data.mix import PreparedMix, prepare_mix, scan_mix
from gptcli.data.worker_pool import ALL_CORES, WorkerConfig
from gptcli.data.workspace import Workspace
from gptcli.errors import GptcliError
from gptcli.train.planning.subset import scan_subset

STEPS, STOP = 12, 6
IN_MEMORY = Path("/dev/shm")
"""Where directories are copied and removed in no time."""
LEARNT = {"name": "bpe", "vocab_size": 300}
MANY_PARTS = WorkerConfig(workers=1, section_bytes=20_000)

Prepare = Callable[[Path], PreparedMix]
"""Prepares a corpus in a cache."""


@dataclass
class CachedDamage:
    """Counts of a campaign, and what went wrong in words."""

    by_kind: dict[str, int] = field(default_factory=dict)
    trainings: int = 0
    files: set[str] = field(default_factory=set)
    """The names of the files that were damaged."""
    refused: int = 0
    """Preparations and trainings that ended with an error that names the file."""
    failures: list[str] = field(default_factory=list)

    @property
    def preparations(self) -> int:
        return sum(self.by_kind.values())


def flip(path: Path, chance: random.Random) -> None:
    path.write_bytes(flipped(path.read_bytes(), chance))


def cut(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


KINDS = {"flipped": flip, "cut": cut, "emptied": empty, "removed": remove}


def cache_campaign(nursery: Nursery, folder: Path, trials: int, trainings: int, seed: int = 0) -> CachedDamage:
    """Damage one file of a cache again and again, each time put back: `trials` times before a preparation in this
    process, and `trainings` times before a command that trains or resumes."""
    chance, counts = random.Random(seed), CachedDamage()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else folder) as scratch:
        subjects = [Subject(Path(scratch) / name, make) for name, make in SUBJECTS.items()]
        turns = [list(itertools.product(subject.files, KINDS)) for subject in subjects]
        for combinations in turns:
            chance.shuffle(combinations)
        for number in range(trials):
            turn, which = divmod(number, len(subjects))
            path, kind = turns[which][turn % len(turns[which])]
            counts.by_kind[kind] = counts.by_kind.get(kind, 0) + 1
            counts.files.add(path.name)
            subjects[which].try_damage(path, kind, chance, counts)
    by_command(nursery, folder, trainings, chance, counts)
    return counts


class Subject:
    """A corpus that is prepared in a cache, which is damaged and put back."""

    def __init__(self, folder: Path, make: Callable[[Path], tuple[Prepare, Callable[[Path], None]]]) -> None:
        self.cache, self.whole = folder / "cache", folder / "whole"
        folder.mkdir(parents=True)
        self.prepare, fill = make(folder)
        with contextlib.redirect_stderr(io.StringIO()):
            fill(self.cache)
            shutil.copytree(self.cache, self.whole)
            self.expected = content_of(self.prepare(self.cache))
        self.files = damageable(self.whole)

    def try_damage(self, place: Path, kind: str, chance: random.Random, counts: CachedDamage) -> None:
        """Damage the file and prepare again; adds what is wrong then to the failures.

        A copy of stdin that is gone is simply made: nothing says that it was there.
        """
        shutil.rmtree(self.cache)
        shutil.copytree(self.whole, self.cache)
        VERIFIED.clear()
        KINDS[kind](self.cache / place, chance)
        title, said = f"{self.cache.parent.name}: {place} {kind}", io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                found = content_of(self.prepare(self.cache))
            except GptcliError as error:
                counts.refused += 1
                if place.name not in str(error):
                    counts.failures.append(f"{title}: {error}")
                return
            except Exception as error:
                counts.failures.append(f"{title}: {error!r}")
                return
        if found != self.expected:
            counts.failures.append(f"{title}: other tokens")
        elif place.name not in said.getvalue() and not (kind == "removed" and place.parent.name == "spool"):
            counts.failures.append(f"{title}: the file is not named: {said.getvalue()}")


def damageable(folder: Path) -> list[Path]:
    """The files of a cache that hold something, as paths below it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [path.relative_to(folder) for path in found if path.suffix != ".lock"]


def content_of(data: PreparedMix) -> str:
    """A hash of all that a training takes from prepared data: tokens, documents, tokenizer and report."""
    digest = hashlib.sha256()
    for shards in (*data.train.parts, data.val, *data.vals):
        digest.update(np.ascontiguousarray(shards.read(0, len(shards))))
        digest.update(np.ascontiguousarray(shards.document_starts))
        digest.update(np.ascontiguousarray(shards.sizes.array))
    digest.update(data.tokenizer.backend.to_str().encode())
    digest.update(json.dumps(data.report, sort_keys=True).encode())
    return digest.hexdigest()


def prepared_by(sources: list[str], config: DataConfig, workers: WorkerConfig = ALL_CORES) -> Prepare:
    config = config.model_copy(update={"corpus": tuple(sources)})

    def run(cache: Path) -> PreparedMix:
        workspace = Workspace(config, cache, 0, workers)
        return prepare_mix(scan_mix(workspace), workspace)

    return run


def write_texts(folder: Path, count: int = 24, first: int = 0) -> str:
    folder.mkdir()
    for number in range(first, first + count):
        (folder / f"{number:03}.txt").write_text(f"text {number} of größe {number * number}\n" * (2 + number % 3))
    return str(folder)


def rows(count: int) -> str:
    return "".join(json.dumps({"text": f"row {number} of {number * number}"}) + "\n" for number in range(count))


def texts(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """A folder of texts and a learnt tokenizer."""
    run = prepared_by([write_texts(folder / "texts")], DataConfig(tokenizer=LEARNT))
    return run, run


def stream(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """Rows on stdin."""
    content = "".join(
        json.dumps({"text": f"row {number} of {number * number}"}) + "\n" for number in range(30)
    ).encode()
    run = prepared_by(["-"], DataConfig(tokenizer="char"))

    def read(cache: Path) -> PreparedMix:
        with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content))):
            return run(cache)

    return read, read


def mix(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """Two corpora that share texts, so that one is scanned without those that the other is validated on."""
    corpora = [write_texts(folder / "one"), write_texts(folder / "two", first=10)]
    entries = tuple({"corpus": (corpus,), "weight": weight} for corpus, weight in zip(corpora, (1, 2), strict=True))
    config = DataConfig(mix=entries, tokenizer=LEARNT, val_fraction=0.3)

    def run(cache: Path) -> PreparedMix:
        workspace = Workspace(config, cache)
        return prepare_mix(scan_mix(workspace), workspace)

    return run, run


def tokens(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """Tokens that another program wrote."""
    ids = np.random.default_rng(0).integers(0, 257, 4000).astype("<u2")
    (folder / "train.bin").write_bytes(ids.tobytes())
    run = prepared_by([str(folder / "train.bin")], DataConfig(tokenizer="byte"))
    return run, run


def subset(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """A part of a corpus, as a deadline takes it."""
    config = DataConfig(corpus=(write_texts(folder / "texts"),), tokenizer="byte")

    def run(cache: Path) -> PreparedMix:
        workspace = Workspace(config, cache)
        return prepare_mix(scan_subset(workspace, 800), workspace)

    return run, run


def stopped_scan(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """Parts of a scan that was stopped."""
    return stopped(folder, scan, "require_same")


def stopped_encoding(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """Parts of token shards whose making was stopped."""
    return stopped(folder, prepare, "write_overlap")


def stopped(folder: Path, module: Any, function: str) -> tuple[Prepare, Callable[[Path], None]]:
    run = prepared_by([write_texts(folder / "texts", 60)], DataConfig(tokenizer="char"), MANY_PARTS)

    def fill(cache: Path) -> None:
        with mock.patch.object(module, function, side_effect=KeyboardInterrupt), contextlib.suppress(KeyboardInterrupt):
            run(cache)

    return run, fill


def data_set(folder: Path) -> tuple[Prepare, Callable[[Path], None]]:
    """The copy of a data set, in parts."""
    (folder / "set").mkdir()
    (folder / "set" / "train.jsonl").write_text(rows(60))
    run = prepared_by([f"hf:{folder / 'set'}"], DataConfig(tokenizer="char"))

    def in_parts(cache: Path) -> PreparedMix:
        with mock.patch.object(streams, "PART_BYTES", 600):
            return run(cache)

    return in_parts, in_parts


SUBJECTS = {make.__name__: make for make in (texts, stream, mix, tokens, subset, stopped_scan, stopped_encoding)} | (
    {"data_set": data_set} if importlib.util.find_spec("datasets") else {}
)


def by_command(nursery: Nursery, folder: Path, trials: int, chance: random.Random, counts: CachedDamage) -> None:
    """Damage the cache that a training uses, and train, or resume a training: each gives the undamaged weights."""
    folder = folder / "trained"
    folder.mkdir()
    corpus, cache = make_corpus(folder), folder / "cache"
    where = ["--cache-dir", str(cache)]

    def run(to: Path, steps: int) -> Any:
        settings = {"data__tokenizer__name": "bpe", "data__tokenizer__vocab_size": 300, "train__max_steps": steps}
        return nursery.run([*train_command(corpus, to, **settings), *where], folder)

    stopped_run, whole = folder / "stopped", folder / "whole"
    for to, steps in ((stopped_run, STOP), (folder / "run", STEPS)):
        command = run(to, steps)
        assert command.code == 0, command.said
    resumed = folder / "resumed"
    shutil.copytree(stopped_run, resumed)
    assert run(resumed, STEPS).code == 0
    expected = {False: weights_of(folder / "run"), True: weights_of(resumed)}
    shutil.copytree(cache, whole)
    files = damageable(whole)
    used_again = [path for path in files if path.parts[0] != "tokenizers"]  # a run that is resumed has its own
    for number in range(trials):
        for made in (cache, resumed, folder / "run"):
            shutil.rmtree(made)
        shutil.copytree(whole, cache)
        is_resumed, kind = bool(number % 2), list(KINDS)[number // 2 % len(KINDS)]
        path = chance.choice(used_again if is_resumed else files)
        KINDS[kind](cache / path, chance)
        to = resumed if is_resumed else folder / "run"
        if is_resumed:
            shutil.copytree(stopped_run, resumed)
        command = run(to, STEPS)
        counts.trainings += 1
        counts.files.add(path.name)
        title = f"{'resume' if is_resumed else 'train'}: {path} {kind}"
        if path.name not in command.said:
            counts.failures.append(f"{title}: the file is not named: {command.last_line}")
        if command.code == 0 and weights_of(to) != expected[is_resumed]:
            counts.failures.append(f"{title}: other weights")
        counts.refused += command.code != 0
        for made in (resumed, folder / "run"):
            made.mkdir(exist_ok=True)


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()
