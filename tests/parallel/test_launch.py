"""`gptcli train --nproc`: one voice, one line for a mistake, and a run that goes on when a rank is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from command import gptcli
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.interop.huggingface import read_huggingface
from parallel.curves import FSDP, LIMIT
from parallel.ranks import (
    GPTCLI,
    environment,
    largest_difference,
    make_corpus,
    metrics,
    settings_of,
    train,
    train_arguments,
)

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def messages(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("gptcli: ")]


@contextlib.contextmanager
def started(corpus: Path, run: Path, *options: str, **settings: object) -> Iterator[subprocess.Popen[str]]:
    """The command, running; whatever becomes of the test, nothing of it is left."""
    command = [*GPTCLI, *train_arguments(corpus, run, *options, **settings)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(run.parent / "cache"))
    try:
        yield process
    finally:
        for pid in (*ranks_of(process.pid), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def largest_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference of two tensors of one shape, relative to the largest number of the first."""
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / expected.abs().max())


def wait_for_step(run: Path, step: int) -> None:
    until = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len(metrics_so_far(run)) < step:
        assert time.monotonic() < until, "the training did not begin"
        time.sleep(0.05)


def metrics_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def ranks_of(launcher: int) -> list[int]:
    """The processes that the launcher has started, in the order of their ranks."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == launcher:
                found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"train.tokens_per_step": 48}, "by 2 data ranks; make steps of 4 sequences: --set train.tokens_per_step=64"),
        ({"parallel.tensr": 2}, "did you mean 'parallel.tensor'"),
    ],
)
def test_a_mistake_is_said_once_with_its_exit_code(settings: dict, named: str, tmp_path: Path) -> None:
    done = train(make_corpus(tmp_path), tmp_path / "run", "--nproc", "2", **settings_of(settings))
    assert done.returncode == 2
    assert len(messages(done.stderr)) == 1 and named in messages(done.stderr)[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "run.toml").exists()


def test_a_run_that_is_there_already_is_refused(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path), tmp_path / "run"
    assert gptcli(*train_arguments(corpus, run, train__max_steps=2)).returncode == 0
    done = train(corpus, run, "--nproc", "2", train__max_steps=2)
    assert done.returncode == 2 and "already holds a run" in messages(done.stderr)[0]


def test_a_lost_rank_is_named_where_none_may_be_replaced(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path), tmp_path / "run"
    with started(corpus, run, "--nproc", "2", "--max-restarts", "0", train__max_steps=5000) as process:
        wait_for_step(run, 3)
        lost = ranks_of(process.pid)[-1]
        os.kill(lost, signal.SIGKILL)
        began = time.monotonic()
        _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert len(messages(stderr)) == 1 and f"process {lost}" in stderr and "SIGKILL" in stderr
    assert "Traceback" not in stderr


def test_a_signal_saves_and_any_other_number_of_ranks_goes_on(tmp_path: Path) -> None:
    corpus, one, run = make_corpus(tmp_path), tmp_path / "one", tmp_path / "run"
    assert gptcli(*train_arguments(corpus, one, train__max_steps=60)).returncode == 0
    with started(corpus, run, "--nproc", "2", train__max_steps=60, **settings_of(FSDP)) as process:
        wait_for_step(run, 10)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(messages(stderr)) == 1 and "saved; go on with" in stderr
    done = train(None, run, "--resume", "--nproc", "2", parallel__tensor=2)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(run)] == list(range(1, 61))
    assert largest_difference(metrics(one), metrics(run), "train_loss") < LIMIT
    alone, exported = (read_huggingface(path, CPU, torch.float32)[0].state_dict() for path in (one, run))
    best = RunDirectory(run).best_good()
    saved = load_checkpoint(best.path).tensors["model"]
    assert saved.keys() == exported.keys() and all(torch.equal(saved[name], exported[name]) for name in saved)
    assert all(largest_error(alone[name], exported[name]) < 1e-3 for name in alone), "as those of one process"


def test_torchrun_starts_the_ranks_as_well(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path), tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "gptcli", *train_arguments(corpus, run, train__max_steps=6)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path / "cache"), timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ranks       2 (ddp") == 1, "one rank talks"
    assert len(metrics(run)) == 6 and (run / "summary.json").exists()
