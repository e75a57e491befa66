"""Prompts from files and stdin, and texts to stdout as they are generated. It imports no torch."""

from __future__ import annotations

import array
import fcntl
import os
import stat
import sys
import termios
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from gptcli.console import say, visible
from gptcli.errors import DataError, UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.listener import Listener
from gptcli.storage import LARGE, expanded, read_at_most, read_named, storage_errors

SEPARATOR = "---"
"""The line between two samples on stdout where it is not a terminal."""


def read_prompts(prompt: str | None, prompt_file: str | None, *, whole_file: bool = False) -> list[str]:
    """Return the prompts that the user named.

    Args:
        prompt: the prompt itself; `-` reads all of stdin as one prompt.
        prompt_file: a file with one prompt a line, blank lines ignored; `-` is stdin.
        whole_file: `prompt_file` holds one prompt, which may have many lines.

    A line end at the end of stdin or of a whole file is not a part of the prompt. With neither a prompt nor a file
    there is one empty prompt.

    Raises:
        UsageError: both are given, or `whole_file` without a file.
        StorageError: the file cannot be read.
        DataError: it is not UTF-8, or has no prompt.
    """
    if prompt is not None and prompt_file is not None:
        raise UsageError("a prompt and --prompt-file were both given", "give one of them")
    if prompt_file is None and whole_file:
        raise UsageError("--whole-file has no meaning without --prompt-file", "name a file: --prompt-file FILE")
    if prompt_file is None and prompt != "-":
        if prompt is None and stdin_has_text():
            say("note: stdin was not read; to take the prompt from it, write - as the prompt")
        return [prompt or ""]
    file = prompt_file or "-"
    name, text = read_prompt_file(file)
    if prompt_file is None or whole_file:
        prompts = [text.removesuffix("\n").removesuffix("\r")]
    else:
        prompts = [line.removesuffix("\r") for line in text.split("\n")]
    prompts = [line for line in prompts if line.strip()]
    if not prompts:
        raise DataError(f"{name} has no prompt", "write one a line")
    return prompts


def read_prompt_file(file: str) -> tuple[str, str]:
    """Return the name of `file` in messages, and its text."""
    name = "stdin" if file == "-" else file
    with storage_errors(name, "read"):
        data = read_at_most(sys.stdin.buffer, LARGE) if file == "-" else read_named(expanded(file))
    try:
        return name, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error


def stdin_has_text() -> bool:
    """Return whether a pipe or a file is connected to stdin and has data to read now, without waiting."""
    try:
        descriptor = sys.stdin.fileno()
        mode = os.fstat(descriptor)
        if stat.S_ISREG(mode.st_mode):
            return mode.st_size > os.lseek(descriptor, 0, os.SEEK_CUR)
        if not stat.S_ISFIFO(mode.st_mode):
            return False
        waiting = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
        return waiting[0] > 0
    except (OSError, ValueError, AttributeError):
        return False


class Printer(Listener):
    """A listener that prints samples to stdout in the order of their numbers, the current one as it grows.

    Stdout gets the generated text and a newline after each sample. A file or a pipe gets exactly that text; at a
    terminal `visible` escapes the control characters. With several samples, a heading on stderr precedes each, and a
    line with `separator`, unless that is empty, separates them on a stdout that is no terminal. At a terminal the
    prompt is also printed, on stderr, so that prompt and text read as one.
    """

    def __init__(self, prompts: Sequence[str], config: GenerationConfig, separator: str = SEPARATOR) -> None:
        self.prompts, self.config = prompts, config
        self.is_terminal = sys.stdout.isatty()
        self.separator = "" if self.is_terminal else separator
        self.waiting: dict[int, list[str]] = {}
        self.ended: set[int] = set()
        self.turn = 0
        self.is_open = False
        """Whether printing the current sample has begun."""
        self.echoes = self.is_terminal and sys.stderr.isatty()

    def __enter__(self) -> Self:
        reconfigure = getattr(sys.stdout, "reconfigure", None)  # a stream in memory has none
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_open and kind is not None and issubclass(kind, KeyboardInterrupt):
            self.write("\n")  # the text so far stays, and the shell's prompt begins on its own line

    def on_text(self, number: int, piece: str) -> None:
        """Print `piece`, or keep it until it is the turn of its sample."""
        self.waiting.setdefault(number, []).append(piece)
        if number == self.turn:
            self.show()

    def on_end(self, number: int) -> None:
        """Finish the sample of this number, and print the samples that waited for it."""
        self.ended.add(number)
        while self.turn in self.ended:
            self.show()
            self.write("\n")
            self.turn, self.is_open = self.turn + 1, False
        if self.waiting.get(self.turn):
            self.show()

    def show(self) -> None:
        """Print the pieces of the current sample that are waiting."""
        if not self.is_open:
            self.is_open = True
            self.begin()
        self.write("".join(self.waiting.pop(self.turn, [])))

    def begin(self) -> None:
        """Print the separator, the heading and, at a terminal, the prompt."""
        if self.turn and self.separator:
            self.write(f"{self.separator}\n")
        prompt, sample = divmod(self.turn, self.config.num_samples)
        parts = []
        if len(self.prompts) > 1:
            parts.append(f"prompt {prompt + 1} of {len(self.prompts)}")
        if self.config.num_samples > 1:
            parts.append(f"sample {sample + 1} of {self.config.num_samples}, seed {self.config.seed + sample}")
        if parts:
            say(f"--- {', '.join(parts)}")
        if self.echoes:
            print(visible(self.prompts[prompt]), end="", file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        """Write to stdout, escaped at a terminal."""
        sys.stdout.write(visible(text) if self.is_terminal else text)
        sys.stdout.flush()
