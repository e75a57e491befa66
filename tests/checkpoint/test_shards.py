"""What several ranks save is one checkpoint like any other: whole or absent, and the same on any number of ranks."""

from __future__ import annotations

import json
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from checkpoint.sharded import (
    PARTS,
    Tiny,
    fail_on_one,
    fail_together,
    keep_one,
    load_and_compare,
    load_rows,
    refused,
    save_in_shards,
    train_and_save,
)
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.manifest import CheckpointManifest, read_manifest
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.errors import CheckpointError
from ranks import run_ranks

FUSED = {"qkv": torch.randn(13, 4, dtype=torch.float64), "bias": torch.randn(13).bfloat16()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint of step 2 was saved by four ranks, reference.safetensors beside."""
    folder = RunDirectory.create(tmp_path_factory.mktemp("sharded") / "run").path
    run_ranks(4, train_and_save, folder, "shards")
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint, to damage."""
    return Path(shutil.copytree(RunDirectory(saved).checkpoint_path(2), tmp_path / "step-00000002"))


def assert_same(tensors: dict[str, dict[str, Tensor]], reference: dict[str, Tensor]) -> None:
    flat = {f"{part}:{name}": tensor for part, named in tensors.items() for name, tensor in named.items()}
    assert flat.keys() == reference.keys()
    assert all(
        torch.equal(flat[name], tensor) and flat[name].dtype == tensor.dtype for name, tensor in reference.items()
    )


def test_a_process_alone_reads_what_four_ranks_saved(saved: Path) -> None:
    checkpoint = load_checkpoint(RunDirectory(saved).checkpoint_path(2), PARTS)
    assert_same(checkpoint.tensors, load_file(saved / "reference.safetensors"))
    assert checkpoint.state["optimizer"]["optimizer"] == "AdamW"
    Tiny(seed=3).load_state_dict(checkpoint.tensors["model"])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_reads_what_four_saved(saved: Path, ranks: int) -> None:
    run_ranks(ranks, load_and_compare, saved, "shards")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["replicas of shards", "shards of tensors"])
def test_a_layout_in_two_directions_is_saved_once_and_read_in_any_other(tmp_path: Path, layout: str) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run_ranks(4, train_and_save, run.path, layout)
    assert_same(load_checkpoint(run.checkpoint_path(2), PARTS).tensors, load_file(run.path / "reference.safetensors"))
    run_ranks(4, load_and_compare, run.path, layout)
    run_ranks(2, load_and_compare, run.path, "shards")


def test_the_files_are_safetensors_and_json_and_the_manifest_knows_each(saved: Path) -> None:
    path = RunDirectory(saved).checkpoint_path(2)
    endings = [f"-0000{rank}-of-00004.safetensors" for rank in (1, 2, 3, 4)]
    shards = {part + ending for part in PARTS for ending in endings}
    assert set(os.listdir(path)) == shards | {"state.json", "manifest.json"}
    assert RunDirectory(saved).last_good().step == 2
    for name in shards:
        with safe_open(path / name, framework="pt") as file:
            assert file.keys()


