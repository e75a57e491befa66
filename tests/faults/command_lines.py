"""Command lines that people type by mistake, streams that cannot be used, and folders of planted modules.

Every command of the tree gets options of the right and the wrong type, names of every odd kind, values that are
missing, and stdin, stdout and stderr that are closed or full. Whatever it is, the command ends soon, without a
traceback, with an exit code of docs/reliability.md, and leaves no process behind.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import torch

from command_tree import LEAVES
from faults.line_words import LARGE, NAMES, NUMBERS, SERVING, SETTINGS, SMALL, TEXTS, WORKING
from faults.nursery import Command, Nursery
from faults.planted import imported_by_python, plant, planted_imported
from faults.victim import make_corpus, train_command
from gptcli import interruptible

LONGEST_SECONDS, LONGEST_CPU_SECONDS = 60, 10
"""A command that takes longer hangs; the processor's time is what the machine's other work does not lengthen."""
GRACE_SECONDS = 10
"""In which processes that a command started must end after it."""
CODES = (0, 2, 3, 4, 5, 7)
"""Exit codes of docs/reliability.md that such a command may end with."""
TALK = shutil.ignore_patterns("talk-*")
"""What the nursery keeps of the commands that made the sandbox."""
TRAINS = {("train",), ("verify-resume",)}
LEFT_OUT = {
    "--compile": "it takes half a minute",
    "--nproc": "it starts processes that import torch anew",
    "--yes": "it removes what other lines read",
    "--tasks": "it reads the index of lm-evaluation-harness for ten seconds",
    "--install-completion": "it writes to the home directory",
    "--show-completion": "it asks which shell calls",
}
"""Options that random lines do not have, and why."""
ENDS_AT_ONCE = {
    "bench": ["--no-such-option"],
    "verify-resume": ["--steps", "0"],
    "serve": ["--unix-socket", "/dev/null"],
    "selfcheck": ["--device", "none"],
}
"""What keeps commands that would work for minutes from beginning: they are tried up to there."""


@dataclass
class Found:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    codes: dict[int, int] = field(default_factory=dict)
    longest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


# --- the sandbox


def make_sandbox(folder: Path, nursery: Nursery) -> Path:
    """A folder with one thing of every kind that a command reads, and things that none can."""
    folder.mkdir(parents=True)
    corpus = make_corpus(folder)
    assert nursery.run(train_command(corpus, folder / "run", train__max_steps=10), folder).code == 0
    assert nursery.run(["export", folder / "run", "--to", "hf", "--out", folder / "model"], folder).code == 0
    rows = [{"messages": [{"role": "user", "content": f"How many {n}?"}]} for n in range(50)]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": f"line {n}", "completion": f"is {n}"} for n in range(50)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "plain.jinja").write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    chat = [f"01.02.24, 10:{n:02} - {('Ada', 'Ben')[n % 2]}: line {n}" for n in range(20)]
    (folder / "whatsapp.txt").write_text("\n".join(chat) + "\n")
    (folder / "book.txt").write_text("The cat sat on the mat.\n" * 200)
    torch.save({"model": {"w": torch.ones(2)}}, folder / "ckpt.pt")
    (folder / "small.toml").write_text("[model]\nn_layer = 1\nn_embd = 32\n")
    (folder / "empty").write_bytes(b"")
    (folder / "bytes").write_bytes(bytes(range(256)) * 4)
    (folder / "folder").mkdir()
    (folder / "locked").mkdir()
    (folder / "locked.txt").write_text("secret")
    (folder / "self").symlink_to("self")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "-h.txt").write_text("A name like an option.\n" * 50)
    (folder / "a\nb\x1b[31m.txt").write_text("A name with a line end.\n" * 50)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("A name in Latin-1.\n" * 50)
    return folder


PLAIN_STREAMS = (
    {},
    {},
    {},
    {"stdin": "closed"},
    {"stdout": "full"},
    {"stdout": "closed"},
    {"stderr": "full"},
    {"stderr": "closed"},
)


def value_of(parameter: Any, draw: random.Random) -> str:
    """A value for a parameter: mostly one that serves, otherwise one of its type or of another."""
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    serves = draw.random() < 0.65
    if serves and parameter.name in SERVING:
        return draw.choice(SERVING[parameter.name])
    if not serves and draw.random() < 0.2:
        return draw.choice((*NAMES, *NUMBERS[:8], *TEXTS))
    if annotation in (int, float):
        numbers = [number for number in NUMBERS if number not in LARGE]
        return "2" if serves else draw.choice(numbers if parameter.max is None or parameter.max > 1000 else NUMBERS)
    if get_args(annotation):  # one of several words
        words = [str(word) for word in get_args(annotation) if word != "onnx"]  # it takes ten seconds
        return draw.choice(words if serves else ("bogus", ""))
    if "--set" in parameter.opts:
        return draw.choice(SETTINGS)
    return draw.choice((*NAMES, *NAMES, *TEXTS))


def random_line(draw: random.Random, words: tuple[str, ...]) -> list[str]:
    """One command line of the command `words`."""
    line, positional = [], []
    for parameter in LEAVES[words]:
        name = parameter.opts[-1]
        if parameter.param_type_name == "argument":
            count = draw.choice((0, 1, 1, 1, 1, 2)) if parameter.nargs != 1 else draw.random() < 0.95
            positional += [value_of(parameter, draw) for _ in range(int(count))]
        elif name not in LEFT_OUT and draw.random() < (0.95 if parameter.required else 0.12):
            line += option(parameter, name, draw)
    line = [*positional, *line] if draw.random() < 0.7 else [*line, *positional]
    if draw.random() < 0.05:
        line.insert(draw.randint(0, len(line)), draw.choice(("--no-such-option", "-q", "--out", "--json=1", "-", "")))
    line += SMALL if words in TRAINS else []
    return [*words, *line, *ENDS_AT_ONCE.get(words[0], [])]


def option(parameter: Any, name: str, draw: random.Random) -> list[str]:
    if parameter.is_flag:
        return [name] if draw.random() < 0.97 else [f"{name}=yes"]
    if draw.random() < 0.02:
        return [name]  # its value is missing
    value = value_of(parameter, draw)
    return [f"{name}={value}"] if draw.random() < 0.5 else [name, value]


# --- in the process of the command


def exit_quickly(code: int) -> NoReturn:
    """End as the interpreter does, but for taking down the modules of torch, which lasts longer than most commands."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def set_streams(argument: str) -> None:
    """A hook: close streams or connect them to a device that is always full, as in {"stdout": "full"}; name the trial
    in the environment, by which processes that come from this one are found."""
    request = json.loads(argument)
    os.environ["GPTCLI_TRIAL"] = request.pop("trial")
    interruptible.exit_process = exit_quickly
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        how = request.get(name)
        if how == "closed":
            os.close(number)
            setattr(sys, name, None)  # as Python finds it when it starts
            setattr(sys, f"__{name}__", None)
        elif how == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        elif how == "text":
            os.dup2(os.open(request["text"], os.O_RDONLY), 0)
    if request.get("workers"):  # of which a small corpus would start none
        from gptcli.data.worker_pool import WorkerConfig

        WorkerConfig.__init__.__defaults__ = (2, 1000)
    if request.get("search_here"):
        sys.path.insert(0, "")
        os.environ.pop("PYTHONSAFEPATH", None)  # which the nursery has set for itself


