"""One writer to a run, seen from real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from gptcli.checkpoint.run import RunDirectory
from gptcli.errors import UsageError

HOLDER = """
import sys, time
from pathlib import Path
from gptcli.checkpoint.run import RunDirectory
with RunDirectory(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(run: RunDirectory):
    """Another process that holds the run's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_at_once_and_told_who_the_first_is(run, holder) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=rf"process {holder.pid} on "), run.lock():
        pass
    assert time.monotonic() - began < 1


def test_creating_a_run_that_is_being_written_names_its_writer(run, holder) -> None:
    with pytest.raises(UsageError, match=f"process {holder.pid} "):
        RunDirectory.create(run.path)


def test_the_lock_of_a_killed_process_heals_itself(run, holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert f"process {holder.pid} " in run.lock_path.read_text()
    with run.lock():
        assert f"process {os.getpid()} " in run.lock_path.read_text()


def test_the_lock_is_free_again_after_an_error_inside(run) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_one_process_cannot_hold_it_twice(run) -> None:
    with run.lock(), pytest.raises(UsageError, match=f"process {os.getpid()} "), run.lock():
        pass
