"""Rendering of conversations by chat templates: a text for each row that holds a conversation instead of a text.

A template is a program, and often someone else's. It is rendered by a limited process, in jinja2's immutable sandbox,
with limits on memory, on time and on what it writes; it gets the messages and nothing else of the machine.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import selectors
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

from gptcli import strict_json
from gptcli.errors import DataError
from gptcli.limited_process import ProcessLimits, start
from gptcli.storage import UnsuitableFileError, read_named, storage_errors

CHATML = "chatml"
CHATML_SOURCE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
)
"""OpenAI's ChatML, which many models use."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning, of which templates read the first or the second."""
UNWRITTEN = (*REASONING, "tool_calls", "function_call")
"""Keys of messages that hold text too, and that not every template writes."""
RANDOM = ("random", "lipsum")
"""Names of jinja2's functions that use random numbers."""
PART = re.compile(r"\btext\b")
"""Matches in a template that reads contents in parts, each with its text."""
MAX_TEMPLATE_BYTES = 100_000
MAX_TEXT_CHARACTERS = 16 * 2**20
"""Longest text of one conversation."""
START_SECONDS, TEMPLATE_SECONDS, ROW_SECONDS = 60.0, 5.0, 5.0
"""Longest times that the process may take to start, to compile the template, and to render one conversation."""
CPU_SECONDS = 8
"""Processor time for one of these. The process ends after it even if this process no longer exists to end it."""
RENDERS_AT_ONCE = 16
"""Renderings of one conversation that share these times."""
MEMORY_BYTES = 2**28
"""Memory that compiling and rendering may take beyond that of the process when it is ready."""
DEFAULT, OF_MODEL = "auto", "model"
"""Values of data.chat_template: the usual template of a kind of data, and the template of the tokenizer."""
REMEDY = "correct the template (data.chat_template)"
NO_DATE = "'strftime_now' is undefined"
"""The error of jinja2 for a template that uses today's date if no date is configured."""


def read_template(name: str) -> str:
    """Return the source of a template: a built-in one, or a file.

    Raises:
        DataError: it is larger than any template, or it is the model's own, which texts are not rendered by.
        StorageError: it cannot be read.
    """
    if name in (CHATML, DEFAULT):
        return CHATML_SOURCE
    if name == OF_MODEL:
        raise DataError(
            "data.chat_template=model is the template of the base model, which texts (data.kind=text) are read without",
            "use another one: --set data.chat_template=chatml",
        )
    with storage_errors(name, "read the chat template"):
        try:
            return read_named(Path(name), MAX_TEMPLATE_BYTES).decode(errors="replace")
        except UnsuitableFileError as error:
            raise DataError(
                f"{name}: {error}", f"name a chat template of at most {MAX_TEMPLATE_BYTES:,} bytes"
            ) from error


