"""The bench of preparing a large corpus, at a small size, and what it measures memory with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from bench.large_corpus import write_large_corpus
from bench.memory import memory_of, watch
from bench.preparing import ALONE, PreparingRequest, measure, workers_name
from gptcli.report.bench.options import BenchOptions

TEXTS = [f"some words of text number {number}, which are repeated again\n" * 40 for number in range(50)]

TWO_PROCESSES = """
import subprocess, sys, time
held = bytearray(b"x") * 60_000_000
child = [sys.executable, "-c", "import time; held = bytearray(b'x') * 50_000_000; print(1, flush=True); time.sleep(1)"]
subprocess.run(child)
"""


def test_memory_is_that_of_a_command_and_all_that_it_starts() -> None:
    taken = watch([sys.executable, "-c", TWO_PROCESSES], os.environ)
    assert taken.status == 0 and taken.output == "1\n"
    assert 110e6 < taken.proportional_bytes < 150e6 and taken.proportional_bytes <= taken.resident_bytes
    assert watch([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, kill_after=0.3).seconds < 20
    assert memory_of(2**30) == (0, 0)


def test_a_large_corpus_is_as_large_as_asked_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_large_corpus(tmp_path / name, TEXTS, 800_000)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sum((tmp_path / "one" / name).stat().st_size for name in files) == pytest.approx(800_000, rel=0.2)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    lines = (tmp_path / "one" / "rows-0.jsonl").read_text().splitlines()
    rows = [json.loads(line)["text"] for line in lines]
    assert 0 < len(rows) - len(set(rows)) < 0.2 * len(rows)


@pytest.mark.slow
def test_a_small_corpus_goes_through_the_whole_bench(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(TEXTS))
    request = PreparingRequest((str(path),), gigabytes=0.003, vocab_size=300, is_killed=False)
    outcome = measure(request, BenchOptions(rounds=1, threads=2, device="cpu"))
    contenders = outcome.results["contenders"]
    assert list(contenders) == [workers_name(1), workers_name(2), ALONE]
    assert all(one["bytes_per_second"]["median"] > 0 for one in contenders.values())
    assert 30e6 < contenders[workers_name(1)]["proportional_bytes"] < 500e6
    assert "PSS" in outcome.tables[0].text()
