"""A slice of the campaign that kills ranks, and what else can become of one rank, or of one of two machines."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from faults.hosts import can_make_hosts, two_hosts
from faults.jobs import Job, pending_signals
from faults.kills import MOST_STEPS_LOST
from faults.lost_ranks import STEPS, STRATEGIES, lost_rank_campaign
from faults.victim import INTERVAL, make_corpus, newest_good, train_command
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.train.verify_resume import first_difference, last_step

INJECT = Path(__file__).parent / "inject"
SEEDS = {"ddp": 0, "fsdp": 5}
"""With which one is killed in a step and the other in a save."""
SECONDS_TO_END = 10
"""Within which all ranks have ended after one has failed."""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_rank_costs_a_restart_and_not_a_bit(tmp_path: Path, strategy: str) -> None:
    found = lost_rank_campaign(tmp_path, trials=1, strategies=[strategy], seed=SEEDS[strategy])
    assert found.trials == {strategy: 1} and found.failures == []
    assert found.said_restarts == 1 and found.tracebacks == 0
    assert found.lost_checkpoints == 0 and found.most_steps_lost <= MOST_STEPS_LOST


@pytest.mark.slow
def test_a_rank_that_raises_ends_all_in_seconds_with_its_message(tmp_path: Path, environment: dict[str, str]) -> None:
    raised = tmp_path / "raised"
    environment |= {"PYTHONPATH": f"{INJECT}:{os.environ.get('PYTHONPATH', '')}", "GPTCLI_FAULT": f"1 12 {raised}"}
    arguments = [*train_command(make_corpus(tmp_path), tmp_path / "run"), "--max-restarts=0"]
    with Job(arguments, tmp_path, environment=environment) as job:
        assert job.wait() == 1
        took = time.time() - float(raised.read_text())
        assert took < SECONDS_TO_END
        assert "made to fail" in job.said.strip().splitlines()[-1]
    assert newest_good(tmp_path / "run") == 2 * INTERVAL


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_when_the_time_is_over_and_the_step_is_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    run = tmp_path / "run"
    command = train_command(make_corpus(tmp_path), run, parallel__timeout_seconds=4, train__max_steps=5000)
    with Job([*command, "--max-restarts=0"], tmp_path, environment=environment) as job:
        assert job.wait_for(lambda: last_step(run) > INTERVAL)
        stuck = job.ranks()[1]
        os.kill(stuck, signal.SIGSTOP)
        stopped = time.monotonic()
        reached = last_step(run)
        assert job.wait_for(lambda: "no answer within 4 s" in job.said)
        assert time.monotonic() - stopped < 4 + 2 * SECONDS_TO_END
        os.kill(stuck, signal.SIGKILL)  # as torch's launcher does after half a minute
        assert job.wait() != 0
    line = next(line for line in job.said.splitlines() if "no answer" in line)
    assert line.startswith("gptcli: rank 0 lost another rank in step ")
    assert reached <= int(re.search(r"in step (\d+)", line)[1]) <= reached + 3


@contextmanager
def machines(folder: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], str]]:
    """How to begin a command on either of two machines, and where they meet; where none can be made, on this one."""
    if can_make_hosts(folder):
        with two_hosts(folder) as (one, other):
            yield one.inside, other.inside, f"{one.name}:29400"
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        yield (), (), f"127.0.0.1:{port}"


@contextmanager
def host_lost(
    folder: Path, environment: dict[str, str], nnodes: str, settings: dict[str, object]
) -> Iterator[tuple[Job, Callable[[], Job], set[int]]]:
    """A job on two machines that has just lost one, what starts that one's launcher again, and the processes that the
    ranks were before. `folder` then has the job's run, and in `whole` that of an undisturbed training."""
    corpus, run = make_corpus(folder), folder / "run"
    with Job(train_command(corpus, folder / "whole", **settings), folder, environment=environment) as job:
        assert job.wait() == 0, job.said
    with machines(folder) as (here, there, place):
        arguments = [*train_command(corpus, run, **settings), f"--nnodes={nnodes}", f"--rdzv={place}"]
        start = partial(Job, arguments, folder, nproc=1, environment=environment)
        with start(inside=here) as one:
            with start(inside=there) as other:
                assert one.wait_for(lambda: last_step(run) > 4 * INTERVAL)
                before = set(one.ranks().values())
                other.lose()
            yield one, partial(start, inside=there), before


@pytest.mark.slow
def test_a_host_that_dies_and_comes_back_changes_no_bit(tmp_path: Path, environment: dict[str, str]) -> None:
    settings = {"parallel__strategy": "fsdp", "train__max_steps": STEPS}
    with host_lost(tmp_path, environment, "2", settings) as (one, start_other, _), start_other() as back:
        assert (one.wait(), back.wait()) == (0, 0), one.said + back.said
    assert first_difference(tmp_path / "whole", tmp_path / "run") is None


@pytest.mark.slow
def test_a_job_shrinks_to_one_host_and_grows_again(tmp_path: Path, environment: dict[str, str]) -> None:
    """With another number of ranks sums are added in another order: the weights are the same up to that."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    numbers = {"train__precision": "fp32", "optim__name": "muon", "optim__ns_precision": "fp32", "optim__lr": 0.005}
    # Rates at which differences of rounding do not grow.
    numbers |= {"optim__weight_decay": 0.1, "schedule__name": "linear", "schedule__warmup_steps": 50}
    settings = {"parallel__strategy": "fsdp", "train__max_steps": STEPS, "model__dropout": 0} | numbers
    with host_lost(tmp_path, environment, "1:2", settings) as (one, start_other, before):
        assert one.wait_for(lambda: bool(set(one.ranks().values()) - before))
        reached = last_step(run)
        assert one.wait_for(lambda: last_step(run) not in (0, reached))
        resumed = newest_good(run)
        assert one.wait_for(lambda: last_step(run) > resumed + INTERVAL)
        alone = one.ranks()[0]
        os.kill(alone, signal.SIGSTOP)  # so that it is not done before the other one is back
        with start_other() as back:
            assert one.wait_for(lambda: signal.SIGTERM in pending_signals(alone))
            os.kill(alone, signal.SIGCONT)
            assert (one.wait(), back.wait()) == (0, 0), one.said + back.said
    steps = [line["step"] for line in MetricsLog(run / "metrics.jsonl").read()]
    assert steps == list(range(1, STEPS + 1))
    found, expected = (load_file(folder / "model.safetensors") for folder in (run, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
