"""The manifest of a checkpoint: its files with sizes and SHA-256, and the figures worth listing.

The manifest is written last, so a directory without one is no checkpoint. It protects itself too: its last entry is
the SHA-256 of the others, and it is accepted only if its bytes are exactly those that this module would write. So one
flipped bit in any file of a checkpoint, this one included, is found before anything is used.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcli import strict_json
from gptcli.checkpoint.collectives import on_all, rank_in, ranks_of
from gptcli.checkpoint.header import require_sane_header
from gptcli.errors import CheckpointError
from gptcli.manifest import dump_with_checksum
from gptcli.storage import read_regular, sha256_file, storage_errors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.json"
FORMAT = "gptcli checkpoint"
VERSION = 1
MAX_MANIFEST_BYTES = 1_000_000
STEP_NAME = re.compile(r"step-(\d{8,})")
"""The name of a checkpoint's directory in a run."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
REMEDY = "`gptcli checkpoint list RUN` shows which are whole"


@dataclass(frozen=True)
class CheckpointManifest:
    """The description of a checkpoint.

    Attributes:
        val_loss: nats per token; None if it was not measured.
        config_fingerprint, data_fingerprint: what the trainer recognises its config and data by; None if not given.
        files: name -> (size in bytes, hex SHA-256).
    """

    step: int
    val_loss: float | None
    config_fingerprint: str | None
    data_fingerprint: str | None
    files: dict[str, tuple[int, str]]

    def render(self) -> str:
        """Return the text of manifest.json."""
        fields = {
            "format": FORMAT,
            "version": VERSION,
            "step": self.step,
            "val_loss": self.val_loss,
            "config_fingerprint": self.config_fingerprint,
            "data_fingerprint": self.data_fingerprint,
            "files": {name: {"bytes": size, "sha256": digest} for name, (size, digest) in sorted(self.files.items())},
        }
        return dump_with_checksum(fields)


def describe(
    directory: Path, state: Mapping[str, Any], step: int, known: Mapping[str, tuple[int, str]] | None = None
) -> CheckpointManifest:
    """Return the manifest of the files in `directory`; `val_loss` and the fingerprints come from `state`.

    Args:
        known: size and SHA-256 of files that their writers computed; these files are not read again.
    """
    files = dict(known or {})
    for path in directory.iterdir():
        if path.name not in files:
            files[path.name] = path.stat().st_size, sha256_file(path)
    return CheckpointManifest(
        step, state.get("val_loss"), state.get("config_fingerprint"), state.get("data_fingerprint"), files
    )


def read_manifest(directory: Path) -> CheckpointManifest:
    """Read and check the manifest itself, without reading the files that it names.

    Raises:
        CheckpointError: it is missing, damaged, of another kind or a newer version, names a file outside, or belongs
            to another step than the directory's name says.
    """
    path = directory / MANIFEST_NAME
    require_regular_file(path)
    with storage_errors(path, "read"):
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CheckpointError(f"{path} is larger than any manifest of a checkpoint", REMEDY)
        text = read_regular(path, MAX_MANIFEST_BYTES)
    try:
        fields = strict_json.loads(text)
        if fields["format"] == FORMAT and fields["version"] > VERSION:
            raise CheckpointError(f"{directory} was written by a newer gptcli", "update gptcli to read it")
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in fields["files"].items()}
        manifest = CheckpointManifest(
            fields["step"], fields["val_loss"], fields["config_fingerprint"], fields["data_fingerprint"], files
        )
        whole = manifest.render().encode() == text
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: not a manifest", REMEDY) from error
    if not whole:
        raise CheckpointError(f"{path} is damaged: its checksum does not match", REMEDY)
    for name in files:
        if not FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            raise CheckpointError(f"{path} names {name!r}, which is not a file of this checkpoint", "do not use it")
    named = STEP_NAME.fullmatch(directory.name)
    if named and int(named[1]) != manifest.step:
        raise CheckpointError(
            f"{directory} holds the checkpoint of step {manifest.step:,}", "give the directory its own name back"
        )
    return manifest


def verify(directory: Path, group: ProcessGroup | None = None) -> CheckpointManifest:
    """Check every byte of the checkpoint in `directory` against its manifest, before any of it is used.

    Args:
        group: ranks that all call this and share the reading; all raise the first error.

    Raises:
        CheckpointError: a file is missing, changed, of another size, not a regular file, or (tensors) has a wrong
            header; the message names it.
    """

    def check_share() -> CheckpointManifest:
        manifest = read_manifest(directory)
        by_size = sorted(manifest.files, key=lambda name: (-manifest.files[name][0], name))
        check_files(directory, manifest, by_size[rank_in(group) :: ranks_of(group)])
        return manifest

    return on_all(group, check_share)


def check_files(directory: Path, manifest: CheckpointManifest, names: Iterable[str]) -> None:
    """Compare every byte of the named files with the manifest.

    Raises:
        CheckpointError: as `verify`.
    """
    for name in names:
        size, digest = manifest.files[name]
        path = directory / name
        require_regular_file(path)
        with storage_errors(path, "read"):
            found = path.stat().st_size
            if found != size:
                raise CheckpointError(f"{path} is damaged: {found:,} bytes, should be {size:,}", REMEDY)
            if sha256_file(path) != digest:
                raise CheckpointError(f"{path} is damaged: its SHA-256 does not match the manifest", REMEDY)
            if path.suffix == ".safetensors":
                require_sane_header(path)


def require_regular_file(path: Path) -> None:
    """Refuse a missing file, and links and devices, which lead out of the checkpoint's directory."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} is missing", REMEDY) from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a regular file", "do not use this checkpoint")
