"""Work in a limited process: limits hold before anything is imported, and whatever happens there is one clause."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from fresh import run_fresh
from gptcli import limited_process
from gptcli.limited_process import LimitedProcessError, ProcessLimits, run, start

MIB = 2**20
SMALL = ProcessLimits(memory_bytes=64 * MIB, cpu_seconds=20, file_bytes=4 * MIB)
WORKER = """
import json, os, resource, sys, time

def seen():
    return [resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0] for name in ("AS", "CPU", "FSIZE", "NOFILE")]

at_import = seen()

def main(arguments):
    globals()[arguments[0]](*arguments[1:])

def limits():
    print(json.dumps([at_import, seen()]))

def echo(*words):
    print(sys.stdin.read().upper(), *words)

def grow():
    bytearray(200 * 2**20)

def spin():
    while True:
        pass

def sleep():
    time.sleep(60)

def write(path):
    with open(path, "wb") as file:
        file.write(bytes(8 * 2**20))

def shout():
    print("x" * 8 * 2**20)

def crash():
    os.abort()

def rust_aborts():
    print("memory allocation of 68719476736 bytes failed", file=sys.stderr, flush=True)
    os.abort()

class Panic(BaseException):
    pass

def panic():
    raise Panic("index out\\nof bounds")

def refuse():
    sys.exit("it holds \\x1b[31mnothing")
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that a limited process can import; the working directory is an empty one."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "limited_worker.py").write_text(WORKER)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    return "limited_worker"


def test_limits_hold_when_the_first_module_is_imported(worker: str) -> None:
    at_import, at_work = json.loads(run(worker, ["limits"], SMALL, 60))
    assert at_import[1:] == at_work[1:] and at_work[2:] == [4 * MIB, 256]
    assert SMALL.cpu_seconds <= at_work[1] <= SMALL.cpu_seconds + 2
    if sys.platform == "linux":
        assert 0 < at_work[0] < at_import[0], "the address space is limited again after the imports"
        assert SMALL.memory_bytes < at_work[0] < SMALL.memory_bytes + 512 * MIB


def test_input_and_output_are_exact(worker: str) -> None:
    assert run(worker, ["echo", "a b", "ü"], SMALL, 60, b"text") == "TEXT a b ü\n".encode()


@pytest.mark.parametrize(
    ("call", "limits", "reason"),
    [
        pytest.param(["grow"], SMALL, "more memory", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux")),
        (["spin"], ProcessLimits(64 * MIB, cpu_seconds=1), "too much time"),
        (["write", "file"], SMALL, "File too large"),
        (["shout"], SMALL, "File too large|it failed"),
        (["crash"], SMALL, r"it crashed \(SIGABRT\)"),
        (["rust_aborts"], SMALL, "more memory"),
        (["panic"], SMALL, "^Panic: index out of bounds$"),
        (["refuse"], SMALL, "^it holds \N{REPLACEMENT CHARACTER}.31mnothing$"),
        (["no_such_function"], SMALL, "KeyError"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_failure_of_the_process_is_one_clause(
    worker: str, call: list[str], limits: ProcessLimits, reason: str
) -> None:
    with pytest.raises(LimitedProcessError, match=reason) as failure:
        run(worker, call, limits, 60)
    assert len(str(failure.value)) < 400 and str(failure.value).isprintable()
    assert not os.path.exists("file") or os.path.getsize("file") <= SMALL.file_bytes


def test_a_process_that_waits_is_ended_in_time(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(limited_process, "start", lambda *given: started.append(start(*given)) or started[0])
    began = time.monotonic()
    with pytest.raises(LimitedProcessError, match=r"more than 0\.5 s"):
        run(worker, ["sleep"], SMALL, 0.5)
    assert time.monotonic() - began < 30
    assert started[0].poll() is not None


def test_nothing_is_imported_from_the_working_directory(worker: str) -> None:
    for name in {"limited_worker", "gptcli", *sys.stdlib_module_names}:
        Path(f"{name}.py").write_text(f"open({f'imported-{name}'!r}, 'w').close()\nraise ImportError")
    assert run(worker, ["echo"], SMALL, 60, b"ok") == b"OK\n"
    with start(worker, ["echo"], SMALL) as process:
        assert process.communicate(b"ok")[0] == b"OK\n"
    assert not list(Path().glob("imported-*"))


def test_lower_limits_that_the_user_has_set_stay(worker: str) -> None:
    code = (
        "import resource, sys\n"
        "from gptcli.limited_process import ProcessLimits, run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))\n"
        f"print(run({worker!r}, ['limits'], ProcessLimits(2**26, 20, 2**22), 60).decode())"
    )
    assert json.loads(run_fresh(code))[1][2:] == [1000, 50]
