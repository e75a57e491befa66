"""Control characters in everything foreign that is printed: names of files, columns, tokens and models, values, texts,
templates. None of them reaches stderr, a table on stdout, or a terminal.
"""

from __future__ import annotations

import csv
import json
import os
import pty
import random
import shutil
import threading
import tty
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from faults.nursery import Nursery
from faults.tokenizers import TOKEN, VALID
from faults.victim import make_corpus, train_command
from gptcli.manifest import MANIFEST_NAME

PAYLOADS = (
    "\x1b[31m", "\x1b]52;c;aGk=\x07", "\x1bP0;1|17/ab\x1b\\", "\x9b2J", "\x85", "\r", "\x08\x08\x08", "\x7f", "\x0c",
    "\u202egnp", "\u2066x\u2069", "\u200f", "\u2028", "\x1b[8m\u202e\x9d0;t\x9c",
)  # fmt: skip
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
LONGEST_WAIT = 60


class Printed(NamedTuple):
    """A place where something foreign is printed, and the command that does it.

    Attributes:
        on_terminal: whether stdout is a terminal; otherwise only stderr and tables are looked at.
        is_data: whether stdout is data, which a file gets as it is.
    """

    name: str
    arguments: list[Any]
    on_terminal: bool = False
    is_data: bool = False


@dataclass
class Escapes:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    places: set[str] = field(default_factory=set)
    shown: int = 0
    failures: list[str] = field(default_factory=list)


def controls(text: str) -> set[str]:
    """The characters of `text` that a terminal would obey."""
    return {
        character
        for character in set(text) - set("\n\t")
        if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in TURNING
        or character in "\u061c\u200e\u200f"
    }


class Terminal:
    """A pseudo-terminal whose output is kept; use it in a `with` block."""

    def __enter__(self) -> Terminal:
        self.main, self.device = pty.openpty()
        tty.setraw(self.device)
        self.name, self.parts = os.ttyname(self.device), []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def read(self) -> None:
        while True:
            try:
                part = os.read(self.main, 1 << 16)
            except OSError:  # the last one who had it open is gone
                return
            self.parts.append(part)

    def __exit__(self, *error: object) -> None:
        os.close(self.device)
        self.reader.join(10)
        os.close(self.main)

    def text(self) -> str:
        return b"".join(self.parts).decode(errors="replace")


def escape_campaign(nursery: Nursery, folder: Path, trials: int, seed: int = 0) -> Escapes:
    """Print a payload at so many places."""
    counts, corpus = Escapes(), make_corpus(folder)
    run = folder / "run"
    assert nursery.run(train_command(corpus, run, train__max_steps=10), folder).code == 0
    spoken = folder / "spoken.txt"
    spoken.write_text("".join(f"{'some words ' * 40}{payload * 2} " for payload in PAYLOADS) * 30, newline="")
    assert nursery.run(train_command(spoken, folder / "loud", train__max_steps=10), folder).code == 0
    tried = [(payload, place) for payload in PAYLOADS for place in PLACES]
    random.Random(seed).shuffle(tried)
    for number, (payload, place) in enumerate(tried[:trials]):
        work = folder / f"try-{number}"
        work.mkdir()
        for printed in place(work, payload, run, corpus):
            counts.trials += 1
            counts.places.add(printed.name)
            counts.failures += [f"{printed.name}, {payload!r}: {wrong}" for wrong in wrong_in(nursery, work, printed)]
        shutil.rmtree(work)
    for wrong in wrong_in_generated(nursery, folder, counts):
        counts.failures.append(wrong)
    return counts


def wrong_in(nursery: Nursery, work: Path, printed: Printed) -> list[str]:
    said, shown = outputs(nursery, work, printed)
    found = {"stderr": controls(said)}
    if printed.on_terminal or not printed.is_data:
        found["stdout"] = controls(shown)
    return [f"{where} has {sorted(map(hex, map(ord, some)))}" for where, some in found.items() if some]


def outputs(nursery: Nursery, work: Path, printed: Printed) -> tuple[str, str]:
    """What a command writes to stderr and stdout."""
    if not printed.on_terminal:
        command = nursery.start(printed.arguments, work, ends_at_once=True)
        command.wait(LONGEST_WAIT)
        return command.said, command.stdout_path.read_bytes().decode(errors="replace")
    with Terminal() as terminal:
        command = nursery.start(printed.arguments, work, ends_at_once=True, terminal=terminal.name)
        command.wait(LONGEST_WAIT)
    return command.said, terminal.text()


def wrong_in_generated(nursery: Nursery, folder: Path, counts: Escapes) -> Iterator[str]:
    """A model that was trained on control characters: a terminal gets none of them, a file gets all."""
    arguments = ["generate", folder / "loud", "--max-new-tokens", 200, "--temperature", 2]
    for on_terminal in (False, True):
        counts.trials += 1
        _, shown = outputs(nursery, folder, Printed("generated text", arguments, on_terminal))
        has_controls = bool(controls(shown))
        counts.shown += on_terminal and "\\u00" in shown
        if has_controls == on_terminal:
            yield f"generated text: {'a terminal gets' if on_terminal else 'a file does not get'} control characters"


Place = Callable[[Path, str, Path, Path], Iterator[Printed]]


