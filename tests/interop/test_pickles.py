"""Pickles are read by a bounded process that makes tensors and nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from gptcli.errors import CheckpointError
from gptcli.interop import pickles
from gptcli.interop.pickles import read_pickle, require_safe_torch


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary",)

    torch.save({"model": {"w": torch.ones(2)}, "attack": Attack()}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="is not read"):
        read_pickle(tmp_path / "ckpt.pt")
    assert not (tmp_path / "canary").exists()


def test_a_tensor_that_unfolds_to_more_than_its_file_takes_bounded_memory(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(2**33)}, tmp_path / "ckpt.pt")  # 32 GiB out of four bytes
    assert (tmp_path / "ckpt.pt").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="is not read"):
        read_pickle(tmp_path / "ckpt.pt")


def test_a_compressed_archive_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="claims to hold"):
        read_pickle(tmp_path / "bomb.pt")


def test_reading_ends_when_it_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(10)}, tmp_path / "ckpt.pt")
    monkeypatch.setattr(pickles, "BASE_SECONDS", 0)
    with pytest.raises(CheckpointError, match=r"takes too long|is not read"):
        read_pickle(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("content", [b"not a pickle at all", b"\x80\x02}q\x00."])
def test_what_holds_no_tensors_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as failure:
        read_pickle(tmp_path / "ckpt.pt")
    assert len(str(failure.value)) < 500


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cu128", "1.13.0"])
def test_a_torch_with_known_holes_is_refused(version: str) -> None:
    with pytest.raises(CheckpointError, match="update torch"):
        require_safe_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0"])
def test_a_torch_without_them_is_taken(version: str) -> None:
    require_safe_torch(version)
