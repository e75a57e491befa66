"""What several ranks trained and saved in parts is a run like any other to every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import gptcli
from faults.jobs import Job
from faults.victim import make_corpus, train_command
from gptcli.checkpoint.run_directory import RunDirectory
from parallel.forked_ranks import rank_nursery, run_ranks

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

    def printed(*arguments: object) -> str:
        done = gptcli(*map(str, arguments))
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Job(train_command(corpus, run, **SETTINGS), tmp_path, nproc=4, environment=environment) as job:
        assert job.wait() == 0, job.said
    saved = RunDirectory(run).checkpoint_path(10)
    assert (saved / "model-00004-of-00004.safetensors").exists() and not (saved / "model.safetensors").exists()
    printed("checkpoint", "verify", run)
    listed = json.loads(printed("checkpoint", "list", run, "--json"))["checkpoints"]
    assert [(entry["step"], entry["verified"]) for entry in listed] == [(5, True), (10, True)]
    assert printed("generate", run, "line", "--max-new-tokens", 8, "--checkpoint", "last")
    figures = json.loads(printed("eval", run, "--json"))
    printed("export", run, "--to", "hf", "--out", tmp_path / "exported")
    # The run is over: whoever goes on with it has only to write the model that it finds in the checkpoint.
    written = (run / "model.safetensors").read_bytes()
    assert written == (tmp_path / "exported" / "model.safetensors").read_bytes()
    with rank_nursery(tmp_path / "cache") as nursery:
        for ranks in (2, 4):
            (run / "model.safetensors").unlink()
            run_ranks(nursery, train_command(corpus, run, **SETTINGS), tmp_path, ranks)
            assert (run / "model.safetensors").read_bytes() == written
    printed(*train_command(corpus, run, **(SETTINGS | {"train__max_steps": 13})))
    assert RunDirectory(run).last_good().step == 13
    assert (RunDirectory(run).checkpoint_path(13) / "model.safetensors").exists()
    assert json.loads(printed("eval", run, "--json")).keys() == figures.keys()
