"""What several ranks trained and saved in parts is a run like any other to every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.jobs import Job
from faults.victim import make_corpus, train_command
from gptcli.checkpoint.run_directory import RunDirectory

SETTINGS = {
    "parallel__strategy": "fsdp",
    "parallel__tensor": 2,
    "train__max_steps": 10,
    "train__eval_every_steps": 5,
    "train__fingerprints": "false",
}


@pytest.mark.slow
def test_a_run_of_four_ranks_is_one_to_every_command_and_goes_on_with_one_two_or_four(tmp_path: Path) -> None:
    corpus, run = make_corpus(tmp_path), tmp_path / "run"
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}

    def gptcli(*arguments: object) -> str:
        command = [sys.executable, "-m", "gptcli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Job(train_command(corpus, run, **SETTINGS), tmp_path, nproc=4, environment=environment) as job:
        assert job.wait() == 0, job.said
    saved = RunDirectory(run).checkpoint_path(10)
    assert (saved / "model-00004-of-00004.safetensors").exists() and not (saved / "model.safetensors").exists()
    gptcli("checkpoint", "verify", run)
    listed = json.loads(gptcli("checkpoint", "list", run, "--json"))["checkpoints"]
    assert [(entry["step"], entry["verified"]) for entry in listed] == [(5, True), (10, True)]
    assert gptcli("generate", run, "line", "--max-new-tokens", 8, "--checkpoint", "last")
    figures = json.loads(gptcli("eval", run, "--json"))
    gptcli("export", run, "--to", "hf", "--out", tmp_path / "exported")
    # The run is over: whoever goes on with it has only to write the model that it finds in the checkpoint.
    written = (run / "model.safetensors").read_bytes()
    assert written == (tmp_path / "exported" / "model.safetensors").read_bytes()
    for ranks in (2, 4):
        (run / "model.safetensors").unlink()
        with Job(train_command(corpus, run, **SETTINGS), tmp_path, nproc=ranks, environment=environment) as job:
            assert job.wait() == 0, job.said
        assert (run / "model.safetensors").read_bytes() == written
    gptcli(*train_command(corpus, run, **(SETTINGS | {"train__max_steps": 13})))
    assert RunDirectory(run).last_good().step == 13
    assert (RunDirectory(run).checkpoint_path(13) / "model.safetensors").exists()
    assert json.loads(gptcli("eval", run, "--json")).keys() == figures.keys()