# --- a trial


def left_behind(trial: str) -> list[int]:
    """Processes that come from a trial and still run, after a moment in which they may end."""
    mark = f"GPTCLI_TRIAL={trial}".encode()
    end = time.monotonic() + GRACE_SECONDS
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def wrong_after(
    command: Command,
    line: Sequence[str],
    streams: dict[str, str],
    trial: str,
    found: Found,
    most: float = LONGEST_CPU_SECONDS,
) -> list[str]:
    """Everything that a command did wrong; its exit code is counted."""
    began = time.monotonic()
    try:
        code = command.wait(max(LONGEST_SECONDS, 5 * most))
    except TimeoutError:
        return [f"{shown(line)} {streams}: it was still running after {LONGEST_SECONDS} s"]
    found.longest_seconds = max(found.longest_seconds, command.cpu_seconds)
    found.codes[code] = found.codes.get(code, 0) + 1
    wrong = []
    if code not in CODES:
        wrong.append(f"exit code {code}")
    if "Traceback" in command.said or "Exception ignored" in command.said:
        wrong.append("a traceback")
    if command.cpu_seconds > most:
        wrong.append(f"{command.cpu_seconds:.1f} s of the processor, {time.monotonic() - began:.1f} s")
    if "\x1b" in command.said or "\udcff" in command.said:
        wrong.append("it printed what a terminal obeys")
    if code not in (0, None) and not streams.get("stderr") and not command.said.strip():
        wrong.append(f"exit code {code} without a word")
    if left := left_behind(trial):
        wrong.append(f"it left processes {left}")
    return [f"{shown(line)} {streams}: {what}: {command.last_line[:300]}" for what in wrong]


