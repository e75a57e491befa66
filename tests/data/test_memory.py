"""Memory does not grow with the size of the corpus."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from bench.large_corpus import write_large_corpus
from bench.memory import watch

PREPARE = """
    import json, sys
    from pathlib import Path
    from gptcli.data.config import DataConfig
    from gptcli.data.prepare import prepare_corpus, scan_corpus
    from gptcli.data.workspace import Workspace
    workspace = Workspace(DataConfig(tokenizer=json.loads(sys.argv[3])), Path(sys.argv[2]))
    data = prepare_corpus(scan_corpus([sys.argv[1]], workspace), workspace)
    print(data.train.bytes + data.val.bytes)
"""


def peak_megabytes(path: Path, cache: Path, tokenizer: object) -> tuple[float, int]:
    """Return the peak memory of a process that prepares a corpus, without mapped files, in MB, and the bytes of text.

    The system can take the pages of mapped files back at any time, so it keeps as many as there is room for.
    """
    command = [sys.executable, "-c", textwrap.dedent(PREPARE), str(path), str(cache), json.dumps(tokenizer)]
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"RssAnon:\s*(\d+)", status.read_text())  # absent once the process has ended
            peak = max(peak, int(found[1]) / 1024 if found else 0)
            time.sleep(0.002)
        assert process.stdout is not None and process.returncode == 0
        return peak, int(process.stdout.read())


def words(generator: random.Random, count: int) -> str:
    return " ".join(f"{generator.choice('abcdefghij')}{generator.randrange(3000)}" for _ in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path: Path, kind: str) -> None:
    """One text file is one document of 55 MB; the rows are 50,000 documents."""
    block = [words(random.Random(number), 170) for number in range(1000)]
    peaks = []
    for repeats in (5, 50):
        path = tmp_path / f"{repeats}.{kind}"
        with path.open("w") as file:
            for repeat in range(repeats):
                for text in block:
                    file.write(f"{repeat} {text}\n" if kind == "txt" else f'{{"text": "{repeat} {text}"}}\n')
        peak, size = peak_megabytes(path, tmp_path / "cache", {"name": "bpe", "vocab_size": 1000})
        peaks.append(peak)
        assert size > repeats * 900_000
    assert peaks[1] < 250 and peaks[1] < peaks[0] + 30, peaks


def letters(generator: random.Random, count: int) -> str:
    """Return a line of words that write_large_corpus can change."""
    return " ".join("".join(generator.choices("abcdefghij", k=6)) for _ in range(count)) + "\n"


@pytest.mark.slow
def test_all_processes_together_stay_below_a_gigabyte(tmp_path: Path) -> None:
    """Rows, one long text and very many small documents, with a tokenizer whose words do not repeat."""
    (tmp_path / "corpus").mkdir()
    texts = [letters(random.Random(number), 700) for number in range(1000)]
    write_large_corpus(tmp_path / "corpus", texts, 95_000_000)
    command = [sys.executable, "-m", "gptcli", "data", "prepare", str(tmp_path / "corpus"), "--json", "--workers", "3"]
    settings = ["--cache-dir", str(tmp_path / "cache"), "--set", "data.tokenizer.vocab_size=2000"]
    taken = watch([*command, *settings], os.environ)
    assert taken.status == 0, taken.errors
    report = json.loads(taken.output)
    assert report["tokenizer_sample"]["bytes"] < 70_000_000 < report["train"]["bytes"]
    assert report["train"]["documents"] > 95_000 and report["dropped"]["duplicates"] > 2_300
    assert 100e6 < taken.proportional_bytes < 1e9
