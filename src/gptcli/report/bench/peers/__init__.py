"""The programs that ours is compared with, one file each; here only what is known of them without importing any.

A file has a function for each bench that its program can take part in (`train`, ...), which takes that bench's job and
returns a Contender. `ours` and `limit` are two more of the kind.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from gptcli.console import say
from gptcli.errors import UsageError

EXTRA = "pip install 'gptcli[bench]'"
LITGPT = "pip install --no-deps litgpt lightning lightning-utilities torchmetrics psutil"
"""It asks for an older huggingface-hub than transformers does, and works with the newer one."""
LLAMA_CPP = "pip install llama-cpp-python 'gptcli[gguf]'"


@dataclass(frozen=True)
class Peer:
    """A program that can be compared: installed as `package`, or a checkout at a path that has `file`."""

    name: str
    benches: tuple[str, ...]
    remedy: str
    package: str | None = None
    file: str | None = None
    numbers: tuple[str, ...] = ("fp32", "bf16")
    """What it can keep weights in while it generates."""
    distribution: str | None = None
    """What the package is called where it is installed from, if it is not called `package` there."""

    @property
    def module(self) -> str:
        """Its file in this package."""
        return "ours" if self.package == "gptcli" else self.name.replace("-", "_")

    @property
    def is_installed(self) -> bool:
        return self.package is not None and find_spec(self.package) is not None


GPTCLI = Peer("gptcli", ("train", "generate", "data"), "", package="gptcli", numbers=("fp32", "bf16", "int8"))
PEERS = (
    Peer("transformers", ("train", "generate"), EXTRA, package="transformers"),
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


class Chosen(NamedTuple):
    """A peer that takes part, and where it lies if it is a checkout."""

    peer: Peer
    path: str | None = None


def choose_peers(wanted: Sequence[str], bench: str) -> list[Chosen]:
    """The peers that the user names as NAME or NAME=PATH; without any, those that are installed.

    Says which of them are not part of `bench`, or not installed where nobody asked for them by name.

    Raises:
        UsageError: a name that is unknown, a peer that is not installed, or a checkout that is none.
    """
    if not wanted:
        able = [peer for peer in PEERS if bench in peer.benches]
        for peer in able:
            if not peer.is_installed:
                say(f"without {peer.name}: {peer.remedy}")
        return [Chosen(peer) for peer in able if peer.is_installed]
    chosen = [find_peer(text) for text in wanted]
    for choice in chosen:
        if bench not in choice.peer.benches:
            say(f"without {choice.peer.name}: it has no part in {bench}")
    return [choice for choice in chosen if bench in choice.peer.benches]


def find_peer(text: str) -> Chosen:
    """The peer of `NAME` or `NAME=PATH`, if it is there."""
    name, _, path = text.partition("=")
    peer = next((peer for peer in PEERS if peer.name == name), None)
    if peer is None:
        raise UsageError(f"peer {name!r} is unknown", f"choose from {', '.join(peer.name for peer in PEERS)}")
    if peer.file is None:
        if path:
            raise UsageError(f"peer {name} is an installed package", f"leave out ={path}")
        if not peer.is_installed:
            raise UsageError(f"peer {name} is not installed", peer.remedy)
        return Chosen(peer)
    if not path:
        raise UsageError(f"peer {name} needs a path", peer.remedy)
    if not (Path(path) / peer.file).is_file():
        raise UsageError(f"{path} is no checkout of {name}: it has no {peer.file}", "check the path")
    return Chosen(peer, str(Path(path).resolve()))


def peer_versions(peers: Iterable[Chosen]) -> dict[str, str]:
    """By name: the version of an installed package, the commit of a checkout."""
    return {
        peer.name: version(peer.distribution or peer.package) if peer.package else commit_of(path)
        for peer, path in peers
    }


def commit_of(checkout: str) -> str:
    """The first ten digits of the commit that a checkout is at; a copy without git's records has none to tell."""
    git = ["git", "-C", checkout, "rev-parse", "--short=10", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
