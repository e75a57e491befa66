"""A signal is answered while a library works, and what the call returns or raises reaches the caller."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptcli.interruptible import CallThread, call_interruptibly
from gptcli.tokenizer.encode import UNINTERRUPTED_CHARACTERS, encode_pieces
from gptcli.tokenizer.train import train_backend


class Answered(Exception):
    """What the handler raises."""


class SlowLibrary:
    """Stands for a tokenizer whose library works until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.texts: list[str] = []

    def work(self) -> None:
        self.let_go.wait(60)

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> None:
        self.work()

    def train_from_iterator(self, texts: Iterator[str], trainer: object) -> None:
        self.texts.extend(texts)
        self.work()


@pytest.fixture
def slow() -> Iterator[SlowLibrary]:
    library = SlowLibrary()
    yield library
    library.let_go.set()


@pytest.fixture
def alarm() -> Iterator[None]:
    """A signal that comes soon, and whose handler raises Answered."""

    def answer(signum: int, frame: object) -> None:
        raise Answered

    previous = signal.signal(signal.SIGALRM, answer)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


CALLS: dict[str, Callable[[SlowLibrary], object]] = {
    "any call": lambda slow: call_interruptibly(slow.work),
    "encoding": lambda slow: encode_pieces(slow, ["a" * (UNINTERRUPTED_CHARACTERS + 1)], True),
    "learning": lambda slow: train_backend(["a"], slow, None),
    "reading to learn": lambda slow: train_backend((time.sleep(0.01) or "a" for _ in range(10_000)), slow, None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_signal_is_handled_during_the_call(call: Callable, slow: SlowLibrary, alarm: None) -> None:
    began = time.monotonic()
    with pytest.raises(Answered):
        call(slow)
    assert time.monotonic() - began < 10


def test_what_a_reader_raises_ends_the_training(slow: SlowLibrary) -> None:
    def texts() -> Iterator[str]:
        yield from "abc" * 1000
        raise ValueError("line 7")

    with pytest.raises(ValueError, match="line 7"):
        train_backend(texts(), slow, None)
    for thread in threading.enumerate():
        if isinstance(thread, CallThread):
            thread.join(10)
            assert not thread.is_alive() and isinstance(thread.error, InterruptedError)


def test_values_and_errors_are_those_of_the_call() -> None:
    assert call_interruptibly(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_interruptibly(lambda: 1 // 0)
    waited: list[float] = []
    assert CallThread(lambda: time.sleep(0.3)).result(waited.append) is None
    assert waited and waited == sorted(waited)


def test_outside_the_main_thread_the_call_is_made_directly() -> None:
    found: list[threading.Thread] = []
    thread = threading.Thread(target=lambda: found.append(call_interruptibly(threading.current_thread)))
    thread.start()
    thread.join()
    assert found == [thread]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_handles_signals_while_it_trains_merges(tmp_path: Path, signum: int) -> None:
    """The text goes through a pipe: once all of it is taken, the library has it, or is about to."""
    code = "import sys\nfrom gptcli.cli.app import main\nmain()"
    command = [sys.executable, "-c", code, "tokenizer", "train", "-", "--vocab-size", "60000", "--out", "words"]
    text = "".join(random.Random(0).choices(list(map(chr, range(0x4E00, 0x5400))), k=1_000_000))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdin.write(text.encode())
        process.stdin.close()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signum)
        began = time.monotonic()
        assert process.wait(60) == 128 + signum
        assert time.monotonic() - began < 10, "the merges take half a minute"
        assert b"nothing was written" in process.stderr.read() and not list(tmp_path.iterdir())
