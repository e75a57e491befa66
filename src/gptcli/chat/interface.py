"""Where messages are read and replies are written: the lines of a pipe, or a terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from gptcli.console import VisibleStream, say, say_error
from gptcli.errors import DataError, GptcliError, StdoutClosed
from gptcli.storage import LARGE, storage_errors

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

PROMPT, MORE = "> ", "  "
DUMB = ("dumb", "unknown")
"""Kinds of terminals that cannot move the cursor."""
CONTINUED = "\\"
"""The end of a line that goes on in the next one."""
INTERRUPTED = "Ctrl-D or /exit leaves; /help lists the commands"


class LineInterface:
    """Messages from the lines of stdin, replies to stdout, each with a line end, and all else to stderr.

    Where a person sees the replies, the messages are shown too.
    """

    is_stopped = False
    """Whether the user wants the reply to stop."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self.is_typed = sys.stdin.isatty()
        self.column = 0
        """Characters written since the last line end."""
        reconfigure = getattr(sys.stdout, "reconfigure", None)  # a stream in memory has none
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark

    def read(self) -> str:
        r"""Return the next message: a line, and after a \ at its end the next one too.

        Raises:
            EOFError: there is none.
            DataError: it is not UTF-8.
        """
        lines = list[str]()
        while not lines or lines[-1].endswith(CONTINUED):
            if self.is_typed:
                print(MORE if lines else PROMPT, end="", file=sys.stderr, flush=True)
            line = self.read_line()
            if not line:
                break
            lines.append(line.removesuffix("\n").removesuffix("\r"))
        if not lines:
            raise EOFError
        text = "\n".join([*(line.removesuffix(CONTINUED) for line in lines[:-1]), lines[-1]])
        if self.is_terminal and not self.is_typed:
            say(f"{PROMPT}{text}")
        return text

    def read_line(self) -> str:
        """Return the next line of stdin with its end; an empty text at the end of stdin."""
        with storage_errors("stdin", "read"):
            data = sys.stdin.buffer.readline(LARGE)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DataError("a line of stdin is not UTF-8", "convert it: iconv -t UTF-8") from error

    def write(self, text: str) -> None:
        """Write a piece of a reply."""
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self.column = len(text) - 1 - text.rfind("\n")

    def end_reply(self) -> None:
        """End the line of a reply."""
        sys.stdout.write("\n")
        sys.stdout.flush()
        self.column = 0

    def note(self, text: str) -> None:
        """Print a line about the chat."""
        if self.column and self.is_terminal:
            self.end_reply()
        say(text)

    def failed(self, error: GptcliError) -> None:
        """Take in that a message or a command failed: here the chat ends with the error.

        Raises:
            GptcliError: the error.
        """
        raise error

    def interrupted(self) -> None:
        """Take in Ctrl-C outside of a reply: here it ends the chat."""
        raise KeyboardInterrupt

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Let Ctrl-C stop a reply within the block, where it is possible."""
        yield


class TerminalInterface(LineInterface):
    """A terminal, at which the chat goes on after a mistake."""

    def end_reply(self) -> None:
        """End the line of a reply, and leave one blank."""
        super().end_reply()
        super().end_reply()

    def failed(self, error: GptcliError) -> None:
        """Print the error; the chat goes on.

        Raises:
            StdoutClosed: the terminal is gone.
        """
        if isinstance(error, StdoutClosed):
            raise error
        if self.column:
            super().end_reply()
        say_error(error)

    def interrupted(self) -> None:
        """Say how to leave."""
        self.note(INTERRUPTED)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Let Ctrl-C stop a reply within the block. Nothing else is interrupted, such as the writing of a file."""
        self.is_stopped = False

        def stop(number: int, frame: FrameType | None) -> None:
            self.is_stopped = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class EditorInterface(TerminalInterface):
    """A terminal with an editor for messages, which keeps those of this chat in memory and no longer."""

    def __init__(self) -> None:
        super().__init__()
        self.session = prompt_session()

    def read(self) -> str:
        """Return the next message.

        Raises:
            EOFError: Ctrl-D was typed.
            KeyboardInterrupt: Ctrl-C was typed, and there was no text.
        """
        text = self.session.prompt(PROMPT, prompt_continuation=MORE)
        return text.encode(errors="replace").decode()  # a terminal can send bytes that are not UTF-8


def prompt_session() -> PromptSession[str]:
    """Return the editor of messages. What is typed stays in memory: a chat may be private."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output.vt100 import Vt100_Output

    stdout: Any = sys.stdout
    output = Vt100_Output.from_pty(stdout.stream if isinstance(stdout, VisibleStream) else stdout)
    output.enable_cpr = False  # a late answer of the terminal would be read as the next message
    return PromptSession(
        multiline=True,
        key_bindings=key_bindings(),
        history=InMemoryHistory(),
        output=output,
        reserve_space_for_menu=0,
        enable_suspend=True,
    )


def key_bindings() -> KeyBindings:
    r"""Return the keys: Enter ends a message unless \ precedes it, Alt+Enter begins a line, Ctrl-C clears the text."""
    from prompt_toolkit.filters import is_searching
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith(CONTINUED):
            buffer.delete_before_cursor(len(CONTINUED))
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=~is_searching)
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=~is_searching)
    def interrupt(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text:
            buffer.reset(append_to_history=True)
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


def interface() -> LineInterface:
    """Return the interface that stdin and stdout allow."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return LineInterface()
    return TerminalInterface() if os.environ.get("TERM", DUMB[0]) in DUMB else EditorInterface()
