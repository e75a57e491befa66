"""Scans: the corpus in two parts that share no document, the same on every reading, until the files change."""

from __future__ import annotations

import json
import os
import random
import re
import time
from pathlib import Path

import pytest

from data_files import write_rows
from gptcli.data import corpus, scan
from gptcli.data.config import DataConfig
from gptcli.data.left_out import LeftOut, left_out_report
from gptcli.data.scan import CorpusScan, scan_texts
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError, StorageError


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, once for each reading."""
    names: list[str] = []
    original = corpus.read_text

    def counted(path: Path, *arguments: object):
        names.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(corpus, "read_text", counted)
    return names


def write_files(folder: Path, texts: list[str], age: float = 60) -> str:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        path = folder / f"{number:04}.txt"
        path.write_text(text, newline="")
        os.utime(path, (time.time() - age, time.time() - age))
    return str(folder)


def some_texts(seed: int, count: int = 60) -> list[str]:
    """Return documents of several lines; some are equal, some are blank."""
    generator = random.Random(seed)
    texts = ["".join(generator.choice("abcdé日𝄞 \n") for _ in range(generator.randrange(1, 400))) for _ in range(count)]
    return [generator.choice(texts) if generator.random() < 0.2 else text for text in texts] + ["", " \n"]


@pytest.mark.parametrize("seed", range(6))
def test_parts_are_the_distinct_documents_and_share_none(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    texts = some_texts(seed)
    found = scan_texts([write_rows(tmp_path / "a.jsonl", texts)], Workspace(DataConfig(val_fraction=0.3), cache, seed))
    train, val = list(found.train_texts()), list(found.val_texts())
    kept = list(dict.fromkeys(text for text in texts if text.strip()))
    assert sorted(train + val) == sorted(kept)
    assert not set(train) & set(val) and train and val
    assert [text for text in kept if text in set(train)] == train
    for part, statistics in ((train, found.train), (val, found.val)):
        assert statistics.documents == len(part)
        assert statistics.characters == sum(map(len, part))
        assert statistics.bytes == sum(len(text.encode()) for text in part)
        assert statistics.distinct_characters == len(set("".join(part)))
    assert found.unseen_characters == len(set("".join(val)) - set("".join(train)))
    assert found.blank == sum(not text.strip() for text in texts)
    assert found.duplicates == len(texts) - len(kept) - found.blank


@pytest.mark.parametrize("mode", ["document", "tail"])
def test_documents_in_pieces_are_split_like_whole_ones(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    source = write_rows(tmp_path / "a.jsonl", some_texts(1))
    config = DataConfig(split=mode, val_fraction=0.3)
    whole = scan_texts([source], Workspace(config, cache))
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 20)
    pieces = scan_texts([source], Workspace(config, cache / "other"))
    assert pieces.fingerprint == whole.fingerprint
    assert pieces.train == whole.train and pieces.val == whole.val
    assert "".join(pieces.train_texts()) == "".join(whole.train_texts())
    assert "".join(pieces.val_texts()) == "".join(whole.val_texts())
    assert max(map(len, pieces.train_texts())) <= 20
    assert sum(piece.starts for piece in pieces.pieces()) == whole.train.documents + whole.val.documents


@pytest.mark.parametrize("mode", ["document", "tail"])
def test_tiny_shakespeare_is_split_as_nanogpt_splits_it(shared: Path, cache: Path, mode: str) -> None:
    path = shared / "corpora" / "tinyshakespeare.txt"
    found = scan_texts([str(path)], Workspace(DataConfig(split=mode), cache))
    text = path.read_bytes().decode()
    assert (found.train.characters, found.val.characters) == (1_003_854, 111_540)
    assert "".join(found.train_texts()) == text[: int(len(text) * 0.9)]
    assert "".join(found.val_texts()) == text[int(len(text) * 0.9) :]
    assert found.train.distinct_characters == 65


def test_tail_of_many_documents_is_the_end_of_their_text(tmp_path: Path, cache: Path) -> None:
    texts = list(dict.fromkeys(text for text in some_texts(2) if text.strip()))
    source = write_rows(tmp_path / "a.jsonl", texts)
    found = scan_texts([source], Workspace(DataConfig(split="tail", val_fraction=0.2), cache))
    whole = "".join(texts)
    assert "".join(found.train_texts()) == whole[: int(len(whole) * 0.8)]
    assert "".join(found.val_texts()) == whole[int(len(whole) * 0.8) :]


def test_an_own_validation_corpus_is_read_whole_and_kept_out_of_training(tmp_path: Path, cache: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", ["one", "shared text", "two", "two", "also shared"])
    own = write_rows(tmp_path / "b.jsonl", ["three", "shared text", "also shared", "three"])
    found = scan_texts([source], Workspace(DataConfig(val=own), cache))
    assert list(found.train_texts()) == ["one", "two"]
    assert list(found.val_texts()) == ["three", "shared text", "also shared"]
    assert (found.overlap, found.overlap_bytes) == (2, len("shared text" + "also shared"))
    assert (found.duplicates, found.duplicate_bytes) == (2, len("two" + "three"))
    assert found.split_rule == f"validation on {own}"
    assert json.loads(json.dumps(found.report()))["dropped"]["overlap"] == 2


def test_the_second_scan_reads_nothing_until_a_file_changes(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    source = write_files(tmp_path / "c", ["first text", "second text", "third text"])
    first = scan_texts([source], Workspace(DataConfig(), cache))
    assert reads
    reads.clear()
    second = scan_texts([source], Workspace(DataConfig(), cache))
    assert not reads
    assert second.report() == first.report() and list(second.train_texts()) == list(first.train_texts())
    write_files(tmp_path / "c", ["first text", "another text"], age=30)
    reads.clear()
    third = scan_texts([source], Workspace(DataConfig(), cache))
    assert reads and third.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        *({"val_fraction": 0.5}, {"split": "tail"}, {"document_separator": "x"}, {"encoding": "cp1252"}),
        *({"include": ("*.txt",)}, {"exclude": ("0000.txt",)}, {"encoding_errors": "replace"}, {}),
    ],
)
def test_other_settings_are_another_scan(tmp_path: Path, cache: Path, reads: list[str], change: dict) -> None:
    source = write_files(tmp_path / "c", ["first text", "second text", "third text"])
    scan_texts([source], Workspace(DataConfig(), cache, 1))
    reads.clear()
    scan_texts([source], Workspace(DataConfig(**change), cache, 1 if change else 2))
    assert reads
    reads.clear()
    scan_texts([source], Workspace(DataConfig(pack="document", tokenizer="char"), cache, 1))
    assert not reads


def test_a_file_changed_just_before_a_scan_is_read_again(tmp_path: Path, cache: Path, reads: list[str]) -> None:
    """It may change once more within the tick of its clock, with the same size and time."""
    source = write_files(tmp_path / "c", ["aaaa", "bbbb"], age=0)
    scan_texts([source], Workspace(DataConfig(), cache))
    status = (tmp_path / "c" / "0001.txt").stat()
    (tmp_path / "c" / "0001.txt").write_text("cccc")
    os.utime(tmp_path / "c" / "0001.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    found = scan_texts([source], Workspace(DataConfig(), cache))
    assert "".join([*found.train_texts(), *found.val_texts()]) == "aaaacccc"


def test_the_fingerprint_is_of_the_texts_and_not_of_their_names(tmp_path: Path, cache: Path) -> None:
    texts = ["first text", "second text", "third text"]
    one = scan_texts([write_files(tmp_path / "c", texts)], Workspace(DataConfig(), cache))
    two = scan_texts([write_rows(tmp_path / "d.jsonl", [*texts, texts[0]])], Workspace(DataConfig(), cache))
    assert one.fingerprint == two.fingerprint
    backwards = scan_texts([write_rows(tmp_path / "e.jsonl", texts[::-1])], Workspace(DataConfig(), cache))
    assert backwards.fingerprint != one.fingerprint


@pytest.mark.parametrize("text", ["one text, changed", "one text", "", "short"])
def test_a_file_that_changes_between_two_readings_is_an_error(tmp_path: Path, cache: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one texT<>two text<>three text")
    found = scan_texts([str(path)], Workspace(DataConfig(document_separator="<>", val_fraction=0.3), cache))
    path.write_text(text)
    for texts in (found.train_texts, found.val_texts):
        with pytest.raises(DataError, match=r"a\.txt changed while it was being read"):
            list(texts())


def test_only_files_with_validation_documents_are_read_for_their_text(
    tmp_path: Path, cache: Path, reads: list[str]
) -> None:
    source = write_files(tmp_path / "c", [f"text number {number}" for number in range(50)])
    found = scan_texts([source], Workspace(DataConfig(), cache))
    reads.clear()
    assert len(list(found.val_texts())) == found.val.documents == len(reads) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": b""}, r"a\.txt holds no text"),
        ({"a.txt": b" \n\n"}, r"a\.txt holds no text"),
        ({"a.jsonl": b""}, r"a\.jsonl holds no text"),
        ({"a.txt": b"", "b.csv": b"text\n"}, "none of the 2 files of the corpus holds any text"),
        ({"a.txt": b"x"}, "single character"),
        ({"a.txt": b"ab\xff"}, "not UTF-8 at byte 2"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_an_error_that_leaves_nothing(
    tmp_path: Path, cache: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan_texts([str(tmp_path / name) for name in files], Workspace(DataConfig(), cache))
    assert [path.suffix for path in (cache / "scans").iterdir()] == [".lock"]


def test_no_corpus_is_an_error(cache: Path) -> None:
    with pytest.raises(DataError, match="no corpus is named"):
        scan_texts([], Workspace(DataConfig(), cache))


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(StorageError, match="cannot create"):
        scan_texts([str(tmp_path / "a.txt")], Workspace(DataConfig(), tmp_path / "a.txt" / "cache"))


def test_a_scan_that_was_killed_leaves_nothing_that_is_taken_for_one(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files(tmp_path / "c", [f"text number {number}" for number in range(10)])

    def killed(*arguments: object) -> CorpusScan:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scan, "count_splits", killed)
        with pytest.raises(KeyboardInterrupt):
            scan_texts([source], Workspace(DataConfig(), cache))
    assert [path.suffix for path in (cache / "scans").iterdir()] == [".lock"]
    assert scan_texts([source], Workspace(DataConfig(), cache)).train.documents == 9


def mixed_folder(folder: Path) -> str:
    """Write a folder of which two files can be read, and two more after their errors are repaired."""
    write_files(folder, ["first text", "second text"])
    (folder / "package.json").write_text('{"name": "x"}')
    (folder / "rows.jsonl").write_text('{"text": "good"}\n{"text": "as good"}\n{"body": "no text"}\n')
    (folder / "old.txt").write_bytes("Größe\n".encode("cp1252") * 50)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return str(folder)


def test_a_folder_leaves_out_whole_files_that_cannot_be_read_and_says_so(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mixed_folder(tmp_path / "c")
    for _ in range(2):  # also from the cache
        found = scan_texts([folder], Workspace(DataConfig(), cache))
        assert "".join(piece.text for piece in found.pieces()) == "first textsecond text"
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "left out of the corpus: 3 that cannot be read as text" in said
        assert "old.txt: it is not UTF-8 at byte 2, and probably text in CP1252" in said
        assert "1 of other kinds (1 .png)" in said
    report = found.report()
    assert report["files"] == 2 and report["left_out"]["total"] == 4
    reasons = {Path(one["name"]).name: one["reason"] for one in report["left_out"]["files"]}
    assert reasons["rows.jsonl"].startswith("line 3 of it has no field 'text'; its fields are body")
    assert reasons["package.json"].startswith("line 1 of it has no field 'text'; its fields are name")
    assert scan_texts([folder], Workspace(DataConfig(exclude=("*.json*", "old.txt")), cache)).refused == ()
    capsys.readouterr()


@pytest.mark.parametrize("name", ["package.json", "rows.jsonl", "old.txt"])
def test_a_file_that_is_named_must_be_readable(tmp_path: Path, cache: Path, name: str) -> None:
    folder = mixed_folder(tmp_path / "c")
    for sources in ([f"{folder}/{name}", folder], [folder, f"{folder}/{name}"]):
        with pytest.raises(DataError, match=f"{name} (is not UTF-8|has no field)"):
            scan_texts(sources, Workspace(DataConfig(), cache))


def test_what_is_read_of_a_validation_corpus_counts_as_validation(tmp_path: Path, cache: Path) -> None:
    val = mixed_folder(tmp_path / "val")
    train = write_files(tmp_path / "train", ["third text", "fourth text", "fifth text"])
    found = scan_texts([train], Workspace(DataConfig(val=val), cache))
    assert set(found.val_texts()) == {"first text", "second text"} and found.train.documents == 3
    assert len(found.left_out) == 4


def test_a_folder_of_which_nothing_can_be_read_is_an_error_with_the_first_remedy(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "c" / name).write_text('{"body": "x"}\n')
    with pytest.raises(DataError, match=r"no file of the corpus can be read; .*a\.jsonl and 1 other: .*text_field"):
        scan_texts([str(tmp_path / "c")], Workspace(DataConfig(), cache))


def test_what_is_replaced_is_counted_and_warned_of(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 and caf\xe9. " * 100)
    found = scan_texts([str(tmp_path / "a.txt")], Workspace(DataConfig(encoding_errors="replace"), cache))
    assert found.report()["replaced_characters"] == 200
    assert "warning: 200 of 1,500 characters are U+FFFD" in capsys.readouterr().err
    (tmp_path / "a.txt").write_bytes(b"cafe and cafe. " * 100 + b"\xe9")
    assert scan_texts([str(tmp_path / "a.txt")], Workspace(DataConfig(encoding_errors="replace"), cache)).replaced == 1
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("separator", "warning"),
    [
        (None, "warning: '<|endoftext|>' occurs 29 times in a sample of the text"),
        ("@@", "warning: data.document_separator=@@ never occurs, .*--set data.document_separator='<|endoftext|>'"),
        ("<|endoftext|>", ""),
    ],
)
def test_a_separator_that_is_missing_or_undeclared_is_said(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], separator: str | None, warning: str
) -> None:
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"story number {number}" for number in range(30)))
    for _ in range(2):
        found = scan_texts([str(tmp_path / "a.txt")], Workspace(DataConfig(document_separator=separator), cache))
        said = capsys.readouterr().err
        assert re.search(warning.replace("|", r"\|"), said) if warning else not said
    assert (found.train.documents + found.val.documents > 2) == (not warning)


def test_reports_list_a_bounded_number_of_files_unreadable_ones_first() -> None:
    left_out = [LeftOut(f"{number}.png", "another kind of file, by its ending .png") for number in range(1500)]
    report = left_out_report([*left_out, LeftOut("z.txt", "it is a PDF document", "convert it to text")])
    assert report["total"] == 1501 and len(report["files"]) == 1000 and report["files"][0]["name"] == "z.txt"
    assert report["reasons"] == {"another kind of file, by its ending .png": 1500, "unreadable": 1}
