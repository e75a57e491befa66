"""The manifest of a directory: what is listed is checked, what is replaced is never taken for damaged."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from gptcli import manifest
from gptcli.errors import CheckpointError
from gptcli.manifest import MANIFEST_NAME, read_manifest, record, record_new, replacing, require_unchanged, withdraw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with two files, a folder and a log, all listed."""
    (tmp_path / "val").mkdir()
    for name in ("a.json", "b.json", "val/one.bin", "val/two.bin"):
        (tmp_path / name).write_text(f"this is {name}")
    (tmp_path / "log.jsonl").write_text("one\ntwo\n")
    record(tmp_path, ["a.json", "b.json", "val"], ["log.jsonl"])
    return tmp_path


def test_what_was_written_is_accepted(folder: Path) -> None:
    require_unchanged(folder, "a.json", "b.json", "val", "log.jsonl", "absent")
    assert set(read_manifest(folder).files) == {"a.json", "b.json", "val/one.bin", "val/two.bin"}


@pytest.mark.parametrize("name", ["a.json", "val/two.bin", "log.jsonl", MANIFEST_NAME])
def test_every_bit_counts(folder: Path, name: str) -> None:
    path, chance = folder / name, random.Random(0)
    content = path.read_bytes()
    bits = range(8 * len(content)) if name != MANIFEST_NAME else chance.sample(range(8 * len(content)), 300)
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError, match=name):
            require_unchanged(folder, "a.json", "val", "log.jsonl")
    path.write_bytes(content)
    require_unchanged(folder, "a.json", "val", "log.jsonl")


def test_a_missing_file_and_a_shortened_log_are_damage(folder: Path) -> None:
    (folder / "val/one.bin").unlink()
    with pytest.raises(CheckpointError, match=r"val/one\.bin is missing; .*--accept val/one\.bin$"):
        require_unchanged(folder, "val")
    (folder / "log.jsonl").write_text("one\n")
    with pytest.raises(CheckpointError, match=r"log\.jsonl is damaged: 4 bytes, should be 8"):
        require_unchanged(folder, "log.jsonl")


def test_a_log_may_grow_and_a_torn_line_is_not_listed(folder: Path) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write("three\nfo")
    require_unchanged(folder, "log.jsonl")
    assert record(folder, [], ["log.jsonl"]).logs["log.jsonl"].bytes == len("one\ntwo\nthree\n")


def test_a_damaged_log_is_not_listed_as_if_it_had_been_written_so(folder: Path) -> None:
    (folder / "log.jsonl").write_text("ome\ntwo\nthree\n")
    record(folder, [], ["log.jsonl"])
    with pytest.raises(CheckpointError, match=r"log\.jsonl"):
        require_unchanged(folder, "log.jsonl")


def test_a_process_that_dies_while_it_replaces_files_leaves_none_that_seems_damaged(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(folder, ["a.json", "val"], ["log.jsonl"]):
        (folder / "a.json").write_text("new")
        (folder / "val/one.bin").unlink()
        (folder / "log.jsonl").write_text("o")
        raise KeyboardInterrupt
    require_unchanged(folder, "a.json", "b.json", "val", "log.jsonl")
    assert set(read_manifest(folder).files) == {"b.json"}
    record_new(folder, ["a.json", "b.json", "val"])
    assert set(read_manifest(folder).files) == {"a.json", "b.json", "val/two.bin"}


def test_a_file_that_is_replaced_while_it_is_checked_is_no_damage(folder: Path, monkeypatch) -> None:
    """As when `generate` reads a run that is just being finished."""
    original = manifest.read_manifest

    def read_and_replace(directory: Path) -> manifest.Manifest:
        monkeypatch.setattr(manifest, "read_manifest", original)
        before = original(directory)
        with replacing(directory, ["a.json"]):
            (directory / "a.json").write_text("new")
        return before

    monkeypatch.setattr(manifest, "read_manifest", read_and_replace)
    require_unchanged(folder, "a.json")


def test_a_directory_without_a_manifest_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    require_unchanged(tmp_path, "a.json")
    withdraw(tmp_path, ["a.json"])
    assert not (tmp_path / MANIFEST_NAME).exists() and not read_manifest(tmp_path).is_there


@pytest.mark.parametrize("name", ["../a.json", "/etc/passwd", MANIFEST_NAME])
def test_a_manifest_names_nothing_outside_of_its_directory(folder: Path, name: str) -> None:
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    fields.pop("sha256")
    fields["files"] = {name: {"bytes": 1, "sha256": "0" * 64}}
    (folder / MANIFEST_NAME).write_text(manifest.dump_with_checksum(fields))
    with pytest.raises(CheckpointError, match="is damaged"):
        require_unchanged(folder, "a.json")


def test_a_newer_version_is_named_as_such(folder: Path) -> None:
    fields = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(manifest.dump_with_checksum({**fields, "version": 99}))
    with pytest.raises(CheckpointError, match="newer gptcli"):
        require_unchanged(folder, "a.json")
