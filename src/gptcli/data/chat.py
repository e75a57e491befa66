"""Rows that hold a conversation instead of a text: a chat template makes the text.

A template is a program, and often someone else's. It is rendered by a process of its own, in jinja2's immutable
sandbox, with bounds on memory, on time and on what it writes; it sees the messages and nothing else.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from gptcli import strict_json
from gptcli.errors import DataError
from gptcli.storage import storage_errors

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
START_SECONDS, ROW_SECONDS = 60.0, 10.0
"""Longest time that the process may take to begin, and one conversation."""
REMEDY = "look at the template (data.chat_template)"


def read_template(name: str) -> str:
    """The source of a template: a built-in one, or a file.

    Raises:
        DataError: it is larger than any template.
        StorageError: it cannot be read.
    """
    if name == CHATML:
        return CHATML_SOURCE
    with storage_errors(name, "read the chat template"), Path(name).open("rb") as file:
        content = file.read(MAX_TEMPLATE_BYTES + 1)
    if len(content) > MAX_TEMPLATE_BYTES:
        raise DataError(f"{name} is larger than {MAX_TEMPLATE_BYTES:,} bytes", "a chat template is a short file")
    return content.decode(errors="replace")


class ChatRenderer:
    """Turns conversations into texts. Use it in a `with` block, which its process outlives by nothing."""

    def __init__(self, template: str) -> None:
        self.source = read_template(template)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "gptcli.data.render"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.answers = LineReader(self.process.stdout)
        try:
            first = {"template": self.source, "longest": MAX_TEXT_CHARACTERS}
            self.ask(first, "the chat template", START_SECONDS)
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
        return self.ask({"messages": messages}, place, ROW_SECONDS)

    def ask(self, request: dict[str, Any], place: object, seconds: float) -> str:
        try:
            self.process.stdin.write(strict_json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
            answer = self.answers.next_line(seconds)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            raise DataError(f"{place} takes more than {seconds:g} s to render", REMEDY)
        if not answer:
            raise DataError(f"{place} cannot be rendered: the template takes too much memory", REMEDY)
        reply = json.loads(answer)
        if "error" in reply:
            raise DataError(f"{place} cannot be rendered: {reply['error']}", REMEDY)
        return reply["text"]


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
