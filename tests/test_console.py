"""What is said to people in figures."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import struct
import sys
import termios
import unicodedata

import pytest

from gptcli import console
from gptcli.console import (
    Progress,
    VisibleStream,
    duration,
    protect_terminal,
    quantity,
    rounded,
    say,
    say_error,
    show,
    size,
    visible,
)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999.4e6, "999 MB"), (999.7e6, "1 GB"), (2.095e12, "2.1 TB")],
)
def test_a_size_has_three_digits_and_never_a_thousand_of_a_prefix(count: float, words: str) -> None:
    assert size(count) == words


def test_a_duration_is_printed_in_suitable_units() -> None:
    assert [duration(seconds) for seconds in (0.84, 42, 200, 18_720)] == ["0.8 s", "42 s", "3 min 20 s", "5 h 12 min"]


def test_one_thing_has_no_plural() -> None:
    assert [quantity(number, "layer") for number in (0, 1, 1200)] == ["0 layers", "1 layer", "1,200 layers"]


def test_a_rounded_number_has_no_power_of_ten() -> None:
    assert [rounded(value) for value in (0.0312, 5.27, 99.4, 531.0, 12400.0)] == ["0.031", "5.3", "99", "531", "12,400"]


def test_the_time_before_the_first_update_does_not_count_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Progress("train", 100, unit="steps", interval=1e9) as progress:
        now = 40.0  # the first step was compiled
        progress.update(1)
        assert progress.line() == "train 1/100 steps, 40 s elapsed"
        now = 42.0
        progress.update(1)
        assert progress.line() == "train 2/100 steps, 42 s elapsed, 3 min 16 s left"


def test_a_bar_of_80_columns_shows_both_losses_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pseudo-terminal of that width, at the end of a long run, where the counts are widest."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    figures = {"loss": "2.311", "val loss": "2.415", "tokens/s": "123,456"}
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with Progress("train", 10000, unit="steps", initial=9000) as progress:
            progress.update(1, **figures)
            progress.bar.refresh()
            stderr.flush()
            shown = ""
            while "loss" not in shown.split("\r")[-1]:  # a terminal may give what was written in parts
                assert select.select([main], [], [], 10)[0], shown
                shown += os.read(main, 10_000).decode(errors="replace")
            shown = shown.split("\r")[-1]
    os.close(main)
    assert "loss 2.311, val loss 2.415" in shown
    assert len(shown) <= 80
    assert "tokens/s" not in shown
    assert progress.shown_figures(140) == "loss 2.311, val loss 2.415, tokens/s 123,456"


TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def test_no_control_character_is_printed_and_every_other_character_is() -> None:
    everything = "".join(map(chr, range(0x110000)))
    dangerous = [code for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp", "Cs")]
    turning = [code for code in range(0x110000) if unicodedata.bidirectional(chr(code)) in TURNING]
    escaped = {code for code in [*dangerous, *turning, 0x200E, 0x200F, 0x061C] if chr(code) not in "\n\t"}
    assert visible(everything) == "".join(
        f"\\u{code:04x}" if code in escaped else chr(code) for code in range(0x110000)
    )
    assert visible("\x1b[2J\r\x9b\u202etxt\tü\n") == "\\u001b[2J\\u000d\\u009b\\u202etxt\tü\n"


def test_json_with_escaped_characters_reads_back_as_it_was() -> None:
    value = "".join(map(chr, range(0x3000)))
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value


def test_every_message_is_visible(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for speak in (say, say_error, show):
        speak("a\x1b]52;c;aGk=\x07b")
    with Progress("\x1b[31m", unit="\x9b", interval=0) as progress:
        progress.update(1, loss="\u202e")
    told = capsys.readouterr()
    assert told.out == "a\\u001b]52;c;aGk=\\u0007b\n"
    assert told.err.startswith("a\\u001b]52;c;aGk=\\u0007b\ngptcli: a\\u001b]52")
    assert r"\u001b[31m 1 \u009b" in told.err and r"loss \u202e" in told.err


def test_a_bar_may_move_the_cursor_and_what_it_shows_may_not() -> None:
    written = io.StringIO()
    stream = VisibleStream(written, has_bars=True)
    for text in ("\r 5%|## |", "\r          \r", "\n\n", "\x1b[A\x1b[A", "\rname\rname\x1b[A", "\x1b[Aname", ""):
        assert stream.write(text) == len(text)
    assert written.getvalue() == ("\r 5%|## |\r          \r\n\n\x1b[A\x1b[A\rname\\u000dname\\u001b[A\\u001b[Aname")


def test_a_terminal_is_protected_and_a_pipe_gets_exact_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    main, terminal = pty.openpty()
    piped, pipe = os.pipe()
    with os.fdopen(terminal, "w") as shown, os.fdopen(pipe, "w") as kept:
        monkeypatch.setattr("sys.stdout", shown)
        monkeypatch.setattr("sys.stderr", kept)
        protect_terminal()
        print("\x1b[31mred", flush=True)
        print("\x1b[31mred", file=sys.stderr, flush=True)
        monkeypatch.setattr("sys.stdout", kept)
        protect_terminal()
        print("\x1b[31mred", flush=True)
        assert os.read(main, 1000) == b"\\u001b[31mred\r\n"
        assert os.read(piped, 1000) == b"\\u001b[31mred\n\x1b[31mred\n"
    os.close(main)
    os.close(piped)


def test_the_middle_of_a_very_long_error_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("the beginning " + "x" * 100_000 + "; the remedy")
    said = capsys.readouterr().err
    assert len(said) < 4100 and said.startswith("gptcli: the beginning") and said.endswith("xx; the remedy\n")
