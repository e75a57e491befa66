"""Prompts from files and stdin, texts to stdout as they come. Knows no model. Free of torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gptcli.console import say
from gptcli.errors import DataError, UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.storage import storage_errors

if TYPE_CHECKING:
    from gptcli.generate.text import Completion


def read_prompts(prompt: str | None, prompt_file: str | None) -> list[str]:
    """The prompt given, or one a line of `prompt_file` (`-`: stdin; blank lines left out), or one empty prompt.

    Raises:
        UsageError: both are given.
        StorageError: the file cannot be read.
        DataError: it is not UTF-8, or has no prompt.
    """
    if prompt_file is None:
        return [prompt or ""]
    if prompt is not None:
        raise UsageError("a prompt and --prompt-file were both given", "give one of them")
    name = "stdin" if prompt_file == "-" else prompt_file
    with storage_errors(name, "read"):
        data = sys.stdin.buffer.read() if prompt_file == "-" else Path(prompt_file).read_bytes()
    try:
        lines = [line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{name} has no prompt", "write one a line")
    return prompts


class Printer:
    """Prints samples to stdout in the order of their numbers, the one whose turn it is as it grows.

    Stdout gets the generated text and a newline after each sample. Where there are several, a heading on stderr comes
    before each; a person at a terminal also sees the prompt there, so that it reads on into the text.
    """

    def __init__(self, prompts: Sequence[str], config: GenerationConfig, *, silent: bool = False) -> None:
        self.prompts, self.config, self.silent = prompts, config, silent
        self.waiting: dict[int, list[str]] = {}
        self.ended: set[int] = set()
        self.turn = 0
        self.is_open = False
        """Whether the sample whose turn it is has been begun."""
        self.echoes = sys.stdout.isatty() and sys.stderr.isatty()

    def __enter__(self) -> Self:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_open and kind is not None and issubclass(kind, KeyboardInterrupt):
            self.write("\n")  # what was generated so far stays, and the shell's prompt begins on its own line

    def on_text(self, number: int, piece: str) -> None:
        """`piece` has been added to the sample of that number."""
        if self.silent:
            return
        self.waiting.setdefault(number, []).append(piece)
        if number == self.turn:
            self.show()

    def on_completion(self, number: int, completion: Completion) -> None:
        """The sample of that number has ended; those that waited for it are next."""
        if self.silent:
            return
        self.ended.add(number)
        while self.turn in self.ended:
            self.show()
            self.write("\n")
            self.turn, self.is_open = self.turn + 1, False
        if self.waiting.get(self.turn):
            self.show()

    def show(self) -> None:
        """Print what is there of the sample whose turn it is."""
        if not self.is_open:
            self.is_open = True
            self.begin()
        self.write("".join(self.waiting.pop(self.turn, [])))

    def begin(self) -> None:
        """The heading and, for a person, the prompt; both on stderr."""
        prompt, sample = divmod(self.turn, self.config.num_samples)
        parts = []
        if len(self.prompts) > 1:
            parts.append(f"prompt {prompt + 1} of {len(self.prompts)}")
        if self.config.num_samples > 1:
            parts.append(f"sample {sample + 1} of {self.config.num_samples}, seed {self.config.seed + sample}")
        if parts:
            say(f"--- {', '.join(parts)}")
        if self.echoes:
            print(self.prompts[prompt], end="", file=sys.stderr, flush=True)

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
