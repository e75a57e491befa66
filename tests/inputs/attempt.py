"""One input of a person: the files, the command as typed, and the required result."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

TINY = (
    "--set model.n_layer=1 --set model.n_embd=16 --set model.n_head=2 --set model.context_length=16 "
    "--set train.tokens_per_step=64 --set train.batch_size=4 --set train.sample_every_steps=0 "
    "--set train.max_steps=2 --set device=cpu"
)
"""A training of a second, in place of {tiny} in a command."""
RUN = "run with a space"
"""The trained run that every attempt finds in its folder, in place of {run} in a command, beside its `corpus.txt`."""


@dataclass(frozen=True)
class Attempt:
    """What a person has and types, and what happens.

    `make` changes the folder before the command is typed. `says` and `says_not` are regular expressions for what is
    printed on stdout and stderr together. `then` is the remedy as the message advises it; it must succeed. `left` looks
    at the folder afterwards and raises AssertionError.
    """

    input: str
    command: str
    happens: str
    code: int = 0
    says: tuple[str, ...] = ()
    says_not: tuple[str, ...] = ()
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    make: Callable[[Path], None] = lambda folder: None
    stdin: bytes = b""
    then: str = ""
    left: Callable[[Path], None] = lambda folder: None

    def problems(self, folder: Path) -> Iterator[str]:
        """Make the input in `folder`, which holds RUN, type the command and then the remedy; yields what went wrong."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        self.make(folder)
        code, printed = typed(self.command, folder, self.stdin)
        if code != self.code:
            yield f"exit code {code} instead of {self.code}: {printed[-500:]}"
        if "Traceback" in printed:
            yield f"a traceback: {printed[-500:]}"
        yield from (
            f"does not say {words!r}: {printed[-1000:]}" for words in self.says if not re.search(words, printed)
        )
        yield from (f"says {words!r}: {printed[-1000:]}" for words in self.says_not if re.search(words, printed))
        if self.then:
            code, printed = typed(self.then, folder, self.stdin)
            if code:
                yield f"the remedy {self.then!r} fails with {code}: {printed[-500:]}"
        try:
            self.left(folder)
        except AssertionError as error:
            yield f"what is left: {error}"


def typed(command: str, folder: Path, stdin: bytes = b"") -> tuple[int, str]:
    """Type a command into a shell in `folder`: its exit code, and all that it printed."""
    from gptcli.cli.app import main

    words = shlex.split(command.format(tiny=TINY, run=shlex.quote(RUN)))
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    code = 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", given),
        mock.patch.dict(os.environ),
        mock.patch.object(os, "_exit", sys.exit),
        mock.patch("gptcli.train.clock.process_began", time.monotonic),  # this process is older than the command
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return code, printed.buffer.getvalue().decode()  # type: ignore[attr-defined]