def file_names(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    name = payload.replace("/", "") + "x"
    missing, empty = work / f"{name}.txt", work / f"{name}-empty.txt"
    empty.write_bytes(b"")
    for verb in (["train", missing], ["data", "inspect", empty], ["eval", run, missing], ["generate", missing, "a"],
                 ["tokenizer", "encode", missing, "a"], ["import", missing, "--out", work / "m"],
                 ["generate", run, "--prompt-file", empty], ["checkpoint", "list", missing],
                 ["train", corpus, "-c", missing], ["export", run, "--to", "gguf", "--out", missing / "x"],
                 ["train", corpus, "--dry-run", "--set", f"data.val={missing}"],
                 ["data", "prepare", work]):  # fmt: skip
        yield Printed(f"a file's name, {verb[0]}", verb)


def undecodable_names(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    path = os.fsencode(work) + b"/\x9b\xff" + payload.replace("/", "").encode(errors="ignore")
    with open(path, "wb") as file:
        file.write(b"a\n")
    yield Printed("a name that is not UTF-8", ["data", "inspect", work])


def arguments(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    yield Printed("a key", ["train", corpus, "--set", f"model.{payload}=1", "--dry-run"])
    yield Printed("a value", ["train", corpus, "--set", f"data.tokenizer={payload}x", "--dry-run"])
    yield Printed("an option", ["train", corpus, f"--{payload}"])
    yield Printed("a command", [f"x{payload}"])
    yield Printed("an id", ["tokenizer", "decode", run, payload])
    yield Printed("a number", ["generate", run, "a", "--top-k", payload])
    yield Printed("a device", ["generate", run, "a", "--device", f"x{payload}"])


def configs(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    config = work / "c.toml"
    for name, text in (("a key of a config", f"[model]\n{json.dumps(payload)} = 1\n"),
                       ("a value of a config", f"[train]\nprecision = {json.dumps(payload)}\n"),
                       ("a config that is none", f"a = {payload}\n")):  # fmt: skip
        config.write_text(text)
        yield Printed(name, ["train", corpus, "-c", config, "--dry-run"])
    config.write_text(f"[train]\nsample_prompt = {json.dumps('x' + payload)}\n")
    yield Printed("a config that is shown", ["config", "show", "-c", config], on_terminal=True)
    for name, changes in (("a model_type", {"model_type": payload + "x"}), ("a dtype", {"torch_dtype": payload}),
                          ("an activation", {"hidden_act": payload}),
                          ("a size", {"hidden_size": payload})):  # fmt: skip
        model = model_of(work / name.replace(" ", "-"), run)
        content = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(content | changes))
        yield Printed(name, ["generate", model, "a"])


def model_of(place: Path, run: Path) -> Path:
    hidden = shutil.ignore_patterns("run.toml", "checkpoints", "val", MANIFEST_NAME)
    return Path(shutil.copytree(run, place, ignore=hidden))


def rows(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    path = work / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[f"a{payload}", "b"], ["text", "more"]])
    yield Printed("a column of CSV", ["data", "inspect", path])
    path = work / "rows.jsonl"
    for name, row in (("a field", {payload: "text"}), ("a value in a row", {"text": {payload: 1}}),
                      ("a role", {"messages": [{"role": payload, "content": [payload]}]})):  # fmt: skip
        path.write_text(json.dumps(row) + "\n")
        yield Printed(name, ["data", "inspect", path])
    path.write_text('{"text": "a"}\n{"text" ' + payload + "}\n")
    yield Printed("a row that is no JSON", ["data", "inspect", path])


def templates(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    chats, template = work / "chats.jsonl", work / "t.jinja"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}) + "\n")
    for name, source in (("a template's refusal", "{{ raise_exception(" + json.dumps(payload) + ") }}"),
                         ("a template's syntax", "{% " + payload + " %}"),
                         ("a template's filter", "{{ messages['" + payload + "'].x.y }}")):  # fmt: skip
        template.write_text(source)
        yield Printed(name, ["data", "inspect", chats, "--set", f"data.chat_template={template}"])


def tokens(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    base = VALID["sentencepiece"]
    file = work / "tokenizer.json"
    file.write_text(json.dumps(base | {"added_tokens": [{"id": 47, "content": f"<{payload}>", **TOKEN}]}))
    number = 47
    yield Printed("a special token", ["tokenizer", "inspect", file])
    for on_terminal in (True, False):
        yield Printed("a token in JSON", ["tokenizer", "encode", file, f"a{payload}", "--json"], on_terminal)
    yield Printed("a token that is decoded", ["tokenizer", "decode", file, str(number)], True, is_data=True)
    wrong = base | {"added_tokens": [{"id": 90, "content": payload, **TOKEN}]}
    file.write_text(json.dumps(wrong))
    yield Printed("a token with another id", ["tokenizer", "inspect", file])
    file.write_text(json.dumps(base | {"decoder": {"type": payload}, "normalizer": {"type": payload}}))
    yield Printed("a part of a tokenizer", ["tokenizer", "inspect", file])
    folder = work / "vocabulary"
    folder.mkdir()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": payload}))
    yield Printed("a tokenizer's class", ["tokenizer", "inspect", folder])


def texts(work: Path, payload: str, run: Path, corpus: Path) -> Iterator[Printed]:
    path = work / "text.txt"
    path.write_text(f"line {payload} 12 and more\n" * 30, newline="")
    yield Printed("the worst passages", ["eval", run, path, "--worst", 3])
    separator = ["--set", f"data.document_separator={payload}x"]
    yield Printed("a separator", ["data", "inspect", path, *separator])
    yield Printed("a prompt", ["generate", run, f"line{payload}", "--max-new-tokens", 2], on_terminal=True)
    settings = [
        "--set",
        "train.max_steps=2",
        "--set",
        "train.sample_every_steps=1",
        "--set",
        f"train.sample_prompt={payload}",
    ]
    yield Printed("samples of a training", [*train_command(path, work / "run"), *settings])


PLACES: tuple[Place, ...] = (
    file_names, undecodable_names, arguments, configs, rows, templates, tokens, texts,
)  # fmt: skip
