"""Temporaries are removed if their owner has certainly ended, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptcli.storage import (
    TEMPORARY_MARK,
    atomic_directory,
    atomic_file,
    clean_temporaries,
    held_directory,
    temporaries,
    temporary_name,
)
from gptcli.storage.temporaries import UNKNOWN_SECONDS, Owner, current_owner, is_unlocked

GONE = 2**22 + 1
"""Above the largest process number of Linux."""
HERE = current_owner()
LABELS = {
    "this process": HERE.label(),
    "a process that has ended": HERE._replace(pid=GONE).label(),
    "an earlier process of a number that is taken": HERE._replace(start=HERE.start - 1).label(),
    "a process of another container": HERE._replace(pid=GONE, namespace="0" * 8).label(),
    "a process of another machine": HERE._replace(pid=GONE, boot="0" * 8).label(),
    "an earlier version": f"{GONE}",
    "nobody": "x",
}


def made(folder: Path, who: str, *, age: float = 0.0) -> Path:
    """A temporary directory with a file in it, both of that age in seconds."""
    path = folder / f"entry{TEMPORARY_MARK}{LABELS[who]}-00c0ffee"
    path.mkdir()
    (path / "part").write_text("x")
    for changed in (path / "part", path):
        os.utime(changed, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("who", LABELS)
@pytest.mark.parametrize("excluded", ["nobody", "this machine", "everyone"])
def test_what_is_removed_depends_on_its_owner_and_on_the_lock_that_is_held(
    tmp_path: Path, who: str, excluded: temporaries.Excluded
) -> None:
    path = made(tmp_path, who)
    is_gone = who in ("a process that has ended", "an earlier process of a number that is taken")
    is_excluded = (excluded == "this machine" and who == "a process of another container") or (
        excluded == "everyone" and who != "this process"
    )
    expected = [path] if is_gone or is_excluded else []
    assert clean_temporaries(tmp_path, excluded=excluded) == expected
    assert path.exists() == (not expected)


@pytest.mark.parametrize("who", [who for who in LABELS if "number" not in who and "ended" not in who])
def test_after_a_week_everything_is_removed_but_what_a_living_process_owns(tmp_path: Path, who: str) -> None:
    path = made(tmp_path, who, age=UNKNOWN_SECONDS + 60)
    assert path.exists() and (clean_temporaries(tmp_path) == [path]) == (who != "this process")


def test_one_file_that_has_just_been_written_keeps_an_old_temporary(tmp_path: Path) -> None:
    path = made(tmp_path, "a process of another machine", age=UNKNOWN_SECONDS + 60)
    (path / "part").touch()
    assert clean_temporaries(tmp_path) == []


def test_only_temporaries_of_the_named_entry_are_removed(tmp_path: Path) -> None:
    mine = made(tmp_path, "a process that has ended")
    other = tmp_path / mine.name.replace("entry", "entry-2")
    other.mkdir()
    assert clean_temporaries(tmp_path, "entry") == [mine]
    assert other.exists()
    assert clean_temporaries(tmp_path) == [other]


def test_a_link_with_a_temporary_name_is_removed_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "part").write_text("theirs")
    link = tmp_path / f"entry{TEMPORARY_MARK}{LABELS['a process that has ended']}-00"
    link.symlink_to(tmp_path / "outside")
    assert clean_temporaries(tmp_path) == [link]
    assert (tmp_path / "outside" / "part").read_text() == "theirs"


def test_a_name_identifies_its_owner_and_fits_into_a_directory() -> None:
    name = temporary_name(Path("step-00000100")).name
    assert Owner.of_name(name) == current_owner() and len(name) < 100
    for wrong in ("step", "a.tmp-", "a.tmp-1-2-3-4", f"a.tmp-x-1-{'0' * 16}-00", f"a.tmp-1-x-{'0' * 16}-00"):
        assert Owner.of_name(wrong) is None


def test_a_process_that_ended_and_was_not_waited_for_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from gptcli.storage import temporary_name; "
        "temporary_name(Path(sys.argv[1]) / 'entry').mkdir(); print()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.read()  # to its end: now it is a zombie
    try:
        deadline = time.monotonic() + 30
        while not clean_temporaries(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not list(tmp_path.iterdir())
    finally:
        process.communicate()


def can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("proc", [["--mount-proc"], []])
def test_a_process_of_another_pid_namespace_does_not_count_as_ended(tmp_path: Path, proc: list[str]) -> None:
    if not can_unshare():
        pytest.skip("making a pid namespace is not permitted here")
    mine = temporary_name(tmp_path / "entry")
    mine.mkdir()
    code = (
        "import sys; from pathlib import Path; from gptcli.storage import clean_temporaries, temporary_name; "
        "temporary_name(Path(sys.argv[1]) / 'entry').mkdir(); print(len(clean_temporaries(Path(sys.argv[1]))))"
    )
    command = ["unshare", "--pid", "--fork", *proc, sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n" and mine.exists()
    assert clean_temporaries(tmp_path) == []  # its owner may live, as far as can be told from here
    (left,) = clean_temporaries(tmp_path, "entry", excluded="this machine")
    assert left != mine and mine.exists()


def test_the_lock_of_a_directory_shows_across_pid_namespaces_whether_its_owner_lives(tmp_path: Path) -> None:
    path = tmp_path / f"entry{TEMPORARY_MARK}{LABELS['a process of another container']}-00"
    with held_directory(path):
        os.utime(path, (time.time() - 120,) * 2)
        assert clean_temporaries(tmp_path) == [] and path.exists()
    os.utime(path)  # it was made just now, and may be locked in a moment
    assert clean_temporaries(tmp_path) == []
    os.utime(path, (time.time() - 120,) * 2)
    assert clean_temporaries(tmp_path) == [path]


def test_the_directories_of_writers_are_locked(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "made") as folder, atomic_file(tmp_path / "file") as file:
        for path in (folder, file.parent):
            os.utime(path, (time.time() - 120,) * 2)
            assert not is_unlocked(path)
