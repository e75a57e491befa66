"""Nothing of a damaged or hostile checkpoint is used, and the file to blame is named."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch

from gptcli import strict_json
from gptcli.checkpoint.load import load_checkpoint, verify
from gptcli.checkpoint.manifest import CheckpointManifest, describe
from gptcli.errors import CheckpointError


def reseal(path: Path) -> None:
    """Give a checkpoint a manifest that fits its files, as someone who means harm would."""
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_text(describe(path, {}, 1).render())


def write_tensors(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def test_every_flipped_bit_of_the_smaller_files_is_found(save) -> None:
    path = save(1, 1.5)
    for name in ("manifest.json", "state.json"):
        whole = (path / name).read_bytes()
        for position in range(len(whole)):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << (position % 8)
            (path / name).write_bytes(damaged)
            with pytest.raises(CheckpointError, match=name):
                verify(path)
        (path / name).write_bytes(whole)
    verify(path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json", "state.json"])
def test_a_flipped_bit_is_found_before_use_and_its_file_named(save, name) -> None:
    path = save(1)
    whole = (path / name).read_bytes()
    places = random.Random(0).sample(range(8 * len(whole)), 60)
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json", "state.json"])
def test_a_file_cut_short_or_missing_is_named(save, name) -> None:
    path = save(1)
    whole = (path / name).read_bytes()
    for length in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}:
        (path / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_checkpoint(path)


def test_a_directory_that_is_none_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_part_that_was_not_saved_is_named(save) -> None:
    with pytest.raises(CheckpointError, match=r"holds no ema\.safetensors"):
        load_checkpoint(save(1), parts=("model", "ema"))


def test_loaded_tensors_do_not_depend_on_the_file_any_more(save, tensors_of) -> None:
    path = save(1)
    loaded = load_checkpoint(path).tensors["model"]["weight"]
    file = path / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(b"\0" * file.stat().st_size)
    assert torch.equal(loaded, tensors_of(1)["model"]["weight"])


def test_a_checkpoint_of_a_newer_gptcli_says_so(save) -> None:
    path = save(1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(CheckpointError, match="newer gptcli"):
        verify(path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", ".hidden", "", "manifest.json", "a\\b"])
def test_a_manifest_that_names_a_file_outside_is_refused(save, tmp_path, name) -> None:
    path = save(1)
    (path.parent / "outside").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    (path / "manifest.json").write_text(CheckpointManifest(1, None, None, None, {name: (6, digest)}).render())
    with pytest.raises(CheckpointError, match="not a file of this checkpoint"):
        verify(path)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_symbolic_link_out_of_the_checkpoint_is_refused(save, tmp_path, name) -> None:
    path = save(1)
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} is not a regular file"):
        verify(path)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(save) -> None:
    path = save(1)
    (path / "state.json").unlink()
    os.mkfifo(path / "state.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        verify(path)


FLOATS = {"dtype": "F32", "shape": [2]}
HOSTILE_HEADERS = {
    "a header longer than the file": (b"{}", b"", 2**40),
    "a header of 2^63 bytes": (b"{}", b"", 2**63),
    "no JSON": (b"not json", b"", None),
    "no table": (b"[1, 2]", b"", None),
    "deep nesting": (b"[" * 100_000, b"", None),
    "overlapping tensors": (
        json.dumps({"a": {**FLOATS, "data_offsets": [0, 8]}, "b": {**FLOATS, "data_offsets": [4, 12]}}).encode(),
        b"\0" * 12,
        None,
    ),
    "a gap": (json.dumps({"a": {**FLOATS, "data_offsets": [8, 16]}}).encode(), b"\0" * 16, None),
    "more than the file": (json.dumps({"a": {**FLOATS, "data_offsets": [0, 2**40]}}).encode(), b"\0" * 8, None),
    "backwards": (json.dumps({"a": {**FLOATS, "data_offsets": [0, -8]}}).encode(), b"", None),
    "offsets of text": (json.dumps({"a": {**FLOATS, "data_offsets": ["0", "8"]}}).encode(), b"\0" * 8, None),
    "a shape that does not fit": (
        json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}).encode(),
        b"\0" * 8,
        None,
    ),
    "an unknown dtype": (
        json.dumps({"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}).encode(),
        b"\0" * 8,
        None,
    ),
}


@pytest.mark.parametrize(("header", "data", "length"), HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS.keys())
def test_a_hostile_safetensors_file_is_refused_though_its_manifest_fits(save, header, data, length) -> None:
    path = save(1)
    write_tensors(path / "model.safetensors", header, data, length)
    reseal(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load_checkpoint(path)


def test_a_header_of_too_many_tensors_is_refused(save) -> None:
    path = save(1)
    entries = {str(i): {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(2**16 + 1)}
    write_tensors(path / "model.safetensors", json.dumps(entries).encode())
    reseal(path)
    with pytest.raises(CheckpointError, match="65,537 tensors"):
        verify(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", "{", '"text"', "9" * 10_000, ""])
def test_a_hostile_state_is_refused_though_its_manifest_fits(save, content) -> None:
    path = save(1)
    (path / "state.json").write_text(content)
    reseal(path)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        {"format": "gptcli checkpoint", "version": "1"},
        {"format": "gptcli checkpoint", "version": 1, "files": 3},
    ],
)
def test_json_that_is_no_manifest_is_refused(save, fields) -> None:
    path = save(1)
    (path / "manifest.json").write_text(strict_json.dumps(fields, ensure_ascii=False))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        verify(path)


def test_a_huge_manifest_is_refused_unread(save) -> None:
    path = save(1)
    with (path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match="larger than any manifest"):
        verify(path)