def shown(line: Sequence[str]) -> str:
    return " ".join(repr(word[:60])[1:-1] or "''" for word in line if word not in SMALL)


class Attempt:
    """One line, typed in a fresh copy of the sandbox."""

    def __init__(
        self, nursery: Nursery, sandbox: Path, place: Path, line: Sequence[str], streams: dict[str, Any], found: Found
    ) -> None:
        self.place, self.line, self.streams, self.found = place, line, streams, found
        shutil.copytree(sandbox, place, symlinks=True, ignore=TALK)
        (place / "locked.txt").chmod(0)
        (place / "locked").chmod(0)
        found.trials += 1
        self.trial = f"{os.getpid()}-{id(found)}-{found.trials}"
        hook = "faults.command_lines:set_streams " + json.dumps({**streams, "trial": self.trial})
        self.command = nursery.start(line, place, hook=hook)

    def finish(self) -> Command:
        self.found.failures += wrong_after(self.command, self.line, self.streams, self.trial, self.found)
        for name in ("locked", "locked.txt"):
            with contextlib.suppress(OSError):  # the command may have replaced it
                (self.place / name).chmod(0o700)
        shutil.rmtree(self.place, ignore_errors=True)
        return self.command


# --- the campaigns


AT_ONCE = 2


def random_campaign(nursery: Nursery, sandbox: Path, folder: Path, trials: int, seed: int = 0) -> Found:
    """Random lines, each command about equally often, those that only begin (`bench`) a quarter as often."""
    found, draw = Found(), random.Random(seed)
    words = sorted(LEAVES)
    often = [each for each in words if each[0] not in ENDS_AT_ONCE and each != ("config", "list")]
    order = [each for turn in range(trials) for each in (often if turn % 4 else words)]
    while found.trials < trials:
        started = []
        for _ in range(min(AT_ONCE, trials - found.trials)):
            line = random_line(draw, order[found.trials])
            place = folder / f"trial-{found.trials}"
            started.append(Attempt(nursery, sandbox, place, line, draw.choice(PLAIN_STREAMS), found))
        for each in started:
            each.finish()
    return found


STREAMS = (
    {"stdout": "full"}, {"stdout": "closed"}, {"stderr": "full"}, {"stderr": "closed"}, {"stdin": "closed"},
    {"stdout": "full", "stderr": "full"}, {"stdout": "closed", "stderr": "closed", "stdin": "closed"},
)  # fmt: skip


def stream_campaign(nursery: Nursery, sandbox: Path, folder: Path, part: float = 1.0) -> Found:
    """Lines that work, with streams that do not: exit code 5 where data is lost, 0 where only talk is."""
    found = Found()
    trials = [(verb, streams) for streams in STREAMS for verb in WORKING]
    for number, (verb, streams) in enumerate(trials[:: max(1, round(1 / part))]):
        line = [*verb.split(), *WORKING[verb]]
        command = Attempt(nursery, sandbox, folder / f"trial-{number}", line, streams, found).finish()
        expected = 5 if "stdout" in streams else 0
        if command.code != expected:
            found.failures.append(f"{shown(line)} {streams}: {command.code} instead of {expected}: {command.last_line}")
    return found


