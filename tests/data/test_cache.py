"""Entries of the cache: an intact one is used, and a damaged one is found before it is used and made again."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from gptcli.console import Progress
from gptcli.data import cache as cache_module
from gptcli.data import prepare, scan
from gptcli.data.cache import NAME_FILE, VERIFIED, VerifiedShare, damage_of, is_whole, new_entry, require_whole
from gptcli.data.config import DataConfig, DataSettings
from gptcli.data.inspect import inspect
from gptcli.data.inspect import prepare as prepare_by_settings
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError
from gptcli.manifest import MANIFEST_NAME, Manifest
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXTS = [f"line {number}: {number * number} and more\n" * 3 for number in range(40)]


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """An entry of several files."""
    with new_entry(tmp_path / "entry") as folder:
        (folder / "part").mkdir()
        for name in ("a.bin", "b.bin", "part/c.bin"):
            (folder / name).write_text(f"this is {name}")
    return tmp_path / "entry"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of some files."""
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text)
    return tmp_path / "texts"


def settings(**values: object) -> DataSettings:
    return DataSettings(data=DataConfig(**{"tokenizer": {"name": "bpe", "vocab_size": 300}, **values}))


def prepared(folder: Path, cache: Path) -> dict:
    """Return the report of a preparation, except whether it came from the cache."""
    report = prepare_by_settings(settings(corpus=(str(folder),)), cache)
    return {key: value for key, value in report.items() if key != "from_cache"}


def encoded(folder: Path, cache: Path) -> tuple[dict, bytes]:
    """Return the report of a preparation, and the training tokens."""
    report = prepared(folder, cache)
    return report, (Path(report["directory"]) / "train" / "tokens-00000.bin").read_bytes()


