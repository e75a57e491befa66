"""The process's set-up, seen from outside: page faults, and what the environment says."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gptcli import runtime

needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library's allocator is left alone"
)

FAULTS = """
import resource, sys
from gptcli.runtime import prepare
if sys.argv[1] == "prepared":
    prepare()
def allocate():
    for size in (40, 100, 70):
        bytearray(size * 2**20)
allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")
    clean = {k: v for k, v in os.environ.items() if k not in names and not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | environment, timeout=60, check=True)
    return done.stdout.strip()


@needs_glibc
def test_memory_that_was_freed_is_used_again_without_asking_the_kernel() -> None:
    pages = 210 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert int(run(FAULTS, "plain")) > pages / 600, "at least once a huge page, if the kernel gives those"
    assert int(run(FAULTS, "prepared")) < 20


@needs_glibc
@pytest.mark.parametrize("setting", [{"MALLOC_MMAP_MAX_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}])
def test_a_users_own_allocator_settings_stand(setting: dict[str, str]) -> None:
    assert int(run(FAULTS, "prepared", **setting)) > 20


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["none", "spin_count", "wait_policy"],
)
def test_threads_spin_briefly_unless_the_user_has_set_it(given: dict[str, str], expected: str) -> None:
    code = "import os; from gptcli.runtime import prepare; prepare(); print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run(code, **given) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
def test_the_command_sets_itself_up_before_torch_is_there() -> None:
    code = (
        "import os, sys, gptcli.runtime as runtime\n"
        "seen = []\n"
        "original = runtime.prepare\n"
        "runtime.prepare = lambda: (seen.append('torch' in sys.modules), original())\n"
        "sys.argv = ['gptcli', '--version']\n"
        "from gptcli.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(seen, os.environ['GOMP_SPINCOUNT'])"
    )
    assert run(code).endswith("[False] 10000")


SEARCHED = (
    "import json, os, sys; from gptcli.runtime import prepare; prepare()\n"
    "print(json.dumps([sys.path, os.environ.get('PYTHONPATH'), os.environ.get('PATH'), os.environ['PYTHONSAFEPATH']]))"
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", None), (":", None), (".", None), ("{0}:", "{0}"), (":{0}", "{0}"), ("./:{0}:lib", "{0}:lib")],
)
def test_no_process_searches_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, kept: str | None
) -> None:
    """`-c` and an empty entry of PYTHONPATH both put it on the path."""
    mine, here = tmp_path / "mine", tmp_path / "here"
    mine.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    path, python_path, programs, safe = json.loads(
        run(SEARCHED, PYTHONPATH=given.format(mine), PATH=f":/usr/bin:bin:{here}")
    )
    assert not {"", str(here)} & set(path) and safe == "1"
    assert python_path == (kept and kept.format(mine)) and (str(mine) in path) == ("{0}" in given)
    assert programs == f"/usr/bin:{here}", "an absolute entry was written on purpose"


def test_a_variable_without_entries_is_removed() -> None:
    code = "import os; from gptcli.runtime import prepare; prepare(); print(os.environ.get('LIBRARY_PATH'))"
    assert run(code, LIBRARY_PATH=":") == "None"


def test_gptcli_in_the_working_directory_is_found_by_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(runtime.__file__).parents[1]
    monkeypatch.chdir(source)
    code = (
        "import json, os, sys\n"
        f"sys.path[:] = ['', *(entry for entry in sys.path if entry not in ('', {str(source)!r}))]\n"
        "from gptcli.runtime import prepare; prepare()\n"
        "print(json.dumps([sys.path, os.environ['PYTHONPATH']]))"
    )
    path, python_path = json.loads(run(code))
    assert path.index(str(source)) == len(path) - 1 and python_path == str(source)
