"""Several corpora of examples: what one of them is validated on, no other is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.cache import cache_key, is_whole, new_entry, only_writer, require_whole
from gptcli.data.examples.scan import REPORT, ExampleScan, open_example_scan, scan_examples
from gptcli.data.examples.splits import PROMPTS, UnitEnds, read_prompts, sketch_of, write_split
from gptcli.data.examples.statistics import SplitCounts
from gptcli.data.lost_text import LOST_TEXT
from gptcli.data.overlap import write_overlap
from gptcli.data.scan import SCAN, ScanSummary
from gptcli.data.shards import TokenShards
from gptcli.data.sketch import SKETCH
from gptcli.data.token_sizes import TokenSizes
from gptcli.data.workspace import Workspace
from gptcli.errors import ConfigError
from gptcli.storage import copy_file, copy_tree, create_file, write_file


def scan_apart(corpora: Sequence[Sequence[str]], workspace: Workspace) -> list[ExampleScan]:
    """Scan several corpora, and leave out of the training part of each what another one is validated on.

    Raises:
        ConfigError: Nothing is left to train on of one of them.
        UsageError, DataError, StorageError: As `scan_examples`.
    """
    scans = [scan_examples(sources, workspace) for sources in corpora]
    folders = [scan.directory for scan in scans]
    return [without(scan, [folder for folder in folders if folder != scan.directory], workspace) for scan in scans]


def without(scan: ExampleScan, others: Sequence[Path], workspace: Workspace) -> ExampleScan:
    """Return the scan without training units that have the prompt of a validation unit of other scans, in the folders
    `others`, or begin with one, or are the beginning of one; the same scan if there are none.
    """
    prompts, ends = read_prompts(scan.directory, "train"), UnitEnds.read(scan.directory, "train")
    is_kept = np.ones(len(prompts), dtype=bool)
    for folder in others:
        is_kept &= ~np.isin(prompts, read_prompts(folder, "val"))
        is_kept &= ~ends.continuing(UnitEnds.read(folder, "val"))
    if is_kept.all():
        return scan
    if not is_kept.any():
        raise ConfigError(f"nothing is left to train on of {scan.files[0].name}", "all of it is validated on elsewhere")
    digest = hashlib.sha256(np.packbits(is_kept).tobytes()).hexdigest()
    entry = workspace.cache_dir / "tokens" / cache_key("examples apart", scan.directory.name, digest)
    with only_writer(entry):
        if not is_whole(entry):
            with new_entry(entry) as folder:
                for name in ("val", "tokenizer"):
                    (folder / name).mkdir()
                    copy_tree(scan.directory / name, folder / name)
                for name in (LOST_TEXT, PROMPTS.format("val")):
                    copy_file(scan.directory / name, folder / name)
                write_kept(folder, scan, is_kept, prompts)
    require_whole(entry)
    return open_example_scan(entry, scan.config, scan.passed_over, from_cache=scan.from_cache)


def write_kept(folder: Path, scan: ExampleScan, is_kept: np.ndarray, prompts: np.ndarray) -> None:
    """Write the training part of a scan again, of the kept units alone, and what is counted of it."""
    before = TokenShards.open(scan.directory / "train")
    written = write_split(folder / "train", before, is_kept, scan.tokenizer)
    train, val = TokenShards.open(folder / "train"), TokenShards.open(folder / "val")
    sketch_of(train, scan.tokenizer).save(folder / SKETCH)
    write_overlap(folder, [val], [train])
    with create_file(folder / PROMPTS.format("train")) as out:
        out.write(np.ascontiguousarray(prompts[is_kept]).data)
    gone = int((~is_kept).sum())
    values: dict[str, Any] = {name: getattr(scan, name) for name in ScanSummary.__dataclass_fields__} | {
        "train": TokenSizes(scan.tokenizer).statistics(*written),
        "overlap": scan.overlap + gone,
        "overlap_bytes": scan.overlap_bytes + before.bytes - train.bytes,
        "fingerprint": hashlib.sha256((train.fingerprint + val.fingerprint).encode()).hexdigest(),
    }
    write_file(folder / SCAN, strict_json.dumps(asdict(ScanSummary(**values))))
    counts = SplitCounts.of(train, scan.examples["context"])
    examples = scan.examples | {"train": counts._asdict(), "validated_on": scan.examples["validated_on"] + gone}
    write_file(folder / REPORT, strict_json.dumps(examples))
    report = replace(scan, **values, examples=examples).report()
    write_file(folder / "report.json", strict_json.dumps(report, indent=2) + "\n")
