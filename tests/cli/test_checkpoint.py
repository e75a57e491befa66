"""`gptcli checkpoint list|verify` as the user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from command import gptcli
from fresh import run_fresh
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "run")
    run.config_path.write_text("seed = 0\n")
    for step, val_loss in [(10, None), (2000, 1.5)]:
        save_checkpoint(run, step, {"model": {"w": torch.full((4,), float(step))}}, {"val_loss": val_loss})
    return run


def damage(run: RunDirectory) -> None:
    path = run.checkpoint_path(2000) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_listing_shows_step_loss_size_and_state(run) -> None:
    done = gptcli("checkpoint", "list", run.path)
    assert done.returncode == 0 and done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("10", "-", "whole"), ("2,000", "1.5000", "best")]


def test_the_json_is_one_object_with_every_figure(run) -> None:
    damage(run)
    done = gptcli("checkpoint", "list", run.path, "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["run"] == str(run.path)
    assert [entry["is_best"] for entry in report["checkpoints"]] == [False, True]
    assert [(c["step"], c["val_loss"], c["verified"]) for c in report["checkpoints"]] == [
        (10, None, True),
        (2000, 1.5, False),
    ]
    for entry in report["checkpoints"]:
        assert entry["bytes"] == sum(file.stat().st_size for file in Path(entry["path"]).iterdir())
    assert "model.safetensors" in report["checkpoints"][1]["damage"]


def test_verifying_a_whole_run_succeeds(run) -> None:
    done = gptcli("checkpoint", "verify", run.path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_verifying_a_damaged_run_names_the_file_and_exits_4(run, options) -> None:
    damage(run)
    done = gptcli("checkpoint", "verify", run.path, *options)
    assert done.returncode == 4
    assert "1 of 2 checkpoints damaged" in done.stderr
    assert "step-00002000/model.safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    if options:
        assert [entry["verified"] for entry in json.loads(done.stdout)["checkpoints"]] == [True, False]


def test_what_is_no_run_exits_4_in_one_line(tmp_path) -> None:
    done = gptcli("checkpoint", "list", tmp_path)
    assert done.returncode == 4
    assert done.stdout == "" and "not a run directory" in done.stderr and len(done.stderr.splitlines()) == 1


def test_listing_needs_no_torch(run) -> None:
    code = (
        "import sys; from pathlib import Path; from gptcli.checkpoint.report import report_checkpoints; "
        f"report_checkpoints(Path({str(run.path)!r})).text(); assert 'torch' not in sys.modules"
    )
    run_fresh(code)
