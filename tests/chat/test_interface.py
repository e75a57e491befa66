"""Messages as they are typed, pasted and piped."""

from __future__ import annotations

import io
import sys

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from gptcli.chat.interface import LineInterface, TerminalInterface, key_bindings
from gptcli.errors import DataError, StdoutClosed, UsageError


def typed(keys: str) -> str:
    """The message that a terminal reads where these keys are typed."""
    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        session: PromptSession[str] = PromptSession(
            multiline=True, key_bindings=key_bindings(), input=pipe, output=DummyOutput()
        )
        return session.prompt("> ")


def piped(data: bytes, monkeypatch: pytest.MonkeyPatch) -> LineInterface:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return LineInterface()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("Hello\r", "Hello"),
        ("One\\\rTwo\\\rThree\r", "One\nTwo\nThree"),
        ("One\x1b\rTwo\r", "One\nTwo"),
        ("\x1b[200~a \\\r\n  b\r\n\x1b[201~why?\r", "a \\\n  b\nwhy?"),
        ("\x1b[200~\x1b[31mred\x1b[201~\r", "\x1b[31mred"),
        ("wrong\x03right\r", "right"),
    ],
)
def test_enter_sends_what_was_typed_or_pasted_and_a_backslash_begins_another_line(keys: str, message: str) -> None:
    assert typed(keys) == message


@pytest.mark.parametrize(("keys", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)])
def test_control_keys_mean_something_else_where_there_is_no_text(keys: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        typed(keys)


def test_lines_of_a_pipe_are_messages_and_a_backslash_joins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = piped("One\r\nTwo\\\nThree \U0001f986\n\nlast\\".encode(), monkeypatch)
    assert [lines.read() for _ in range(4)] == ["One", "Two\nThree \U0001f986", "", "last\\"]
    with pytest.raises(EOFError):
        lines.read()
    with pytest.raises(DataError, match="is not UTF-8"):
        piped(b"caf\xe9\n", monkeypatch).read()


def test_an_error_ends_a_pipe_and_not_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UsageError):
        piped(b"", monkeypatch).failed(UsageError("it is wrong"))
    terminal = TerminalInterface.__new__(TerminalInterface)
    terminal.column = 0
    terminal.failed(UsageError("it is wrong", "do it right"))
    assert capsys.readouterr().err == "gptcli: it is wrong; do it right\n"
    with pytest.raises(StdoutClosed):
        terminal.failed(StdoutClosed("the terminal is gone"))
