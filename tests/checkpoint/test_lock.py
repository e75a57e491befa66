"""One writer to a run, seen from real processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import StorageError, UsageError

HOLDER = """
import sys, time
from pathlib import Path
from gptcli.checkpoint.run_directory import RunDirectory
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


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_the_lock_is_free_again_and_its_file_gone_however_the_block_ends(run, error) -> None:
    with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt), run.lock():
        if error is not None:
            raise error
    assert not run.lock_path.exists()
    with run.lock():
        pass


def test_a_lock_file_that_its_holder_removes_meanwhile_is_not_taken_for_the_lock(run, monkeypatch) -> None:
    """The second process has opened the file before the first one removes it: it must lock the file that lies there."""
    lock, opened = fcntl.flock, []

    def removed_before(descriptor: int, how: int) -> None:
        if not opened:
            run.lock_path.unlink()
        opened.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    with run.lock():
        assert len(opened) == 2 and f"process {os.getpid()} " in run.lock_path.read_text()
        with pytest.raises(UsageError, match="is being written"), run.lock():
            pass


@pytest.mark.parametrize("name", ["writer.lock", "metrics.jsonl", "samples.jsonl", "checkpoints", "val", "run.toml"])
def test_a_link_in_the_run_is_named_and_what_it_points_to_stays(run, tmp_path, name) -> None:
    target = tmp_path / "theirs"
    path = run.path / name
    if path.exists():
        path.rename(target)
    else:
        target.write_text("theirs")
    path.symlink_to(target)
    before = target.is_file() and target.read_bytes()
    with pytest.raises(StorageError, match=rf"{re.escape(name)} is a symbolic link to .*theirs"), run.lock():
        pass
    assert target.exists() and (target.is_file() and target.read_bytes()) == before
    path.unlink()
    with run.lock():
        pass


def test_a_lock_file_with_a_second_name_is_replaced_and_not_emptied(run, tmp_path) -> None:
    (tmp_path / "thesis").write_text("theirs")
    os.link(tmp_path / "thesis", run.lock_path)
    with run.lock():
        assert f"process {os.getpid()} " in run.lock_path.read_text()
    assert (tmp_path / "thesis").read_text() == "theirs"


def test_one_process_cannot_hold_it_twice(run) -> None:
    with run.lock(), pytest.raises(UsageError, match=f"process {os.getpid()} "), run.lock():
        pass
