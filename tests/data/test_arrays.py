"""Arrays in files that may be larger than memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.arrays import new_array
from gptcli.data.groups import LinkedGroups
from gptcli.errors import StorageError


def test_a_new_array_is_zero_and_what_is_written_to_it_is_in_its_file(tmp_path: Path) -> None:
    array = new_array(tmp_path / "array", np.dtype("<i8"), (2, 1000))
    assert not array.any()
    array[1, 5] = 7
    assert np.fromfile(tmp_path / "array", dtype="<i8").reshape(2, 1000)[1, 5] == 7
    assert (tmp_path / "array").stat().st_blocks * 512 >= 16_000
    assert new_array(tmp_path / "empty", np.dtype("<i8"), (0,)).shape == (0,)


def test_a_full_disk_is_found_before_an_array_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"needs 8,000 bytes, [\d,]+ are free"):
        new_array(tmp_path / "array", np.dtype("<i8"), (1000,))
    with pytest.raises(StorageError, match=r"needs 80 bytes, [\d,]+ are free"):
        LinkedGroups(tmp_path, 10, iter(()), keeps_duplicates=True)
