"""Directories of `datasets` and of the hub's cache: the right files are read, and they give the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.data.scan import scan_texts
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError

datasets = pytest.importorskip("datasets")
TEXTS = [f"text {number}, größer" for number in range(600)]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets-cache"))
    datasets.disable_progress_bars()


def texts(source: Path | str, cache: Path) -> list[str]:
    return [document.text for document in corpus_documents([str(source)], DataConfig(), cache)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set that `datasets` saved: shuffled rows, several files, a cached step beside them."""
    data = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(600))}).shuffle(seed=1)
    data.save_to_disk(tmp_path / "saved", num_shards=3)
    (tmp_path / "saved" / "cache-1234.arrow").write_bytes((tmp_path / "saved/data-00000-of-00003.arrow").read_bytes())
    return tmp_path / "saved"


def test_a_saved_data_set_gives_the_rows_that_load_from_disk_gives(saved: Path, tmp_path: Path) -> None:
    expected = list(datasets.load_from_disk(str(saved))["text"])
    assert texts(saved, tmp_path / "cache") == expected
    assert expected != TEXTS and sorted(expected) == sorted(TEXTS)


def test_the_saved_training_split_is_read_unless_another_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = {"test": TEXTS[:3], "train": TEXTS[3:]}
    saved = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": rows}) for name, rows in splits.items()})
    saved.save_to_disk(tmp_path / "both")
    assert texts(tmp_path / "both", tmp_path / "cache") == TEXTS[3:]
    assert "reading the split train, of test, train" in capsys.readouterr().err
    assert texts(f"{tmp_path / 'both'}@test", tmp_path / "cache") == TEXTS[:3]
    assert texts(tmp_path / "both" / "test", tmp_path / "cache") == TEXTS[:3]
    with pytest.raises(DataError, match="has no split valid; it has test, train"):
        texts(f"{tmp_path / 'both'}@valid", tmp_path / "cache")


def in_the_hub_cache(root: Path, files: dict[str, list[str]], revision: str = "abc") -> Path:
    """Write a data set in the layout of huggingface_hub: files named by their hash, and links with their names."""
    repository = root / "datasets--someone--stories"
    for name, rows in files.items():
        blob = repository / "blobs" / f"{abs(hash((name, *rows))):x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict({"text": rows}).to_parquet(blob)
        link = repository / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (repository / "snapshots" / revision / "README.md").write_text("# Stories\n\nAbout them.")
    (repository / "refs").mkdir(exist_ok=True)
    return repository


FILES = {
    "data/train-00000-of-00002.parquet": TEXTS[:300],
    "data/train-00001-of-00002.parquet": TEXTS[300:590],
    "data/test-00000-of-00001.parquet": TEXTS[590:],
}


def test_in_the_hub_cache_the_training_split_is_read_and_no_readme(tmp_path: Path) -> None:
    repository = in_the_hub_cache(tmp_path, FILES)
    assert texts(repository, tmp_path / "cache") == TEXTS[:590]
    assert texts(f"{repository}@test", tmp_path / "cache") == TEXTS[590:]
    assert texts(repository / "snapshots" / "abc", tmp_path / "cache") == TEXTS[:590]
    assert texts(repository / "snapshots" / "abc" / "data", tmp_path / "cache") == TEXTS[590:] + TEXTS[:590]


def test_training_reads_the_hub_cache_through_its_links_and_validates_on_another_split(tmp_path: Path) -> None:
    repository = in_the_hub_cache(tmp_path, FILES)
    scan = scan_texts([str(repository)], Workspace(DataConfig(val=f"{repository}@test"), tmp_path / "cache"))
    assert (list(scan.train_texts()), list(scan.val_texts())) == (TEXTS[:590], TEXTS[590:])


def test_the_main_one_of_several_revisions_is_read(tmp_path: Path) -> None:
    in_the_hub_cache(tmp_path, {"train.parquet": ["old"]}, "aaa")
    repository = in_the_hub_cache(tmp_path, {"train.parquet": ["new"]}, "bbb")
    with pytest.raises(DataError, match="several revisions or none: aaa, bbb"):
        texts(repository, tmp_path / "cache")
    (repository / "refs" / "main").write_text("bbb")
    assert texts(repository, tmp_path / "cache") == ["new"]


def test_files_without_split_in_their_names_are_all_read(tmp_path: Path) -> None:
    repository = in_the_hub_cache(tmp_path, {"part-1.parquet": ["one"], "part-2.parquet": ["two"]})
    assert texts(repository, tmp_path / "cache") == ["one", "two"]


@pytest.mark.parametrize("content", ["{", "[]", '{"_data_files": 3}', '{"_data_files": []}', "{}"])
def test_a_damaged_state_is_named(saved: Path, tmp_path: Path, content: str) -> None:
    (saved / "state.json").write_text(content)
    with pytest.raises(DataError, match=r"state\.json"):
        texts(saved, tmp_path / "cache")


def test_a_saved_data_set_that_lacks_a_file_is_named_and_no_file_outside_is_read(saved: Path, tmp_path: Path) -> None:
    (saved / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00003\.arrow is missing"):
        texts(saved, tmp_path / "cache")
    (saved.parent / "outside.arrow").write_bytes((saved / "data-00000-of-00003.arrow").read_bytes())
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../outside.arrow"}]}))
    with pytest.raises(DataError, match=r"saved/outside\.arrow is missing"):
        texts(saved, tmp_path / "cache")


def test_a_directory_without_splits_has_none_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("a text")
    with pytest.raises(DataError, match="has no splits"):
        texts(f"{tmp_path / 'plain'}@train", tmp_path / "cache")
    (tmp_path / "user@host.txt").write_text("a name with a sign")
    assert texts(tmp_path / "user@host.txt", tmp_path / "cache") == ["a name with a sign"]
