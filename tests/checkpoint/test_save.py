"""What is saved is whole or absent, and pruning never takes the last good one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import types
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint import save as save_module
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import prune, save_checkpoint
from gptcli.errors import StorageError
from gptcli.storage import TEMPORARY_MARK


def flip_bit(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def steps(run: RunDirectory) -> list[int]:
    return [info.step for info in run.checkpoints()]


def test_a_checkpoint_holds_what_was_saved_bit_for_bit(save, tensors_of) -> None:
    checkpoint = load_checkpoint(save(20, 1.5), parts=("model", "optimizer"))
    assert (checkpoint.step, checkpoint.state) == (20, {"val_loss": 1.5, "tokens": 200})
    for part, named in tensors_of(20).items():
        assert checkpoint.tensors[part].keys() == named.keys()
        assert all(torch.equal(checkpoint.tensors[part][name], tensor) for name, tensor in named.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_every_dtype_survives(run, dtype) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 5, 8]]).to(dtype)
    path = save_checkpoint(run, 1, {"model": {"t": tensor, "transposed": tensor.T}}, {})
    loaded = load_checkpoint(path).tensors["model"]
    assert loaded["t"].dtype == dtype
    assert torch.equal(loaded["t"], tensor) and torch.equal(loaded["transposed"], tensor.T)


def test_numbers_that_are_not_finite_survive_in_json_that_every_reader_accepts(run) -> None:
    path = save_checkpoint(run, 1, {"model": {}}, {"loss": math.nan, "best": math.inf, "exact": 0.1 + 0.2})
    json.loads((path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    state = load_checkpoint(path).state
    assert math.isnan(state["loss"]) and state["best"] == math.inf and state["exact"] == 0.1 + 0.2


def test_the_manifest_names_size_and_sha256_of_every_other_file(run, save) -> None:
    path = save_checkpoint(run, 3, {"model": {}}, {"data_fingerprint": "d", "config_fingerprint": "c", "val_loss": 2.0})
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["step"], manifest["val_loss"]) == (3, 2.0)
    assert (manifest["config_fingerprint"], manifest["data_fingerprint"]) == ("c", "d")
    assert set(manifest["files"]) == {p.name for p in path.iterdir()} - {"manifest.json"}
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": sha256(content).hexdigest()}


def test_no_file_of_a_checkpoint_is_a_pickle(save) -> None:
    assert {path.suffix for path in save(1).iterdir()} == {".safetensors", ".json"}


def test_saving_a_step_again_replaces_it(run, save, tensors_of) -> None:
    save(5)
    save_checkpoint(run, 5, tensors_of(6), {"val_loss": 1.0})
    loaded = load_checkpoint(run.checkpoint_path(5))
    assert torch.equal(loaded.tensors["model"]["weight"], tensors_of(6)["model"]["weight"])
    assert steps(run) == [5]


def test_a_disk_with_too_little_room_is_named_with_needed_and_free_bytes(run, save, monkeypatch) -> None:
    save(1)
    monkeypatch.setattr(save_module.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=12_345))
    with pytest.raises(StorageError, match=r"needs 6\d,\d{3} bytes, 12,345 are free"):
        save(2)
    assert os.listdir(run.checkpoints_dir) == ["step-00000001"]
    assert run.last_good().step == 1


LIMITED_SAVE = """
import resource, sys
from pathlib import Path
import torch
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.errors import StorageError
run = RunDirectory(Path(sys.argv[1]))
for limit in map(int, sys.argv[2].split(",")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_checkpoint(run, 2, {"model": {"w": torch.ones(2000)}}, {"text": "x" * 20_000})
        print("saved")
    except StorageError as error:
        print(error)
"""


def test_a_write_that_fails_at_any_place_leaves_the_earlier_checkpoint_and_nothing_else(run, save) -> None:
    save(1)
    limits = [0, 1, 8, 100, 4_000, 8_071, 10_000, 20_000, 20_011]  # within model.safetensors, then within state.json
    program = [sys.executable, "-c", LIMITED_SAVE, str(run.path), ",".join(map(str, limits))]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    assert len(messages) == len(limits)
    assert all("File too large" in message and "are free" in message for message in messages)
    assert os.listdir(run.checkpoints_dir) == ["step-00000001"]
    assert run.last_good().step == 1


def test_an_error_in_the_midst_of_saving_leaves_nothing(run, save, monkeypatch) -> None:
    monkeypatch.setattr(save_module, "describe", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(1)
    assert os.listdir(run.checkpoints_dir) == []


def test_pruning_keeps_the_newest_the_best_and_the_milestones(run, save) -> None:
    for step, val_loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 1.5), (6, 1.2), (7, 1.1)]:
        save(step, val_loss)
    removed = prune(run, keep_last=2, keep_every_steps=3)
    assert steps(run) == [2, 3, 6, 7]
    assert sorted(path.name for path in removed) == ["step-00000001", "step-00000004", "step-00000005"]
    prune(run, keep_last=1, keep_best=False)
    assert steps(run) == [7]


def test_pruning_keeps_the_newest_good_one_when_all_newer_are_damaged(run, save) -> None:
    for step in range(1, 6):
        save(step)
    for step in (3, 4, 5):
        flip_bit(run.checkpoint_path(step) / "model.safetensors")
    prune(run, keep_last=2, keep_best=False)
    assert steps(run) == [2, 4, 5]


def test_pruning_removes_nothing_when_no_checkpoint_is_good(run, save) -> None:
    for step in range(1, 4):
        flip_bit(save(step) / "state.json")
    prune(run, keep_last=1)
    assert steps(run) == [1, 2, 3]


def test_pruning_to_nothing_keeps_one(run, save) -> None:
    save(1), save(2)
    prune(run, keep_last=0, keep_best=False)
    assert steps(run) == [2]


def test_a_removal_that_was_killed_leaves_no_half_checkpoint(run, save, monkeypatch) -> None:
    save(1), save(2)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(save_module.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(run, keep_last=1)
    assert steps(run) == [2]
    assert any(TEMPORARY_MARK in name for name in os.listdir(run.checkpoints_dir))


KILLED_SAVES = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import prune, save_checkpoint
torch.set_num_threads(1)
run = RunDirectory(Path(sys.argv[1]))
tensors = {part: {"w": torch.ones(200_000)} for part in ("model", "optimizer")}
chance = random.Random(0)
for trial in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        with run.lock():
            run.clean()
            step = run.last_good().step
            while True:
                # A step is saved anew too, as it is when a run stops where it was resumed.
                step += chance.choice([0, 1])
                save_checkpoint(run, step, tensors, {"step": step})
                prune(run, keep_last=1, keep_best=False)
    try:
        time.sleep(chance.uniform(0.01, 0.1))
        before = max((info.step for info in run.checkpoints()), default=0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with run.lock():
        run.clean()
    good = run.last_good()
    assert good is not None and good.step >= before, (trial, before, good)
    assert sorted(os.listdir(run.checkpoints_dir)) == [info.path.name for info in run.checkpoints()]
    assert all(info.damage() is None for info in run.checkpoints())
print(good.step)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_of_saving_and_pruning_loses_no_finished_checkpoint(run, save) -> None:
    save(1)
    program = [sys.executable, "-W", "ignore", "-c", KILLED_SAVES, str(run.path), "40"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # saves did go on between the kills
