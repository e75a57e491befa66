"""The verb itself: options, what goes to stdout and stderr, exit codes; at a terminal too."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pty
import select
import struct
import sys
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from command import gptcli
from gptcli.cli.chat import chat
from gptcli.generate.config import SamplingParams
from gptcli.interop.huggingface import write_huggingface
from tiny_chat import tiny_session

NO_OPTION = {"logit_bias", "overflow", "logprobs"}
"""Settings that /set has and the command line has not, or that have no effect in a chat."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    session, directory = tiny_session(), tmp_path_factory.mktemp("model")
    write_huggingface(session.model, session.tokenizer, directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    session, directory = tiny_session(""), tmp_path_factory.mktemp("base")
    write_huggingface(session.model, session.tokenizer, directory)
    return directory


def test_every_setting_of_sampling_is_an_option_with_the_same_default() -> None:
    options = inspect.signature(chat).parameters
    for name, value in SamplingParams().model_dump().items():
        if name not in NO_OPTION | {"max_new_tokens"}:
            assert (options[name].default or ()) == value if name == "stop" else options[name].default == value


def test_lines_of_a_pipe_are_answered_on_stdout_alone(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.jsonl"
    lines = f"Who?\nAnd\\\nwhy?\n/save {saved}\n/tokens\n"
    done = gptcli("chat", model, "--device", "cpu", "--max-new-tokens", "9", "--system", "Short.", text=lines)
    assert done.returncode == 0, done.stderr
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3]["content"] == "And\nwhy?"
    assert done.stdout == "".join(f"{message['content']}\n" for message in messages if message["role"] == "assistant")
    for said in ("This model answers messages, by its own chat template. The context is 96 tokens", "tokens of a"):
        assert said in done.stderr
    again = gptcli("chat", model, "--device", "cpu", "--load", saved, text="/tokens\n")
    assert again.returncode == 0 and f"{saved}: 2 turns" in again.stderr and not again.stdout


def test_a_base_model_says_that_it_continues_a_text(base: Path, tmp_path: Path) -> None:
    saved = tmp_path / "story.txt"
    options = ("--device", "cpu", "--max-new-tokens", "9", "--temperature", "0")
    done = gptcli("chat", base, *options, text=f"It was a night\n\n/save {saved}\n")
    assert done.returncode == 0 and "This is a base model: it continues a text." in done.stderr
    assert saved.read_text() == "It was a night" + "".join(done.stdout.split("\n")[:2])


def test_an_error_ends_a_pipe_with_its_line_and_exit_code(model: Path, base: Path) -> None:
    for path, options, text, code, message in (
        (model, (), "/set temperature=-1\nWho?\n", 2, "temperature: input should be"),
        (model, (), "Who? " * 60, 3, "more than its context of 96"),
        (base, ("--system", "x"), "", 2, "a base model reads no system message"),
        (model, ("--temperature", "-1"), "", 2, "temperature"),
        (model, ("--load", "nowhere.jsonl"), "", 5, "cannot read nowhere.jsonl"),
    ):
        done = gptcli("chat", path, "--device", "cpu", *options, text=text)
        assert done.returncode == code and message in done.stderr.splitlines()[-1] and not done.stdout


class ChatTerminal:
    """`gptcli chat` at a pseudo-terminal of 40 columns."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self.output, self.seen = b"", 0
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm", "OMP_NUM_THREADS": "1", **environment})
            os.execv(sys.executable, [sys.executable, "-m", "gptcli", "chat", *map(str, arguments)])
        ioctl(self.descriptor, TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def read(self, seconds: float) -> bool:
        """Whether there is more."""
        with contextlib.suppress(OSError):  # the other end is closed
            if select.select([self.descriptor], [], [], seconds)[0]:
                new = os.read(self.descriptor, 1 << 16)
                self.output += new
                return bool(new)
        return False

    def expect(self, text: str, seconds: float = 60) -> str:
        """Wait for a text after those that were seen already, and return what came before it."""
        end = time.monotonic() + seconds
        while (place := self.output.find(text.encode(), self.seen)) < 0:
            assert time.monotonic() < end, (text, self.output[self.seen :])
            self.read(0.1)
        before = self.output[self.seen : place]
        self.seen = place + len(text.encode())
        return before.decode()

    def end(self, seconds: float = 60) -> int:
        """Wait for the end, and return the exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.1)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it still runs: {self.output[self.seen :]!r}")


@contextlib.contextmanager
def at_terminal(*arguments: str | Path, **environment: str) -> Iterator[ChatTerminal]:
    terminal = ChatTerminal(*arguments, **environment)
    try:
        yield terminal
    finally:
        if terminal.pid:
            os.kill(terminal.pid, 9)
            os.waitpid(terminal.pid, 0)
        os.close(terminal.descriptor)


PASTE, END_OF_PASTE, READY = "\x1b[200~", "\x1b[201~", "\x1b[?2004h"


@pytest.mark.slow
def test_a_terminal_stops_answers_takes_pastes_and_leaves_with_0(model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "chat.jsonl"
    wild = ("--temperature", "2", "--max-new-tokens", "100000", "--device", "cpu")
    with at_terminal(model, *wild) as terminal:
        terminal.expect(READY)
        terminal.type("\x03")
        terminal.expect("Ctrl-D or /exit leaves")
        terminal.expect(READY)
        terminal.type("/set overflow=slide logit_bias.258=-100 logit_bias.256=-100\r")
        terminal.expect(READY)
        terminal.type(f"{PASTE}Who?\nWhy \N{DUCK}?{END_OF_PASTE}")
        terminal.type("\r")
        terminal.expect("\x1b[?2004l")
        terminal.expect("\\u00")  # control characters of a wild text are shown as what they are
        terminal.type("\x03")
        terminal.expect("stopped: an empty line goes on")
        terminal.expect(READY)
        terminal.type(f"/save {saved}\r")
        terminal.expect("saved to")
        terminal.expect(READY)
        terminal.type("/nonsense\r")
        terminal.expect("gptcli: there is no command /nonsense")
        terminal.expect(READY)
        terminal.type("\x04")
        assert terminal.end() == 0
    messages = json.loads(saved.read_text())["messages"]
    assert messages[0]["content"] == "Who?\nWhy \N{DUCK}?" and messages[1]["content"]


@pytest.mark.slow
def test_a_terminal_without_colours_or_keys_gets_plain_text(base: Path) -> None:
    with at_terminal(base, "--max-new-tokens", "5", "--device", "cpu", TERM="dumb", NO_COLOR="1") as terminal:
        terminal.expect("> ")
        terminal.type("It was\r")
        terminal.expect("cut after 5 tokens")
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.output
