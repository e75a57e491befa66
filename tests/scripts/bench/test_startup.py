"""Start-up times of real commands, and errors of those that fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

from bench.startup import FIRST, IMPORT, measure, seconds_to_end, seconds_to_first_byte, tables, write_small_model
from gptcli.interop.huggingface import read_huggingface
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.workers import BenchError

SLOW_SECOND_BYTE = "import sys, time; sys.stdout.write('a'); sys.stdout.flush(); time.sleep(2); sys.stdout.write('b')"


@pytest.mark.slow
def test_the_first_token_takes_longer_than_python_alone() -> None:
    seconds = measure(BenchOptions(rounds=1, device="cpu")).results["seconds"]
    assert list(seconds) == ["python -c pass", "gptcli --help", IMPORT, FIRST]
    assert seconds["python -c pass"]["median"] < seconds[IMPORT]["median"]
    assert seconds["python -c pass"]["median"] < seconds[FIRST]["median"]


def test_the_clock_stops_at_the_first_byte_and_not_at_the_end() -> None:
    began = time.perf_counter()
    first = seconds_to_first_byte((sys.executable, "-c", SLOW_SECOND_BYTE))
    assert time.perf_counter() - began - first >= 1.0


@pytest.mark.parametrize("clock", [seconds_to_end, seconds_to_first_byte])
def test_a_command_that_fails_is_one_line_with_its_own_words(clock) -> None:
    with pytest.raises(BenchError, match="failed: oh dear"):
        clock((sys.executable, "-c", "import sys; sys.exit('oh dear')"))


def test_the_small_model_writes_a_letter_whatever_it_reads(tmp_path: Path) -> None:
    """Its first token can be shown at once: no end of text, no half of a character."""
    write_small_model(tmp_path)
    model, tokenizer = read_huggingface(tmp_path)
    for letter in "abcxyz":
        best = int(model(tokenizer_ids(tokenizer, letter))[0, -1].argmax())
        assert tokenizer.decode([best]).isalpha()


def tokenizer_ids(tokenizer, text: str):

    return torch.tensor([tokenizer.encode(text)])


def test_the_table_says_what_comes_on_top_of_torch() -> None:
    one = {"median": 1.5, "low": 1.0, "high": 2.0}
    [table] = tables({"seconds": {"gptcli --help": one}, "first_token_after_torch": {"median": 0.25}})
    assert table.rows == [("gptcli --help", "1.50 s", "1.00 s", "2.00 s")]
    assert "0.250 s after" in table.notes[0]