class TemplateProcess:
    """A limited process with one template. It is a context manager, whose end ends the process.

    Args:
        source: the template.
        date: the date that the template gets as today's, YYYY-MM-DD; None for no date.

    Raises:
        DataError: the template cannot be compiled.
    """

    def __init__(self, source: str, date: str | None = None) -> None:
        self.source = source
        self.process = start("gptcli.data.render", [], ProcessLimits(MEMORY_BYTES))
        self.requests = cast("io.BufferedWriter", self.process.stdin)  # both are pipes, which `start` opens
        self.answers = LineReader(cast("io.BufferedReader", self.process.stdout))
        try:
            self.receive("a process for the chat template", "started", START_SECONDS)
            first = {"template": self.source, "longest": MAX_TEXT_CHARACTERS, "date": date, "seconds": CPU_SECONDS}
            self.request(first, "the chat template", "compiled", TEMPLATE_SECONDS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.requests.close()
        self.answers.pipe.close()

    def request(self, content: dict[str, Any], place: object, done: str, seconds: float) -> dict[str, Any]:
        """Send a request to the process, and return its answer."""
        with refusing_depth(place):
            line = strict_json.dumps(content).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # the process has ended, which `receive` reports
            self.requests.write(line)
            self.requests.flush()
        return self.receive(place, done, seconds)

    def receive(self, place: object, done: str, seconds: float) -> dict[str, Any]:
        """Return the next answer. Raises DataError if it is an error, is late, or does not come."""
        answer = self.answers.next_line(seconds)
        if answer is None:
            raise DataError(f"{place} takes more than {seconds:g} s to be {done}", REMEDY)
        failed = f"{place} cannot be {done}"
        if not answer:
            raise DataError(f"{failed}: {self.end()}", REMEDY)
        reply: dict[str, Any] = strict_json.parse(answer)
        if "error" in reply:
            raise template_error(failed, reply["error"])
        return reply

    def end(self) -> str:
        """Return a clause that says how the process ended."""
        code = self.process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"its process ended {how}"


@contextlib.contextmanager
def refusing_depth(place: object) -> Iterator[None]:
    """Turn the error of Python for values within values, too deep to be handled, into a DataError."""
    try:
        yield
    except RecursionError as error:
        raise DataError(f"{place} is nested too deeply", "write what is within its messages as text") from error


class ChatRenderer(TemplateProcess):
    """A renderer that turns conversations into texts, always the same ones.

    Args:
        template: chatml, or the path of a template.
        date: the date that the template gets as today's, YYYY-MM-DD; None for no date.

    Raises:
        DataError: the template cannot be read or compiled.
    """

    def __init__(self, template: str, date: str | None = None) -> None:
        super().__init__(read_template(template), date)

    def render(self, messages: Any, place: object) -> str:
        """Return the text of a list of {"role", "content"} tables; `place` names the row in errors.

        Raises:
            DataError: it is not such a list, or the template fails on it, or takes too long or too much memory.
        """
        require_conversation(messages, place)
        if self.source == CHATML_SOURCE:
            messages = [plain_message(message, place) for message in messages]
        text: str = self.request({"messages": messages}, place, "rendered", ROW_SECONDS)["text"]
        return text


def template_error(failed: str, reason: str) -> DataError:
    """Return the error for a template that fails for a reason that jinja2 gives."""
    if NO_DATE in reason:
        return DataError(
            f"{failed}: the chat template writes today's date, which would give another text every day",
            f"give a date: --set data.chat_date={datetime.date.today().isoformat()}",
        )
    return DataError(f"{failed}: {reason}", REMEDY)


def require_conversation(messages: Any, place: object) -> None:
    """Raise a DataError if a value is not a list of messages."""
    if not is_conversation(messages):
        raise not_a_conversation(place)


def not_a_conversation(place: object) -> DataError:
    """Return the error for a value that is not a list of messages."""
    return DataError(f"{place} is not a conversation", 'write a list of {"role": "user", "content": "..."} tables')


def is_conversation(messages: Any) -> bool:
    """Return whether a value is a list of messages with a role and a content."""
    return isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages
    )


def plain_message(message: dict[str, Any], place: object, source: str = CHATML_SOURCE) -> dict[str, Any]:
    """Return a message as a template writes it: parts of text are joined for a template that knows no parts.

    Args:
        message: the message.
        place: what to call the row in errors.
        source: the template.

    Raises:
        DataError: it holds more than the template writes, which would be lost.
    """
    content = message["content"]
    lost = next((f"in {key!r}" for key in UNWRITTEN if message.get(key) and not is_read(key, source)), "")
    if not lost and isinstance(content, list) and not PART.search(source):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        lost = "" if all(isinstance(text, str) for text in texts) else "in parts that are not text"
        content = "" if lost else "".join(map(str, texts))
    if lost:
        raise DataError(
            f"{place} has a message with content {lost}, which the chat template does not write",
            "name a template that does with --set data.chat_template=FILE, or remove it from the rows",
        )
    return {**message, "content": content}


def is_read(key: str, source: str) -> bool:
    """Return whether a template reads a key of messages; the reasoning has several names, of which it reads one."""
    return any(name in source for name in (REASONING if key in REASONING else (key,)))


class LineReader:
    """Lines of a pipe, each read with a time limit."""

    def __init__(self, pipe: io.BufferedReader) -> None:
        self.pipe, self.held = pipe, b""
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)

    def next_line(self, seconds: float) -> bytes | None:
        """Return the next line; b"" at the end of the pipe, None if no line comes in time."""
        while b"\n" not in self.held:
            if not self.selector.select(seconds):
                return None
            chunk = self.pipe.read1(1 << 16)
            if not chunk:
                return b""
            self.held += chunk
        line, _, self.held = self.held.partition(b"\n")
        return line
