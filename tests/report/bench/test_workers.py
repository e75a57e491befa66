"""Workers: one process each, errors in one line, ours and the limit indispensable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from gptcli.report.bench import worker
from gptcli.report.bench.jobs import LIMIT, LimitsJob, Program, Task
from gptcli.report.bench.workers import BenchError, Worker, environment, started, unless_it_fails
from gptcli.runtime import limit_openmp_spinning
from gptcli.storage import process_is_alive

LIMITS = Task(LIMIT, "limits", LimitsJob("cpu", 0.001))
NOBODY = Task(Program("nobody", "no_such_module"), "limits", LimitsJob("cpu", 1.0))


def test_an_error_of_a_contender_is_one_line_with_its_own_words() -> None:
    with pytest.raises(BenchError, match=r"^nobody failed: ModuleNotFoundError: .*no_such_module'$"):
        Worker("nobody", NOBODY, 1)


def test_a_peer_that_fails_is_left_out_and_ours_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BenchError("litgpt failed: no such thing")

    assert unless_it_fails(False, fail) is None
    assert capsys.readouterr().err == "litgpt failed: no such thing; left out\n"
    with pytest.raises(BenchError):
        unless_it_fails(LIMITS.is_essential, fail)


def test_a_peer_that_cannot_start_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with started({"nobody": NOBODY}, 1) as workers:
        assert workers == {}
    assert "nobody failed" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_answer_rounds_and_end_with_the_block() -> None:
    with started({"limit": LIMITS}, 1) as workers:
        pid = workers["limit"].process.pid
        shape = [64, 64, 64]
        answer = workers["limit"].run_round(what="gemm", dtype="fp32", threads=1, shape=shape)
        assert answer["rate"] > 0
        answer = workers["limit"].run_round(what="gemm", dtype="int8", threads=1, shape=[7, 7, 7])
        assert set(answer) <= {"rate", "unavailable"}, "a shape that a kernel lacks is no failure"
    assert not process_is_alive(pid)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_and_no_hang() -> None:
    killed = Worker("limit", LIMITS, 1)
    os.kill(killed.process.pid, signal.SIGKILL)
    with pytest.raises(BenchError, match="limit failed: its process ended with status -9"):
        killed.run_round(what="sum", threads=1)
    killed.close()


def test_what_a_contender_prints_does_not_reach_the_answers() -> None:
    """A module whose import prints: the answer is still one line of JSON."""
    code = (
        "import gptcli.report.bench.worker as worker\n"
        "worker.build = lambda task: print('chatter') or worker.Contender({'a': 1}, None)\n"
        "worker.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], input="{}\n", capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == {"a": 1}
    assert "chatter" in done.stderr


def test_only_ours_and_the_limit_set_their_process_up(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    monkeypatch.setattr(worker, "prepare", lambda: prepared.append("now"))
    job = {"device": "cpu", "seconds": 0.001}
    worker.build({"module": LIMIT.module, "bench": "limits", "job": job})
    assert prepared == ["now"]
    with pytest.raises(ModuleNotFoundError):
        worker.build({"module": "no_such_module", "bench": "limits", "job": job})
    assert prepared == ["now"]


@pytest.mark.parametrize(
    ("given", "passed_on"), [({}, None), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_peers_get_the_users_environment_and_not_ours(
    given: dict[str, str], passed_on: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back whatever is set below
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    limit_openmp_spinning()
    variables = environment(3)
    assert variables.get("GOMP_SPINCOUNT") == passed_on
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables.items() >= given.items()