def test_the_same_tensors_are_the_same_bytes_in_whatever_order(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    names = list(FUSED)
    for step, order in enumerate((names, names[::-1]), start=1):
        run_ranks(2, save_in_shards, run.path, step, {name: FUSED[name] for name in order})
    first, second = ({path.name: path.read_bytes() for path in run.checkpoint_path(step).iterdir()} for step in (1, 2))
    assert all(first[name] == second[name] for name in first if name != "manifest.json")


def test_no_byte_is_saved_twice(saved: Path) -> None:
    path = RunDirectory(saved).checkpoint_path(2)
    whole = sum(tensor.nbytes for tensor in load_file(saved / "reference.safetensors").values())
    assert sum(t.nbytes for file in path.glob("*.safetensors") for t in load_file(file).values()) == whole


def test_the_library_itself_reads_the_files(saved: Path) -> None:
    from torch.distributed.checkpoint import HuggingFaceStorageReader

    reference = load_file(saved / "reference.safetensors")
    described = HuggingFaceStorageReader(str(RunDirectory(saved).checkpoint_path(2))).read_metadata()
    sizes = {name: tuple(entry.size) for name, entry in described.state_dict_metadata.items()}
    assert sizes == {name.partition(":")[2]: tuple(tensor.shape) for name, tensor in reference.items()}


@pytest.mark.parametrize("blocks", [(13,), (5, 5, 3), (1, 12)])
def test_ranks_read_their_rows_of_what_a_process_alone_saved(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    path = save_checkpoint(RunDirectory.create(tmp_path / "run"), 7, {"model": FUSED}, {})
    run_ranks(2, load_rows, path, FUSED, blocks)


def test_rows_of_fused_matrices_that_lie_apart_come_together(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run_ranks(3, save_in_shards, run.path, 7, FUSED)
    assert_same(load_checkpoint(run.checkpoint_path(7)).tensors, {f"model:{name}": FUSED[name] for name in FUSED})
    assert (run.checkpoint_path(7) / "model-00003-of-00003-2.safetensors").exists()
    run_ranks(2, load_rows, run.checkpoint_path(7), FUSED, (5, 5, 3))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_cannot_write_costs_no_checkpoint_and_every_rank_says_so(tmp_path: Path, failing: int) -> None:
    run = RunDirectory.create(tmp_path / "run")
    first, failed, left, again = zip(*run_ranks(2, fail_on_one, run.path, failing), strict=True)
    assert first == again == ("None", "None")
    assert len({re.sub(r"[\d,]+ are free", "", text) for text in failed}) == 1 and "\n" not in failed[0]
    assert f"the checkpoint of step 2 in {run.path} was not saved: rank {failing}: " in failed[0]
    assert "File too large" in failed[0] and "are free" in failed[0]
    assert left == ("step-00000001",) * 2
    assert run.last_good().step == 2


def test_unwanted_checkpoints_go_once_the_ranks_are_done(tmp_path: Path) -> None:
    assert run_ranks(2, keep_one, RunDirectory.create(tmp_path / "run").path) == [[3], [3]]


def test_an_error_of_one_rank_is_raised_on_all() -> None:
    alike = ["StorageError: rank 1 has no disk", 0, "CheckpointError: nothing there"]
    assert run_ranks(2, fail_together) == [alike, alike]


@pytest.mark.parametrize("name", ["model-00001-of-00004.safetensors", "optimizer-00004-of-00004.safetensors"])
def test_a_flipped_bit_is_named_on_every_rank_whichever_read_it(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: its SHA-256"):
        load_checkpoint(copy, PARTS)
    said = run_ranks(2, refused, copy)
    assert said[0] == said[1] and f"{name} is damaged: its SHA-256" in said[0]


def test_a_shard_that_is_missing_is_named(copy: Path) -> None:
    (copy / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00004\.safetensors is missing"):
        load_checkpoint(copy)


def forged(path: Path, files: dict[str, tuple[int, str]]) -> None:
    """Give the checkpoint a manifest of these files that is right in itself."""
    whole = read_manifest(path)
    manifest = CheckpointManifest(whole.step, whole.val_loss, whole.config_fingerprint, whole.data_fingerprint, files)
    (path / "manifest.json").write_text(manifest.render())


def test_pieces_that_do_not_fill_a_tensor_are_refused(copy: Path) -> None:
    """A manifest without one shard: every file that it names is whole, but weights would be left as they were."""
    files = read_manifest(copy).files
    forged(copy, {name: entry for name, entry in files.items() if name != "model-00001-of-00004.safetensors"})
    with pytest.raises(CheckpointError, match=r"the shards of .+ do not fill it"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    "offsets", ["[]", "{}", '{"up.weight": {}}', '{"up.weight": {"saved_offsets": [0, "1"]}}', "["]
)
def test_offsets_that_no_honest_writer_makes_are_refused(copy: Path, offsets: str) -> None:
    name = "model-00001-of-00004.safetensors"
    rewrite_header(copy / name, offsets)
    files = read_manifest(copy).files
    content = (copy / name).read_bytes()
    forged(copy, files | {name: (len(content), sha256(content).hexdigest())})
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(copy)


def rewrite_header(path: Path, offsets: str) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["DCP_SHARDING_INFO"] = offsets
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
