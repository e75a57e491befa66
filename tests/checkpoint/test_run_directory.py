"""A run directory: what is one, which checkpoints are good, and what a killed process left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError, UsageError
from gptcli.storage import temporary_name


def finished_process() -> int:
    """The number of a process that no longer runs."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def orphan_name(path, monkeypatch):
    """The temporary name that a process which is gone would have used for `path`."""
    number = finished_process()
    with monkeypatch.context() as context:
        context.setattr(os, "getpid", lambda: number)
        return temporary_name(path)


def damage(path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def test_a_new_run_is_one_once_its_config_is_written(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "deep" / "run")
    assert not RunDirectory.is_run(run.path)
    run.config_path.write_text("")
    assert RunDirectory.is_run(run.path)
    assert RunDirectory.open(run.path).checkpoints() == []


def test_creating_where_a_run_is_names_resume(run) -> None:
    with pytest.raises(UsageError, match="--resume"):
        RunDirectory.create(run.path)


def test_creating_in_a_directory_with_other_things_names_one_of_them(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        RunDirectory.create(tmp_path)


def test_what_a_start_that_failed_left_does_not_hinder_the_next(tmp_path) -> None:
    with RunDirectory.create(tmp_path / "run").lock():
        pass
    RunDirectory.create(tmp_path / "run")


def test_opening_what_is_no_run_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"not a run directory: it has no run\.toml"):
        RunDirectory.open(tmp_path)


def test_checkpoints_are_sorted_by_step_and_know_their_loss(run, save) -> None:
    for step, val_loss in [(1000, 1.5), (90, 2.5), (123_456_789, None), (200, float("nan"))]:
        save(step, val_loss)
    (run.checkpoints_dir / "step-1").mkdir()
    found = [(info.step, info.val_loss) for info in run.checkpoints()]
    assert found == [(90, 2.5), (200, None), (1000, 1.5), (123_456_789, None)]


def test_the_best_has_the_lowest_loss_and_is_the_earlier_of_equals(run, save) -> None:
    assert run.best() is None
    save(1), save(2)
    assert run.best().step == 2
    for step, val_loss in [(3, 2.0), (4, 1.0), (5, 1.0), (6, float("nan")), (7, float("-inf")), (8, None)]:
        save(step, val_loss)
    assert run.best().step == 4


def test_the_newest_good_checkpoint_is_found_and_newer_damaged_ones_are_reported(run, save) -> None:
    paths = [save(step) for step in (1, 2, 3, 4)]
    damage(paths[3]), damage(paths[2])
    damaged: list[CheckpointError] = []
    assert run.last_good(damaged).step == 2
    assert ["step-00000004" in str(damaged[0]), "step-00000003" in str(damaged[1])] == [True, True]
    damage(paths[1]), damage(paths[0])
    assert run.last_good() is None


def test_leftovers_of_processes_that_are_gone_are_removed(run, save, monkeypatch) -> None:
    save(1)
    half = orphan_name(run.checkpoint_path(2), monkeypatch)
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    file = orphan_name(run.config_path, monkeypatch)
    file.write_text("half")
    living = temporary_name(run.checkpoint_path(3))
    living.mkdir()
    assert set(run.clean()) == {half, file}
    assert living.exists()
    assert [info.step for info in run.checkpoints()] == [1]


def test_a_checkpoint_killed_just_before_its_rename_is_finished(run, save, monkeypatch) -> None:
    path = save(1, 1.25)
    path.rename(orphan_name(path, monkeypatch))
    assert run.last_good() is None
    assert run.clean() == []
    assert run.last_good().val_loss == 1.25


def test_a_whole_leftover_does_not_displace_the_checkpoint_of_its_step(run, save, monkeypatch) -> None:
    leftover = orphan_name(save(1, 1.0), monkeypatch)
    run.checkpoint_path(1).rename(leftover)
    save(1, 2.0)
    assert run.clean() == [leftover]
    assert run.last_good().val_loss == 2.0


def test_a_checkpoint_under_the_name_of_another_step_is_found(run, save) -> None:
    save(1, 3.0)
    save(2, 2.0).rename(run.checkpoint_path(3))
    renamed = run.checkpoints()[-1]
    assert renamed.val_loss is None and "step-00000003 holds the checkpoint of step 2; give" in str(renamed.damage())
    damaged: list[CheckpointError] = []
    assert run.last_good(damaged).step == 1 and len(damaged) == 1


def test_a_file_with_the_name_of_a_checkpoint_is_none(run, save) -> None:
    save(1)
    run.checkpoint_path(99).write_text("")
    assert [info.step for info in run.checkpoints()] == [1]
