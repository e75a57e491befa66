"""Directories in the layouts of other programs: data sets that `datasets` saved to disk or keeps in the hub's cache.

Such a directory holds more than the text, and several splits, of which one is read: `train` unless the user names
another, as in DIRECTORY@test.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gptcli import strict_json
from gptcli.console import say
from gptcli.data.file_formats import has_row_ending
from gptcli.errors import DataError
from gptcli.storage import LARGE, read_regular, storage_errors

DEFAULT_SPLIT = "train"
STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write."""

Files = TypeVar("Files")


def split_off(path: Path) -> tuple[Path, str | None]:
    """Split DIRECTORY@SPLIT into both parts. Return any other path, and an existing one of that name, with None."""
    directory, at, split = str(path).rpartition("@")
    if at and split and not path.exists() and Path(directory).is_dir():
        return Path(directory), split
    return path, None


def laid_out_files(path: Path, split: str | None, source: str) -> list[Path] | None:
    """Return the files of the split, in order; None if the path is not a directory of these layouts.

    Raises:
        DataError: there is no such split; or it is not clear which of several revisions in the hub's cache is meant.
    """
    if not path.is_dir():
        return None
    if (path / STATE).is_file() and split is None:
        return saved_files(path)
    if (path / SPLITS).is_file():
        names = [name for name in listed(path / SPLITS, "splits") if isinstance(name, str) and Path(name).name == name]
        return saved_files(path / choose({name: name for name in names}, split, source))
    if path.name.startswith("datasets--") and (path / "snapshots").is_dir():
        path = revision(path)
    if path.parent.name == "snapshots":
        return choose(hub_files(path), split, source)
    if split is not None:
        raise DataError(f"{path} has no splits", f"name the directory without @{split}")
    return None


def saved_files(directory: Path) -> list[Path]:
    """Return the .arrow files of a saved data set: those that its state names, without cached ones of other steps."""
    entries = listed(directory / STATE, "_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    files = [directory / Path(name).name for name in names if isinstance(name, str)]
    missing = [file for file in files if not file.is_file()]
    if not files or missing:
        what = missing[0] if missing else f"{directory / STATE} names no file"
        raise DataError(f"{what}{' is missing' if missing else ''}", "save the data set again")
    return files


def listed(path: Path, key: str) -> list[Any]:
    """Return the list under a key of a JSON file."""
    with storage_errors(path, "read"):
        content = read_regular(path, LARGE)
    try:
        found = strict_json.parse(content)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}", "save the data set again") from error
    if not isinstance(found, list):
        raise DataError(f"{path} is damaged: {key!r} is not a list", "save the data set again")
    return found


def revision(repository: Path) -> Path:
    """Return the snapshot of a repository in the hub's cache: the main branch's, or the only one."""
    snapshots = sorted(path for path in (repository / "snapshots").iterdir() if path.is_dir())
    main = repository / "refs" / "main"
    if main.is_file():
        named = repository / "snapshots" / read_regular(main).decode().strip()
        if named in snapshots:
            return named
    if len(snapshots) != 1:
        names = ", ".join(path.name for path in snapshots) or "none"
        raise DataError(f"{repository} has several revisions or none: {names}", "name one: DIRECTORY/snapshots/NAME")
    return snapshots[0]


def hub_files(snapshot: Path) -> dict[str, list[Path]]:
    """Return the files of rows by split, as `datasets` assigns files to splits by their names."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(snapshot)), base_path=str(snapshot))
    except (EmptyDatasetError, FileNotFoundError) as error:
        raise DataError(f"{snapshot} holds no data", "download the data set again") from error
    paths = {str(split): sorted({Path(file) for file in files}) for split, files in found.items()}
    rows = {split: [file for file in files if has_row_ending(file)] for split, files in paths.items()}
    kept = {split: files for split, files in rows.items() if files}
    if not kept:
        raise DataError(
            f"{snapshot} holds no rows (.parquet, .jsonl, .csv, .arrow)", "name the files themselves, if they are text"
        )
    return kept


def choose(splits: Mapping[str, Files], split: str | None, source: str) -> Files:
    """Return the split that was named, else `train`, else the only one; a message lists the others."""
    names = ", ".join(splits)
    if split is None and DEFAULT_SPLIT not in splits and len(splits) == 1:
        return next(iter(splits.values()))
    chosen = split or DEFAULT_SPLIT
    if chosen not in splits:
        raise DataError(f"{source} has no split {chosen}; it has {names}", "name one of them: DIRECTORY@SPLIT")
    if split is None and len(splits) > 1:
        say(f"{source}: reading the split {chosen}, of {names}")
    return splits[chosen]
