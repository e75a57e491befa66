"""Rows that hold a conversation instead of a text: a chat template makes the text.

A template is a program, and often someone else's. It is rendered by a limited process, in jinja2's immutable
sandbox, with limits on memory, on time and on what it writes; it sees the messages and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import selectors
import signal
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gptcli import strict_json
from gptcli.errors import DataError
from gptcli.limited_process import ProcessLimits, start
from gptcli.storage import UnsuitableFileError, read_named, storage_errors

CHATML = "chatml"
CHATML_SOURCE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
)
"""The form of OpenAI's ChatML, which many models use."""
UNWRITTEN = ("reasoning_content", "reasoning", "thinking", "tool_calls", "function_call")
"""Keys of messages that hold text too, and that ChatML does not write."""
MAX_TEMPLATE_BYTES = 100_000
MAX_TEXT_CHARACTERS = 16 * 2**20
"""Longest text of one conversation."""
START_SECONDS, TEMPLATE_SECONDS, ROW_SECONDS = 60.0, 5.0, 5.0
"""Longest times that the process may take to start, to compile the template, and to render one conversation."""
CPU_SECONDS = 8
"""Processor time for one of these, after which the process ends even if this one is no longer there to end it."""
MEMORY_BYTES = 2**28
"""Memory that compiling and rendering may take beyond what the process has when it is ready."""
REMEDY = "look at the template (data.chat_template)"
NO_DATE = "'strftime_now' is undefined"
"""The error of jinja2 for a template that asks for today's date where none is given."""


def read_template(name: str) -> str:
    """The source of a template: a built-in one, or a file.

    Raises:
        DataError: it is larger than any template.
        StorageError: it cannot be read.
    """
    if name == CHATML:
        return CHATML_SOURCE
    with storage_errors(name, "read the chat template"):
        try:
            return read_named(Path(name), MAX_TEMPLATE_BYTES).decode(errors="replace")
        except UnsuitableFileError as error:
            raise DataError(f"{name}: {error}", "a chat template is a short file") from error


class ChatRenderer:
    """Turns conversations into texts, always the same ones. Use it in a `with` block, which its process does not
    outlive.

    Args:
        template: chatml, or the path of a template.
        date: the date that the template gets as today's, YYYY-MM-DD; None if it gets none.
    """

    def __init__(self, template: str, date: str | None = None) -> None:
        self.source, self.date = read_template(template), date

    def __enter__(self) -> Self:
        self.process = start("gptcli.data.render", [], ProcessLimits(MEMORY_BYTES))
        self.answers = LineReader(self.process.stdout)
        try:
            self.receive("a process for the chat template", "started", START_SECONDS)
            first = {"template": self.source, "longest": MAX_TEXT_CHARACTERS, "date": self.date, "seconds": CPU_SECONDS}
            self.ask(first, "the chat template", "compiled", TEMPLATE_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def render(self, messages: Any, place: object) -> str:
        """The text of a list of {"role", "content"} tables; `place` names the row in errors.

        Raises:
            DataError: it is no such list, or the template fails on it, or takes too long or too much memory.
        """
        if not is_conversation(messages):
            raise DataError(f"{place} is no conversation", 'write a list of {"role": "user", "content": "..."} tables')
        if self.source == CHATML_SOURCE:
            messages = [plain_message(message, place) for message in messages]
        return self.ask({"messages": messages}, place, "rendered", ROW_SECONDS)

    def ask(self, request: dict[str, Any], place: object, done: str, seconds: float) -> str:
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which `receive` reports
            self.process.stdin.write(strict_json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        return self.receive(place, done, seconds)

    def receive(self, place: object, done: str, seconds: float) -> str:
        """The text of the next answer; raises DataError where it is an error, late, or where none comes."""
        answer = self.answers.next_line(seconds)
        if answer is None:
            raise DataError(f"{place} takes more than {seconds:g} s to be {done}", REMEDY)
        failed = f"{place} cannot be {done}"
        if not answer:
            raise DataError(f"{failed}: {self.end()}", REMEDY)
        reply = strict_json.parse(answer)
        if NO_DATE in reply.get("error", ""):
            today = datetime.date.today().isoformat()
            raise DataError(
                f"{failed}: the chat template asks for today's date, which would make another text every day",
                f"give a date: --set data.chat_date={today}",
            )
        if "error" in reply:
            raise DataError(f"{failed}: {reply['error']}", REMEDY)
        return reply["text"]

    def end(self) -> str:
        """A clause that says how the process ended."""
        code = self.process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}"


def is_conversation(messages: Any) -> bool:
    return isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages
    )


def plain_message(message: dict[str, Any], place: object) -> dict[str, Any]:
    """A message as ChatML writes it, whole; parts of text are joined.

    Raises:
        DataError: it holds more than ChatML writes, which would be lost.
    """
    content = message["content"]
    lost = next((f"in {key!r}" for key in UNWRITTEN if message.get(key)), "")
    if not lost and isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        lost = "" if all(isinstance(text, str) for text in texts) else "in parts that are no text"
        content = "" if lost else "".join(texts)
    if lost:
        raise DataError(
            f"{place} has a message with content {lost}, which the template chatml does not write",
            "name a template that does with --set data.chat_template=FILE, or remove it from the rows",
        )
    return {**message, "content": content}


class LineReader:
    """Lines of a pipe, each waited for a limited time."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe, self.held = pipe, b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)

    def next_line(self, seconds: float) -> bytes | None:
        """The next line; b"" where the pipe has ended, None where none comes in time."""
        while b"\n" not in self.held:
            if not self.selector.select(seconds):
                return None
            chunk = self.pipe.read1(1 << 16)
            if not chunk:
                return b""
            self.held += chunk
        line, _, self.held = self.held.partition(b"\n")
        return line
