"""`gptcli checkpoint rebase`: the new place of the base model of an adapter."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.base_reference import BASE_FILE, HUB_PREFIX, NO_BASE, BaseReference
from gptcli.interop.load import IN_FP32, load_peft, open_base
from gptcli.interop.peft_config import ADAPTER_CONFIG, name_base, read_base
from gptcli.manifest import read_manifest, replacing


@dataclass(frozen=True)
class Rebased:
    """An adapter, and the base model that it names now."""

    adapter: Path
    base: BaseReference

    def as_dict(self) -> dict[str, Any]:
        """Return both for JSON."""
        return {"adapter": str(self.adapter), "base": self.base._asdict()}

    def text(self) -> str:
        """Return a sentence about both."""
        return f"{self.adapter} now has its base model at {self.base.reference}"


def rebase(path: Path, base: str) -> Rebased:
    """Write `base` as the place of the base model of the adapter at `path`, a run or a directory of PEFT; return both.

    Raises:
        UsageError: there is no adapter at `path`, or another process trains it.
        CheckpointError: `base` is no model, or not the one that the adapter was trained on.
        StorageError: the name cannot be written.
    """
    place = base if base.startswith(HUB_PREFIX) else str(Path(base).absolute())
    is_run = RunDirectory.is_run(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", "give the run or the directory of an adapter")
    recorded = BaseReference.open(path) if is_run else NO_BASE
    if not is_run and (path / ADAPTER_CONFIG).is_file():
        recorded = read_base(path)
    elif recorded == NO_BASE:
        raise UsageError(f"{path} has no adapter, and so no base model", "give the run or the directory of an adapter")
    wanted = recorded._replace(reference=place)
    with RunDirectory(path).lock() if is_run else nullcontext():
        # An adapter of another program has no hash, but a base of another shape is noticed.
        found = open_base(wanted, path)[1] if is_run else load_peft(path, wanted, IN_FP32).adapter.base
        is_listed = is_run or bool(read_manifest(path).below([ADAPTER_CONFIG]))
        with replacing(path, (BASE_FILE, ADAPTER_CONFIG)) if is_listed else nullcontext():
            if is_run:
                found.save(path)
            if (path / ADAPTER_CONFIG).is_file():
                name_base(path, found)
    return Rebased(path, found)
