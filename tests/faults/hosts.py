"""Two machines that are network namespaces of this one: each with its own name, address and loopback, one wire between
them, and the same file system. Only root may make them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.213.7.1", "10.213.7.2")
ENTER = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'


@dataclass(frozen=True)
class Host:
    """One of the machines. `inside`: the beginning of a command that runs there."""

    name: str
    inside: tuple[str, ...]


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Make them, and take them away."""
    names = [f"gptcli-{letter}-{os.getpid()}" for letter in "ab"]
    table = folder / "hosts"
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in zip(ADDRESSES, names, strict=True))]
    table.write_text("\n".join(lines) + "\n")
    try:
        for name in names:
            command("ip", "netns", "add", name)
        command(
            "ip", "link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1]
        )
        for address, name in zip(ADDRESSES, names, strict=True):
            command("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            command("ip", "-n", name, "link", "set", "wire", "up")
            command("ip", "-n", name, "link", "set", "lo", "up")
        enter = [("ip", "netns", "exec", name, "unshare", "-um", "sh", "-c", ENTER, name, str(table)) for name in names]
        yield Host(names[0], enter[0]), Host(names[1], enter[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def can_make_hosts(folder: Path) -> bool:
    try:
        with two_hosts(folder) as hosts:
            for host in hosts:
                command(*host.inside, "true")
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
