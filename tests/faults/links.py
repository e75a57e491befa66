"""Links in the place of everything that a run and a cache hold: nothing outside changes, and the link is named."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Command, Nursery
from faults.victim import make_corpus, train_command
from gptcli.checkpoint.run_directory import COPY, LOGS, RUN_FILES, TRACKER_FILES
from gptcli.manifest import MANIFEST_NAME

SHORT = {
    "train__eval_every_steps": 5,
    "train__sample_every_steps": 5,
    "train__keep_last": 1,
    "train__keep_best": "false",
}
KINDS = ("moved", "file", "folder", "nothing", "second name")
"""What a link leads to: what lay there before, something of others, or nothing; or it is a hard link."""
MADE_LATER = ("bad-steps/step-00000011.json", COPY, "writer.lock", "fingerprints.jsonl", *TRACKER_FILES)
"""Names that a short run does not have, but another one writes."""
DEAD = f".tmp-{2**22 + 1}-1-{'0' * 16}-00"


@dataclass
class Links:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def use_cache(path: str) -> None:
    """A hook of the nursery: a cache of its own for one command."""
    os.environ["XDG_CACHE_HOME"] = path


def link_campaign(nursery: Nursery, folder: Path, in_runs: int, in_caches: int, seed: int = 0) -> Links:
    """Put links at so many names of a run and of a cache, first those of which most is written, and run what writes."""
    counts, chance = Links(), random.Random(seed)
    corpus, begun, cache = make_corpus(folder), folder / "begun", folder / "begun-cache"
    settled(corpus)
    for arguments in (train(corpus, begun, 10), prepare(corpus)):
        command = nursery.run(arguments, folder, hook=f"faults.links:use_cache {cache}")
        assert command.code == 0, command.said
    names = sorted({*RUN_FILES, *LOGS, MANIFEST_NAME, "checkpoints", *MADE_LATER, *below(begun)})
    for name, kind in chosen(names, in_runs, chance):
        run = folder / f"run-{counts.trials}"
        shutil.copytree(begun, run)
        attack(nursery, folder, counts, run / name, kind, train(corpus, run, 15), cache)
        shutil.rmtree(run)
    for name, kind in chosen(cache_names(cache / "gptcli"), in_caches, chance):
        copy = folder / f"cache-{counts.trials}"
        shutil.copytree(cache, copy)
        forget(copy / "gptcli", name)
        attack(nursery, folder, counts, copy / "gptcli" / name, kind, prepare(corpus), copy)
        shutil.rmtree(copy)
    return counts


def settled(corpus: Path) -> None:
    """Make the corpus old, so that a scan of it is kept."""
    os.utime(corpus, (1.0e9, 1.0e9))


def train(corpus: Path, run: Path, steps: int) -> list[str]:
    return train_command(corpus, run, train__max_steps=steps, **SHORT)


def prepare(corpus: Path) -> list[str]:
    return ["data", "prepare", str(corpus), "--set=data.tokenizer.name=bpe", "--set=data.tokenizer.vocab_size=300"]


def below(folder: Path) -> Iterator[str]:
    """The names of all that lies in a folder."""
    return (str(path.relative_to(folder)) for path in folder.rglob("*"))


def cache_names(cache: Path) -> list[str]:
    """The names of a cache, and those that its entries have while they are made."""
    entries = [f"{kind.name}/{entry.name}" for kind in cache.iterdir() for entry in kind.iterdir() if entry.is_dir()]
    making = [f"{entry}{ending}" for entry in entries for ending in (".lock", ".work", f".work/part{DEAD}", DEAD)]
    return sorted({*below(cache), *making})


def forget(cache: Path, name: str) -> None:
    """Remove the entry that a name belongs to, unless it lies in there, so that it is made again."""
    parts = Path(name).parts
    entry = cache.joinpath(*parts[:2])
    if len(parts) == 1:
        shutil.rmtree(cache / name)
        (cache / name).mkdir()
    elif len(parts) == 2:
        shutil.rmtree(entry.with_name(entry.name.partition(".")[0]), ignore_errors=True)


def chosen(names: list[str], count: int, chance: random.Random) -> list[tuple[str, str]]:
    """Names and kinds of links, in an order by chance that begins with files and folders near the top."""
    pairs = [(name, kind) for name in names for kind in KINDS]
    chance.shuffle(pairs)
    return sorted(pairs, key=lambda pair: pair[0].count("/") > 1 or pair[0].startswith("val/"))[:count]


def attack(
    nursery: Nursery, folder: Path, counts: Links, path: Path, kind: str, arguments: list[str], cache: Path
) -> None:
    """Plant a link, run the command, and look at what is outside and at what was said; then do without the link."""
    outside = folder / f"outside-{counts.trials}"
    others(outside)
    if not plant(path, kind, outside):
        shutil.rmtree(outside)
        return
    before = content(outside)
    command = nursery.run(arguments, folder, hook=f"faults.links:use_cache {cache}")
    counts.trials += 1
    what = f"{kind} at {path.relative_to(folder)}"
    if content(outside) != before:
        counts.failures.append(f"{what}: changed {sorted(set(content(outside).items()) ^ set(before.items()))[:3]}")
    counts.failures += [f"{what}: {wrong}" for wrong in wrong_words(command, path, kind)]
    if command.code:
        counts.refused += 1
    shutil.rmtree(outside)


def others(outside: Path) -> None:
    """Files of others, some with names that ours have."""
    step = outside / "folder" / "step-00000005"
    step.mkdir(parents=True)
    half_written = outside / "folder" / f"step-00000007{DEAD}"
    half_written.mkdir()
    for path in (outside / "file", step / "manifest.json", half_written / "state.json", outside / "folder" / "tokens"):
        path.write_text(f"theirs: {path.name}\n" * 3)
    (outside / "folder" / f"index.json{DEAD}").write_text("theirs")


def plant(path: Path, kind: str, outside: Path) -> bool:
    """Put the link there; False where there is nothing to move, or that could have a second name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_there = path.exists()
    if (kind == "moved" and not is_there) or (kind == "second name" and path.is_dir()):
        return False
    if kind == "moved":
        shutil.move(path, outside / "moved")
    elif kind == "second name" and is_there:
        os.link(path, outside / "moved")
        return True
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "second name":
        os.link(outside / "file", path)
    else:
        path.symlink_to(outside / kind)
    return True


def content(outside: Path) -> dict[str, bytes | None]:
    """Every name outside, with the bytes of files."""
    return {name: (outside / name).read_bytes() if (outside / name).is_file() else None for name in below(outside)}


def wrong_words(command: Command, path: Path, kind: str) -> Iterator[str]:
    if command.code not in (0, 2, 3, 4, 5) or "Traceback" in command.said:
        yield f"exit {command.code}: {command.said[-300:]}"
    elif (
        command.code == 5
        and kind != "second name"
        and not any(parent.name in command.last_line for parent in (path, path.parent, path.parent.parent))
    ):
        yield f"the link is not named: {command.last_line}"
