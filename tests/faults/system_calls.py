"""The order of system calls in a save, as strace sees it: every file's data is flushed, then comes the rename, then the
directory is flushed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TRACED = "fsync,fdatasync,rename,renameat,renameat2,openat,write,pwrite64"
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
NAMES = re.compile(r'"([^"]*)"')


class Call(NamedTuple):
    """A call that succeeded: `write` (which opening for writing counts as), `sync` or `rename`, and of which paths."""

    kind: str
    paths: tuple[str, ...]


def traced(arguments: Sequence[object], log: Path, environment: Mapping[str, str]) -> list[Call]:
    """Run `gptcli ARGUMENTS` under strace; its calls in the order in which they ended."""
    strace = ["strace", "-f", "-y", "-s", "300", "-e", f"trace={TRACED}", "-o", str(log)]
    command = [*strace, sys.executable, "-m", "gptcli", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, env=dict(environment))
    return calls_of(log.read_text(errors="replace").splitlines())


def calls_of(lines: Sequence[str]) -> list[Call]:
    """What strace's lines say, in the order in which the calls ended."""
    found = (call_of(line) for line in joined(lines))
    return [call for call in found if call is not None]


def call_of(line: str) -> Call | None:
    match = CALL.match(line)
    if match is None or int(match[3]) < 0:
        return None
    name, arguments = match[1], match[2]
    if name.startswith("rename"):
        return Call("rename", tuple(NAMES.findall(arguments)))
    if name == "openat":
        is_writing = "O_WRONLY" in arguments or "O_RDWR" in arguments
        return Call("write", tuple(NAMES.findall(arguments)[:1])) if is_writing else None
    path = DESCRIPTOR.match(arguments)
    return Call("sync" if "sync" in name else "write", (path[1],)) if path else None


def joined(lines: Sequence[str]) -> list[str]:
    """Calls that strace shows in two parts, since another thread was in between, as one line where they end."""
    begun: dict[str, str] = {}
    whole = []
    for line in lines:
        thread = line.partition(" ")[0]
        if line.endswith("<unfinished ...>"):
            begun[thread] = line.removesuffix("<unfinished ...>").rstrip()
        elif "resumed>" in line and thread in begun:
            whole.append(begun.pop(thread) + line.partition("resumed>")[2])
        else:
            whole.append(line)
    return whole


def moved(path: str, source: str, goal: str) -> str:
    """Where a path lies after `source` was renamed to `goal`."""
    return goal + path.removeprefix(source) if path == source or path.startswith(source + "/") else path


def wrong_order(calls: Sequence[Call], target: re.Pattern[str]) -> list[str]:
    """What is wrong where something is renamed to a path that `target` matches; that nothing is, is wrong too."""
    wrong, seen = [], 0
    last: dict[tuple[str, str], int] = {}
    for number, call in enumerate(calls):
        if call.kind != "rename":
            last[call.kind, call.paths[0]] = number
            continue
        source, goal = call.paths
        if not target.search(goal):
            last = {(kind, moved(path, source, goal)): index for (kind, path), index in last.items()}
            continue
        seen += 1
        files = [path for kind, path in last if kind == "write" and (path == source or path.startswith(source + "/"))]
        for path in [*files, source]:
            if last.get(("sync", path), -1) < last.get(("write", path), 0):
                wrong.append(f"{path} was renamed before it was flushed")
        if not files:
            wrong.append(f"nothing was written to {source}")
        if not any(after.kind == "sync" and after.paths[0] == str(Path(goal).parent) for after in calls[number:]):
            wrong.append(f"the directory of {goal} was not flushed after it appeared")
    return wrong if seen else [f"nothing was renamed to {target.pattern}"]
