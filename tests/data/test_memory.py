"""Memory does not grow with the size of the corpus."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bench.large_corpus import write_large_corpus
from bench.memory import watch
from own_peak import PEAK

MEASURE = """
    import json, sys
    from pathlib import Path
    import numpy, tokenizers
    from gptcli.data.config import DataConfig
    from gptcli.data.prepare import prepare_corpus, scan_corpus
    from gptcli.data.workspace import Workspace
    workspace = Workspace(DataConfig(tokenizer=json.loads(sys.argv[3])), Path(sys.argv[2]))
    before = peak()
    scan = scan_corpus([sys.argv[1]], workspace)
    scanned = peak()
    data = prepare_corpus(scan, workspace)
    after = peak()
    print(json.dumps([scanned - before, after - before, data.train.bytes + data.val.bytes]))
"""


def peak_megabytes(path: Path, cache: Path, tokenizer: object) -> tuple[float, float, int]:
    """Return (growth of peak RSS after the scan, and after encoding, in MB; bytes of text)."""
    command = [sys.executable, "-c", PEAK + textwrap.dedent(MEASURE), str(path), str(cache), json.dumps(tokenizer)]
    scanned, prepared, size = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return scanned / 1024, prepared / 1024, size


def words(generator: random.Random, count: int) -> str:
    return " ".join(f"{generator.choice('abcdefghij')}{generator.randrange(3000)}" for _ in range(count))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path: Path, kind: str) -> None:
    """One text file is one document of 110 MB; the rows are 100,000 documents."""
    block = [words(random.Random(number), 170) for number in range(1000)]
    peaks = []
    for repeats in (10, 100):
        path = tmp_path / f"{repeats}.{kind}"
        with path.open("w") as file:
            for repeat in range(repeats):
                for text in block:
                    file.write(f"{repeat} {text}\n" if kind == "txt" else f'{{"text": "{repeat} {text}"}}\n')
        scanned, prepared, size = peak_megabytes(path, tmp_path / "cache", {"name": "bpe", "vocab_size": 1000})
        peaks.append((scanned, prepared))
        assert size > repeats * 900_000
    assert peaks[1][0] < 120 and peaks[1][1] < 500
    assert peaks[1][1] < peaks[0][1] + 60


def letters(generator: random.Random, count: int) -> str:
    """Return a line of words that write_large_corpus can change."""
    return " ".join("".join(generator.choices("abcdefghij", k=6)) for _ in range(count)) + "\n"


@pytest.mark.slow
def test_all_processes_together_stay_below_a_gigabyte(tmp_path: Path) -> None:
    """Rows, one long text and very many small documents, with a tokenizer whose words do not repeat."""
    (tmp_path / "corpus").mkdir()
    texts = [letters(random.Random(number), 700) for number in range(1000)]
    write_large_corpus(tmp_path / "corpus", texts, 120_000_000)
    command = [sys.executable, "-m", "gptcli", "data", "prepare", str(tmp_path / "corpus"), "--json", "--workers", "3"]
    settings = ["--cache-dir", str(tmp_path / "cache"), "--set", "data.tokenizer.vocab_size=2000"]
    taken = watch([*command, *settings], os.environ)
    assert taken.status == 0, taken.errors
    report = json.loads(taken.output)
    assert report["tokenizer_sample"]["bytes"] < 70_000_000 < report["train"]["bytes"]
    assert report["train"]["documents"] > 120_000 and report["dropped"]["duplicates"] > 3_000
    assert 100e6 < taken.proportional_bytes < 1e9
