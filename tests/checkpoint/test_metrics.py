"""The metrics log under kills, full disks and resumes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from gptcli.checkpoint.metrics import MetricsLog
from gptcli.errors import CheckpointError, StorageError


@pytest.fixture
def log(tmp_path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl")


def steps(log: MetricsLog) -> list[int]:
    return [line["step"] for line in log.read()]


def test_lines_come_back_as_they_were_written(log) -> None:
    assert log.read() == []
    lines = [{"step": 1, "loss": 0.1 + 0.2, "text": "naïve\n“quote”\u2028"}, {"step": 2, "val_loss": None}]
    for line in lines:
        log.append(line)
    assert log.read() == lines


def test_numbers_that_are_not_finite_are_strict_json_and_come_back(log) -> None:
    log.append({"step": 1, "a": math.nan, "b": [math.inf, -math.inf]})
    line = json.loads(log.path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line == {"step": 1, "a": "NaN", "b": ["Infinity", "-Infinity"]}
    (read,) = log.read()
    assert math.isnan(read["a"]) and read["b"] == [math.inf, -math.inf]


def test_a_torn_last_line_counts_as_none_and_does_not_spoil_the_next(log) -> None:
    log.append({"step": 1})
    with log.path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert steps(log) == [1]
    log.append({"step": 2})
    assert steps(log) == [1, 2]


def test_a_torn_line_longer_than_a_block_counts_as_none(log) -> None:
    log.append({"step": 1})
    with log.path.open("a") as file:
        file.write('{"text": "' + "x" * 200_000)
    assert steps(log) == [1]
    log.truncate_after(1)
    assert log.path.read_text() == '{"step": 1}\n'


def test_a_log_that_holds_only_a_torn_line_is_empty(log) -> None:
    log.path.write_text('{"st')
    assert log.read() == []
    log.append({"step": 1})
    assert steps(log) == [1]


def test_resuming_drops_the_steps_that_are_made_anew(log) -> None:
    for step in range(1, 8):
        log.append({"step": step, "loss": 1 / step})
    before = log.path.read_bytes().splitlines(keepends=True)
    log.truncate_after(4)
    assert log.path.read_bytes() == b"".join(before[:4])
    log.append({"step": 5})
    assert steps(log) == [1, 2, 3, 4, 5]
    log.truncate_after(0)
    assert log.read() == []


def test_truncating_a_log_that_is_not_there_makes_none(log) -> None:
    log.truncate_after(3)
    log.sync()
    assert not log.path.exists()


def test_a_damaged_line_in_the_middle_is_named(log) -> None:
    log.path.write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match="line 2"):
        log.read()


APPENDER = """
import itertools, sys
from pathlib import Path
from gptcli.checkpoint.metrics import MetricsLog
log = MetricsLog(Path(sys.argv[1]))
for step in itertools.count(1):
    log.append({"step": step, "text": "x" * 2000})
    print(step, flush=True)
"""


def test_every_line_whose_append_returned_outlives_a_kill(log) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(log.path)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    returned = [1, *(int(line) for line in process.communicate()[0].splitlines() if line.endswith(tuple("0123456789")))]
    found = steps(log)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= returned[-1]


LIMITED_APPEND = """
import resource, sys
from pathlib import Path
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
log = MetricsLog(Path(sys.argv[1]))
for step in range(1, 5):
    try:
        log.append({"step": step, "text": "x" * 30})
    except StorageError as error:
        print(error)
"""


def test_a_line_that_does_not_fit_leaves_no_part_of_it(log) -> None:
    program = [sys.executable, "-c", LIMITED_APPEND, str(log.path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3
    assert steps(log) == [1]
    assert log.path.read_bytes().endswith(b"}\n")


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path) -> None:
    with pytest.raises(StorageError, match="missing"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").append({"step": 1})


@pytest.mark.parametrize("step", ["1e400", '"x"', "null", "[]", "1.5"])
def test_a_line_whose_step_is_no_whole_number_is_named(tmp_path, step: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{{"step": {step}}}\n')
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for use in (log.read, log.last_step, lambda: log.truncate_after(1)):
        with pytest.raises(CheckpointError, match="line 2 is damaged: its step is no integer; remove that line"):
            use()