STARTS_PROCESSES = {
    "a chat template": ["train", "chat.jsonl", "--set", "data.text_field=messages", "--out", "new", *SMALL],
    "a pickle": ["import", "ckpt.pt", "--tokenizer", "run", "--out", "new"],
    "workers": ["data", "prepare", "book.txt", "corpus.txt", "a\nb\x1b[31m.txt", "--workers", "2"],
    "verify-resume": ["verify-resume", "book.txt", "--steps", "2", "--kills", "1", *SMALL],
    "ranks": ["train", "book.txt", "--nproc", "2", "--out", "new", *SMALL],
    "a compiler": ["train", "book.txt", "--out", "new", *SMALL, "--set", "train.compile=true"],
}
"""Lines that start processes of ours."""
QUICK = ("a chat template", "a pickle", "workers")
FIRST = ("config show", "a chat template", "generate")
"""What a slice of the campaign starts anew."""
MOST_CPU_SECONDS = 120


SCRIPT = "#!{python}\nimport sys\nfrom gptcli.cli.app import main\n\nsys.exit(main())\n"
"""What an installer writes as `gptcli`."""


def planted_campaign(nursery: Nursery, sandbox: Path, folder: Path, started: int = 100) -> Found:
    """Every command in a folder of planted modules, of which none may be imported.

    Commands are forked from the nursery, which has imported most, with the working directory first on the path of
    imports; `started` of them are started anew as well, as `gptcli` and as `python -m gptcli`.
    """
    found, markers = Found(), folder / "markers"
    here, others = (shutil.copytree(sandbox, folder / n, symlinks=True, ignore=TALK) for n in ("here", "others"))
    (folder / "probe").mkdir()
    plant(here, markers)
    plant(others, markers, imported_by_python(folder / "probe"))
    script = folder / "bin" / "gptcli"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(python=sys.executable))
    working = {verb: [*verb.split(), *rest] for verb, rest in WORKING.items()}
    for name, line in {**STARTS_PROCESSES, **working}.items():
        if name in STARTS_PROCESSES and name not in QUICK and started < len(STARTS_PROCESSES):
            continue
        found.trials += 1
        shutil.rmtree(here / "new", ignore_errors=True)
        trial = f"{os.getpid()}-{id(found)}-{found.trials}"
        hook = {"trial": trial, "search_here": True, "workers": name == "workers"}
        command = nursery.start(line, here, hook="faults.command_lines:set_streams " + json.dumps(hook))
        found.failures += wrong_after(command, line, {}, trial, found, MOST_CPU_SECONDS)
        found.failures += wrong_when_planted(name, line, command.code, command.said, markers)
    real = [(verb, line) for verb, line in {**working, **STARTS_PROCESSES}.items()]
    real = sorted(real, key=lambda pair: FIRST.index(pair[0]) if pair[0] in FIRST else len(FIRST))[:started]
    for name, line in real:
        for program, place in (([sys.executable, script], here), ([sys.executable, "-m", "gptcli"], others)):
            found.trials += 1
            shutil.rmtree(place / "new", ignore_errors=True)
            done = subprocess.run(
                [*program, *line], cwd=place, env=nursery.environment, capture_output=True, text=True, timeout=300,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            found.failures += wrong_when_planted(name, line, done.returncode, done.stderr, markers)
    return found


def wrong_when_planted(name: str, line: Sequence[str], code: int | None, said: str, markers: Path) -> list[str]:
    imported = planted_imported(markers)
    wrong = [f"{shown(line)}: imported {', '.join(imported)}"] if imported else []
    if code != (4 if name == "a pickle" else 0):  # the pickle is read, and is no checkpoint
        wrong.append(f"{shown(line)}: exit code {code}: {said[-300:]}")
    return wrong