def flip(path: Path, at: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def test_an_entry_is_whole_until_a_file_changes_which_is_found_in_the_same_process_too(entry: Path) -> None:
    assert is_whole(entry) and is_whole(entry)
    assert not is_whole(entry.with_name("absent"))
    flip(entry / "part" / "c.bin")
    assert damage_of(entry) == f"{entry}/part/c.bin is damaged: its SHA-256 is not the one that was recorded"
    with pytest.raises(DataError, match=r"part/c\.bin is damaged.*; delete .*entry and run"):
        require_whole(entry)


def test_files_are_read_once_in_a_process(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def damages(manifest: Manifest, names: list[str]) -> list[tuple[str, None]]:
        reads.extend(names)
        return [(name, None) for name in names]

    monkeypatch.setattr(Manifest, "damages", damages)
    require_whole(entry)
    assert reads == []  # by the process that wrote them, when it listed them
    VERIFIED.clear()
    for _ in range(3):
        require_whole(entry)
    assert reads == ["a.bin", "b.bin", NAME_FILE, "part/c.bin"]


def test_an_undamaged_entry_in_the_place_of_another_is_not_used(entry: Path) -> None:
    copy = entry.with_name("copy")
    shutil.copytree(entry, copy)
    assert damage_of(copy) == "" and not is_whole(copy)
    with pytest.raises(DataError, match=f"copy holds another entry, {entry.parent.name}/entry; delete"):
        require_whole(copy)


@pytest.mark.parametrize("kind", ["scans", "tokenizers", "tokens"])
def test_entries_of_two_corpora_that_were_exchanged_are_made_again(
    folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other, cache = tmp_path / "other", tmp_path / "cache"
    shutil.copytree(folder, other)
    for path in other.iterdir():
        path.write_text(path.read_text()[::-1])
    expected = [encoded(corpus, cache) for corpus in (folder, other)]
    entries = [path for path in (cache / kind).iterdir() if path.is_dir()]
    assert len(entries) == 2
    for old, new in zip([*entries, cache / "aside"], [cache / "aside", *entries], strict=True):
        old.rename(new)
    VERIFIED.clear()
    assert [encoded(corpus, cache) for corpus in (folder, other)] == expected
    assert capsys.readouterr().err.count("holds another entry") == 2


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
def test_a_damaged_manifest_is_damage(entry: Path, damage: Callable[[Path], object]) -> None:
    damage(entry / MANIFEST_NAME)
    assert MANIFEST_NAME in damage_of(entry)


def test_the_processes_of_a_machine_share_the_files_and_miss_none(entry: Path) -> None:
    for name in ("a.bin", "b.bin", "part/c.bin"):
        flip(entry / name)
        found = [damage_of(entry, VerifiedShare(number, 2)) for number in range(2)]
        assert sum(name in damage for damage in found) == 1 and found.count("") == 1
        flip(entry / name)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("scans/*/assignment.bin", flip), ("scans/*/documents.bin", flip), ("scans/*/scan.json", cut)),
        *(("tokenizers/*/tokenizer.json", Path.unlink), ("tokens/*/train/tokens-00000.bin", flip)),
        *(("tokens/*/val/document-starts.bin", empty), ("tokens/*/train/index.json", flip)),
    ],
)
def test_a_damaged_file_is_named_and_its_entry_is_made_again(
    folder: Path, tmp_path: Path, name: str, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    whole = prepared(folder, cache)
    (path,) = cache.glob(name)
    content = path.read_bytes()
    capsys.readouterr()
    damage(path)
    assert prepared(folder, cache) == whole
    said = capsys.readouterr().err
    assert f"warning: {path} is " in said and "; it is made again\n" in said
    assert path.read_bytes() == content or path.name == "scan.json"  # which holds the time of the scan
    assert prepare_by_settings(settings(corpus=(str(folder),)), cache)["from_cache"]


def test_a_rank_that_did_not_prepare_the_data_verifies_its_share(folder: Path, tmp_path: Path) -> None:
    directory = Path(prepared(folder, tmp_path / "cache")["directory"])
    tokenizer = load_tokenizer(directory / "tokenizer")
    flip(directory / "train" / "tokens-00000.bin")
    refused = 0
    for number in range(3):
        try:
            prepare.open_corpus(directory, tokenizer, {}, True, VerifiedShare(number, 3))
        except DataError as error:
            assert "tokens-00000.bin is damaged" in str(error)
            refused += 1
    assert refused == 1


def test_a_long_verification_shows_its_progress(
    entry: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache_module, "SHOWN_BYTES", 0)
    monkeypatch.setattr(cache_module, "Progress", partial(Progress, interval=0))
    VERIFIED.clear()
    require_whole(entry)
    assert re.search(r"verify 13/\d\d B", capsys.readouterr().err)


def test_an_inspection_of_a_directory_finds_what_lies_beside_the_tokens(folder: Path, tmp_path: Path) -> None:
    directory = Path(prepared(folder, tmp_path / "cache")["directory"])
    assert len(inspect(settings(corpus=(str(directory),)), tmp_path / "cache", windows=1)) == 2
    for name in ("tokenizer/tokenizer.json", "overlap.json", "train/index.json"):
        flip(directory / name, 3)
        with pytest.raises(DataError, match=f"{name} is damaged"):
            inspect(settings(corpus=(str(directory / "train"),)), tmp_path / "cache", windows=1)
        flip(directory / name, 3)


def test_a_text_that_changes_after_the_scan_is_read_anew_the_next_time(folder: Path, tmp_path: Path) -> None:
    cache, config = tmp_path / "cache", settings().data
    found = scan.scan_texts([str(folder)], Workspace(config, cache))
    (folder / "07.txt").write_text("another text")
    with pytest.raises(DataError, match=r"07\.txt changed while it was being read; run the same command again"):
        prepare.prepare_corpus(found, Workspace(config, cache))
    assert not found.entry.exists() and not list(cache.rglob("*.work"))
    assert prepared(folder, cache)["train"] != found.report()["train"]


def from_stdin(content: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    return prepare_by_settings(settings(corpus=("-",)), cache)


@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_a_copy_of_stdin_that_is_not_what_its_name_says_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    text = "".join(TEXTS) if ending == "txt" else "".join(f'{{"text": "line {n}, {n * n}"}}\n' for n in range(99))
    content = text.encode()
    whole = from_stdin(content, tmp_path, monkeypatch)
    (copy,) = (tmp_path / "spool").glob(f"stream-*.{ending}")
    for damage in (cut, flip, empty):
        damage(copy)
        capsys.readouterr()
        again = from_stdin(content, tmp_path, monkeypatch)
        assert f"{copy} is damaged: its content does not match its name; it is written again" in capsys.readouterr().err
        assert copy.read_bytes() == content
        assert {**again, "from_cache": None} == {**whole, "from_cache": None} and again["from_cache"]
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [copy.name]
