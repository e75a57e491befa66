"""Nonsense for every key of the configuration and for every option and argument that is a number.

The command does what it was told, or it ends at once with an exit code of its own and one line that names the key.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import typer

from faults.ends import wrong_json
from faults.nursery import Command, Nursery
from faults.options import numbers_of
from faults.victim import SETTINGS, make_corpus
from gptcli.cli.app import app
from gptcli.config.base import Config, union_members
from gptcli.config.reference import tables_in
from gptcli.train.config import RunConfig

LONGEST_SECONDS = 5.0
"""Seconds of processor time that a command may take."""
LONGEST_WAIT = 60.0
"""Seconds after which a command counts as one that hangs, on a machine that does other work as well."""
LARGEST_GROWTH = 2**30
"""Bytes of memory that a command may take beyond what the process had when it was forked."""
ADDRESS_SPACE = 2**31
"""Bytes by which its address space may grow, so that a larger allocation fails."""
LONGEST_LINE = 4000
AT_ONCE = 2
CODES = (0, 2, 3, 4, 5, 6, 7)
"""The documented exit codes of a command that was not asked to stop."""
VALUES = {
    "-1": -1,
    "0": 0,
    "1": 1,
    "2**62": 2**62,
    "10**25": 10**25,
    "0.5": 0.5,
    "1e308": 1e308,
    "1e-320": 1e-320,
    "inf": math.inf,
    "-inf": -math.inf,
    "nan": math.nan,
    "true": True,
    "x": "x",
    "an empty text": "",
    "10 kB of text": "long " * 2048,
    "a NUL": "a\0b",
    "an empty array": [],
    "[-1]": [-1],
    "10,000 numbers": [1] * 10_000,
    "10,000 texts": ["x"] * 10_000,
    "an empty table": {},
    "a table": {"x": 1},
}
ON_THE_COMMAND_LINE = (
    *("-1", "0", "1", str(2**62), str(10**25), "1e308", "1e-320", "inf", "-inf", "nan", "x", ""),
    "9" * 10_000,
)
BASE = SETTINGS | {
    "train.max_steps": 2,
    "train.eval_every_steps": 1,
    "train.checkpoint_every_steps": 1,
    "train.eval_tokens": 64,
    "train.fingerprints": "false",
    "model.dropout": 0.0,
    "data.corpus": '["corpus.txt"]',
}
COMPARING = ("train", "generate", "learn", "deadline", "data")
"""The benches in which other programs take part."""
NUMBERS_IN_TEXTS = (
    ("train", "--time", "%"),
    ("train", "--time", "%s"),
    ("train", "--nnodes", "%"),
    ("train", "--nnodes", "1:%"),
    ("generate", "--checkpoint", "%"),
    ("generate", "--device", "cuda:%"),
    ("plan", "--gpu", "h100,memory=%"),
    ("plan", "--gpu", "flops=%,memory=%,bandwidth=%,link=%,network=%"),
    ("bench generate", "--batch-sizes", "%"),
    ("bench learn", "--targets", "%"),
    ("bench deadline", "--minutes", "%"),
)
"""Options that are texts with numbers in them."""
OTHER_WORDS = {
    "max_seconds": ("--time",),
    "mix": ("no corpus to train on",),
    "corpus_bytes": ("the corpus holds",),
    "path": ("tokenizer",),
    "repo": ("tokenizer",),
    "revision": ("tokenizer",),
    "val": ("corpus", "validation"),
    "init_from": ("MODEL", "a run, a Hugging Face model directory"),
    "step": ("step",),
    "embedding_lr": ("diverged",),
    "head_lr": ("diverged",),
    "adamw_lr": ("diverged",),
    "--checkpoint": ("checkpoint",),
    "--device": ("device",),
}
"""What a message may call a key or an option, beside its name."""
SKIPPED = {
    "train.compile = true",  # it compiles, which takes longer
    "train --nproc 1",  # it starts a process, which loads torch once more
    "bench startup --rounds 1",  # it starts many
}
NEEDED = {
    "LinearScaling": {"factor": 2.0},
    "Llama3Scaling": {"factor": 2.0, "original_context_length": 16},
    "YarnScaling": {"factor": 2.0, "original_context_length": 16},
    "MixedCorpus": {"corpus": ["corpus.txt"], "weight": 1.0},
    "FileTokenizerConfig": {"path": "no-tokenizer"},
    "HubTokenizerConfig": {"repo": "no/tokenizer"},
}
"""The keys that a table cannot do without, by its class."""


class Key(NamedTuple):
    """A key, what is set beside it, and the assignment of a value to it, with % in place of the value."""

    name: str
    beside: tuple[str, ...]
    form: str


class Try(NamedTuple):
    """A command with nonsense in it. `words`: a message of it must have one of them."""

    name: str
    words: tuple[str, ...]
    arguments: list[str]


@dataclass
class Nonsense:
    """Counts of a campaign, and what went wrong in words."""

    keys: int = 0
    options: int = 0
    trials: int = 0
    accepted: int = 0
    most_growth: int = 0
    most_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def nonsense_campaign(nursery: Nursery, folder: Path, part: float = 1.0, seed: int = 0) -> Nonsense:
    """Make a part of all tries, drawn by `seed`: two at a time, each in a process of its own."""
    counts, chance = Nonsense(), random.Random(seed)
    corpus, run = make_corpus(folder), folder / "run"
    assert nursery.run([*training(run), "--json"], folder).code == 0
    idle = nursery.run(["--version"], folder).peak_bytes
    short = {verb: arguments for verb, arguments in verbs(corpus, run).items() if verb != "bench startup"}
    usual = [nursery.run(arguments, folder, ends_at_once=True) for arguments in short.values()]
    keys, options = key_tries(folder), option_tries(corpus, run)
    waiting = [one for one in (*keys, *options) if one.name not in SKIPPED]
    waiting = chance.sample(waiting, max(1, round(part * len(waiting))))
    counts.keys, counts.options = len({key.name for key in keys_of(RunConfig)}), len({one.words for one in options})
    counts.trials = len(waiting)
    while waiting:
        started = [(one, start(nursery, one, folder)) for one in waiting[:AT_ONCE]]
        del waiting[:AT_ONCE]
        for one, command in started:
            wrong = wrong_after(one, command, idle, [(end.code, end.last_line) for end in usual], counts)
            counts.failures += [f"{one.name}: {what}" for what in wrong]
        for made in folder.glob("nonsense-*"):
            shutil.rmtree(made, ignore_errors=True)
    return counts


def start(nursery: Nursery, one: Try, folder: Path) -> Command:
    return nursery.start(one.arguments, folder, memory=ADDRESS_SPACE, ends_at_once=True)


def wrong_after(one: Try, command: Command, idle: int, usual: list[tuple[int, str]], counts: Nonsense) -> Iterator[str]:
    """Everything that a command did wrong; `usual` are the ends of the same commands without nonsense."""
    try:
        code = command.wait(LONGEST_WAIT)
    except TimeoutError:
        yield f"it was still running after {LONGEST_WAIT:.0f} s"
        return
    said, growth = command.said, command.peak_bytes - idle
    counts.most_growth = max(counts.most_growth, growth)
    counts.most_seconds = max(counts.most_seconds, command.cpu_seconds)
    counts.accepted += code == 0
    if code not in CODES:
        yield f"exit {code}: {command.last_line[:300]}"
    if (
        "Traceback" in said
        or re.match(r"\w+Error: ", command.last_line)
        or (code and len(command.last_line) > LONGEST_LINE)
    ):
        yield f"not one line: {command.last_line[:300]}"
    if code and (code, command.last_line) not in usual and not any(word in command.last_line for word in one.words):
        yield f"it names none of {one.words}: {command.last_line[:300]}"
    if growth > LARGEST_GROWTH or command.cpu_seconds > LONGEST_SECONDS:
        yield f"{growth:,} bytes of memory, {command.cpu_seconds:.1f} s"
    if code == 0 and "--json" in one.arguments:
        yield from wrong_json(command.stdout_path.read_text())


def toml(value: Any) -> str:
    """A value as TOML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def keys_of(kind: type[Config], path: str = "", beside: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every key of `kind` and of the tables in it, of a tagged union those of every member."""
    for name, information in kind.model_fields.items():
        yield Key(f"{path}{name}", beside, f"{path}{name}=%")
        for member in union_members(information.annotation):
            if isinstance(member, type) and issubclass(member, Config):
                needed = {"name": member.model_fields["name"].default} if "name" in member.model_fields else {}
                needed |= NEEDED.get(member.__name__, {})
                sets = tuple(f"{path}{name}.{key}={toml(value)}" for key, value in needed.items())
                yield from keys_of(member, f"{path}{name}.", (*beside, *sets))
        for table in tables_in(information.annotation):
            needed = NEEDED[table.__name__]
            for key in table.model_fields:
                others = "".join(f"{other} = {toml(value)}, " for other, value in needed.items() if other != key)
                yield Key(f"{path}{name}.{key}", beside, f"{path}{name}=[{{{others}{key} = %}}]")


def key_tries(folder: Path) -> list[Try]:
    """A training of two steps for every key and every value."""
    keys = {(key.name, key.beside): key for key in keys_of(RunConfig)}.values()
    found = []
    for key in keys:
        last = key.name.rpartition(".")[2]
        without = "data.corpus" if key.name.startswith("data.mix") else ""
        for said, value in VALUES.items():
            given = toml(value)
            run = folder / f"nonsense-{len(found)}"
            sets = [f"--set={assignment}" for assignment in (*key.beside, key.form.replace("%", given))]
            name = f"{key.name} = {said}" + (f" ({key.beside[0]})" if key.beside else "")
            words = (last, last.replace("_", " "), *OTHER_WORDS.get(last, ()))
            found.append(Try(name, words, [*training(run, without), *sets, "--json"]))
    return found


def training(run: Path, without: str = "") -> list[str]:
    """A training of two steps, without the setting of one key."""
    sets = [f"--set={name}={given}" for name, given in BASE.items() if name != without]
    return ["train", *sets, "--out", str(run)]


def verbs(corpus: Path, run: Path) -> dict[str, list[str]]:
    """A short command of every verb that takes numbers; those that would take long stop at another mistake."""
    out = corpus.parent / "nonsense-out"
    stopped = {f"bench {name}": ["bench", name, "--peer", "none"] for name in COMPARING}
    return stopped | {
        "train": [*training(out), "--dry-run", "--json"],
        "finetune": ["finetune", str(run), "absent.jsonl", "--dry-run", "--json"],
        "generate": ["generate", str(run), "line", "--max-new-tokens", "2", "--json"],
        "chat": ["chat", str(run)],
        "eval": ["eval", str(run), "--json"],
        "plan": ["plan", "gpt2-124m", "--json"],
        "replay": ["replay", str(run), "1", "--json"],
        "serve": ["serve", str(run), "--unix-socket", "/dev/null"],
        "verify-resume": ["verify-resume", "--json"],
        "selfcheck": ["selfcheck", "--device", "none"],
        "bench": ["bench", "--peer", "none"],
        "bench limits": ["bench", "limits", "--device", "none"],
        "bench prepare": ["bench", "prepare", "absent.txt"],
        "bench startup": ["bench", "startup"],
        "data prepare": ["data", "prepare", str(corpus), "--json"],
        "data inspect": ["data", "inspect", str(corpus), "--json"],
        "data conversations": ["data", "conversations", "absent.txt", "--out", str(out)],
        "tokenizer train": ["tokenizer", "train", str(corpus), "--out", str(out)],
    }


def option_tries(corpus: Path, run: Path) -> list[Try]:
    """Every option and argument that is a number, and those texts that hold one, with every value."""
    numbers = numbers_of(typer.main.get_command(app))
    named = [(number.verb, number.name, "%") for number in numbers] + list(NUMBERS_IN_TEXTS)
    found = []
    for verb, name, form in named:
        usual = verbs(corpus, run)[verb]
        for value in ON_THE_COMMAND_LINE:
            given = form.replace("%", value)
            said = f"{verb} {name} {given if len(given) < 30 else 'many digits'}"
            is_option = name.startswith("--")
            arguments = [*usual, f"{name}={given}"] if is_option else [*usual[:2], "--json", "--", value]
            words = (name, name.removeprefix("--").replace("-", "_"), *OTHER_WORDS.get(name, ()))
            found.append(Try(said, words, arguments))
    return found
