"""What is read from prompt files, and what is printed where."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from gptcli.errors import DataError, StorageError, UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.listener import Listener
from gptcli.generate.terminal import Printer, read_prompts


def test_a_prompt_file_has_one_prompt_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "\ufefffirst \r\n\n  second\u2028still second\n \nthird".encode()
    expected = ["first ", "  second\u2028still second", "third"]
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    assert read_prompts(None, str(file)) == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_prompts(None, "-") == expected


def test_a_prompt_of_many_lines_is_read_whole_from_a_file_and_from_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "first\r\n\n  second\u2028line\n".encode()
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    assert read_prompts(None, str(file), whole_file=True) == ["first\r\n\n  second\u2028line"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_prompts("-", None) == ["first\r\n\n  second\u2028line"]
    with pytest.raises(UsageError, match="--prompt-file"):
        read_prompts("-", None, whole_file=True)


def test_text_that_waits_on_stdin_is_mentioned_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "prompt.txt"
    for content, note in (("Once", "write - as the prompt"), ("", "")):
        file.write_text(content)
        with file.open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            assert read_prompts(None, None) == [""]
            assert stdin.read() == content
        assert note in capsys.readouterr().err
    reading, writing = os.pipe()
    os.write(writing, b"Once")
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert read_prompts(None, None) == [""]
        assert "write - as the prompt" in capsys.readouterr().err
    os.close(writing)


def test_without_a_file_the_prompt_is_the_one_given_or_empty() -> None:
    assert read_prompts("Once", None) == ["Once"]
    assert read_prompts(None, None) == [""]


def test_prompt_files_that_cannot_be_used_are_clear_errors(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    with pytest.raises(StorageError, match=r"cannot read .*prompts\.txt"):
        read_prompts(None, str(file))
    file.write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="not UTF-8 at byte 2"):
        read_prompts(None, str(file))
    file.write_bytes(b"\n  \n")
    with pytest.raises(DataError, match="no prompt"):
        read_prompts(None, str(file))
    with pytest.raises(UsageError, match="both"):
        read_prompts("Once", str(file))


def test_one_sample_is_printed_piece_by_piece(capsys: pytest.CaptureFixture) -> None:
    with Printer(["Once"], GenerationConfig()) as printer:
        printer.on_text(0, " upon")
        assert capsys.readouterr().out == " upon"
        printer.on_text(0, " a time")
        assert capsys.readouterr().out == " a time"
        printer.on_end(0)
    assert capsys.readouterr() == ("\n", "")


def test_samples_are_printed_in_order_whichever_ends_first(capsys: pytest.CaptureFixture) -> None:
    with Printer(["P", "Q"], GenerationConfig(num_samples=2, seed=5)) as printer:
        for number, piece in ((2, "c1"), (0, "a1"), (1, "b1"), (2, "c2")):
            printer.on_text(number, piece)
        printer.on_end(2)
        assert capsys.readouterr().out == "a1"
        printer.on_end(0)
        assert capsys.readouterr().out == "\n---\nb1"
        printer.on_end(1)
        printer.on_end(3)
    out, err = capsys.readouterr()
    assert out == "\n---\nc1c2\n---\n\n"
    assert err.splitlines()[-1] == "--- prompt 2 of 2, sample 2 of 2, seed 6"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_control_characters_of_the_text_and_a_pipe_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stdout", stream)
        with Printer(["p"], GenerationConfig()) as printer:
            for piece in ("a\x1b", "[2J\tb\r", "\n\u202eü"):
                printer.on_text(0, piece)
            printer.on_end(0)
        written.append(stream.getvalue())
    assert written == ["a\\u001b[2J\tb\\u000d\n\\u202eü\n", "a\x1b[2J\tb\r\n\u202eü\n"]


def test_silent_printer_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    with Listener() as printer:
        printer.on_text(0, "text")
        printer.on_end(0)
    assert capsys.readouterr() == ("", "")


def test_what_was_generated_before_an_interrupt_stays_and_its_line_ends(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt), Printer(["P"], GenerationConfig()) as printer:
        printer.on_text(0, "so far")
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "so far\n"
