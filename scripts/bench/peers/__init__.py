"""The programs that gptcli is compared with, one file each; this module does not import them.

A file has a function for each bench of processes that its program can take part in (`train`, `generate`, `data`), which
takes that bench's job and returns a Contender.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from gptcli.console import say
from gptcli.errors import UsageError
from gptcli.report.bench.jobs import Program

EXTRA = "pip install 'gptcli[bench]'"
LITGPT = "pip install --no-deps litgpt lightning lightning-utilities torchmetrics psutil"
"""litgpt requires an older huggingface-hub than transformers does, and works with the newer one."""
LLAMA_CPP = "pip install llama-cpp-python 'gptcli[gguf]'"


@dataclass(frozen=True)
class Peer:
    """A program to compare with: an installed `package`, or a checkout that has `file`."""

    name: str
    benches: tuple[str, ...]
    remedy: str
    package: str = ""
    file: str = ""
    numbers: tuple[str, ...] = ("fp32", "bf16")
    """Formats in which it can keep weights while it generates."""
    distribution: str = ""
    """Name of the package in the registry, if it is not `package`."""

    @property
    def is_installed(self) -> bool:
        """Whether it is a package that can be imported."""
        return bool(self.package) and find_spec(self.package) is not None

    def program(self, checkout: str | None = None) -> Program:
        """Return the peer as a program that can be measured."""
        return Program(self.name, f"bench.peers.{self.name.replace('-', '_')}", self.numbers, checkout)


PEERS = (
    Peer("transformers", ("train", "generate"), EXTRA, package="transformers"),
    Peer("peft", ("finetune",), "pip install peft", package="peft"),
    Peer("litgpt", ("train", "generate"), LITGPT, package="litgpt"),
    Peer(
        "nanogpt", ("train", "learn", "deadline", "generate"), "--peer nanogpt=PATH, a checkout of it", file="model.py"
    ),
    Peer("ctranslate2", ("generate",), EXTRA, package="ctranslate2", numbers=("fp32", "bf16", "int8")),
    Peer("tokenizers", ("data",), "pip install tokenizers", package="tokenizers"),
    Peer("tiktoken", ("data",), EXTRA, package="tiktoken"),
    Peer(
        "llama-cpp",
        ("generate",),
        LLAMA_CPP,
        package="llama_cpp",
        numbers=("fp32", "bf16", "int8"),
        distribution="llama-cpp-python",
    ),
)
BY_NAME = {peer.name: peer for peer in PEERS}


def choose_peers(wanted: Sequence[str], bench: str) -> list[Program]:
    """Return the peers that the user names as NAME or NAME=PATH; without any, those that are installed.

    A line names each one that does not take part in `bench`, or that is not installed and was not named.

    Raises:
        UsageError: a name is unknown, a peer is not installed, or a path is no checkout.
    """
    if not wanted:
        able = [peer for peer in PEERS if bench in peer.benches]
        for peer in able:
            if not peer.is_installed:
                say(f"without {peer.name}: {peer.remedy}")
        return [peer.program() for peer in able if peer.is_installed]
    chosen = [find_peer(text) for text in wanted]
    for program in chosen:
        if bench not in BY_NAME[program.name].benches:
            say(f"without {program.name}: it has no part in {bench}")
    return [program for program in chosen if bench in BY_NAME[program.name].benches]


def find_peer(text: str) -> Program:
    """Return the peer of `NAME` or `NAME=PATH`.

    Raises:
        UsageError: see `choose_peers`.
    """
    name, _, path = text.partition("=")
    peer = BY_NAME.get(name)
    if peer is None:
        raise UsageError(f"peer {name!r} is unknown", f"choose from {', '.join(BY_NAME)}")
    if peer.package:
        if path:
            raise UsageError(f"peer {name} is an installed package", f"leave out ={path}")
        if not peer.is_installed:
            raise UsageError(f"peer {name} is not installed", peer.remedy)
        return peer.program()
    if not path:
        raise UsageError(f"peer {name} needs a path", peer.remedy)
    if not (Path(path) / peer.file).is_file():
        raise UsageError(f"{path} is no checkout of {name}: it has no {peer.file}", "check the path")
    return peer.program(str(Path(path).resolve()))


def versions_of(programs: Iterable[Program]) -> dict[str, str]:
    """Return the version of each installed package and the commit of each checkout, by name."""
    return {
        program.name: commit_of(program.checkout) if program.checkout else version(distribution_of(program.name))
        for program in programs
    }


def distribution_of(name: str) -> str:
    """Return the name of a peer's package in the registry."""
    return BY_NAME[name].distribution or BY_NAME[name].package


def commit_of(checkout: str) -> str:
    """Return the first ten digits of a checkout's commit, or "unknown" for a copy without git's records."""
    git = ["git", "-C", checkout, "rev-parse", "--short=10", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
