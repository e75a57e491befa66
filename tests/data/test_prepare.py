"""Preparation: the tokens are those of the text, whole or absent; the tokenizer is not trained on validation text."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tokenizers

from data_files import write_rows
from gptcli.data import prepare, stages
from gptcli.data.config import DataConfig
from gptcli.data.inspect import inspect_split
from gptcli.data.prepare import PreparedCorpus, open_corpus, prepare_corpus, scan_corpus
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError, StorageError
from gptcli.storage import default_cache_dir
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXTS = [
    f"Document {number}: it's {'very ' * (number % 5)}small, naïve 日本 {number * number}.\n" for number in range(80)
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "a.jsonl"
    write_rows(path, TEXTS)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return str(path)


def prepared(source: str, cache: Path, seed: int = 0, **settings: object) -> PreparedCorpus:
    config = DataConfig.model_validate(settings)
    workspace = Workspace(config, cache, seed)
    return prepare_corpus(scan_corpus([source], workspace), workspace)


@pytest.mark.parametrize("tokenizer", ["char", "byte", {"name": "bpe", "vocab_size": 400}])
def test_the_stream_is_end_of_text_and_ids_of_every_document(source: str, cache: Path, tokenizer: object) -> None:
    data = prepared(source, cache, tokenizer=tokenizer)
    scan = scan_corpus([source], Workspace(DataConfig(), cache))
    reference = tokenizers.Tokenizer.from_str(data.tokenizer.backend.to_str())
    for shards, texts in ((data.train, list(scan.train_texts())), (data.val, list(scan.val_texts()))):
        encoded = [reference.encode(text, add_special_tokens=False).ids for text in texts]
        stream = [id for ids in encoded for id in [data.tokenizer.eos_id, *ids]]
        assert shards.read(0, len(shards)).tolist() == stream
        assert [size for _, size in shards.iter_documents()] == [len(text.encode()) for text in texts]
        assert shards.documents == len(texts) and shards.bytes == sum(len(text.encode()) for text in texts)
        assert shards.vocab_size == data.tokenizer.vocab_size and shards.framing.begin_id == data.tokenizer.eos_id
        shards.verify()
    assert len(data.train) == data.report["train_tokens"] and len(data.val) == data.report["val_tokens"]
    decoded = [data.tokenizer.decode(ids) for ids, _ in data.train.iter_documents()]
    assert decoded == list(scan.train_texts())


def test_a_document_in_pieces_has_the_tokens_of_the_whole(
    shared: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (shared / "corpora" / "tinyshakespeare.txt").read_text()[:150_000]
    path = tmp_path / "part.txt"
    path.write_text(text)
    settings = {"tokenizer": {"name": "file", "path": str(shared / "tokenizers" / "gpt2")}, "split": "tail"}
    whole = prepared(str(path), cache, **settings)
    monkeypatch.setattr("gptcli.data.corpus.PIECE_CHARACTERS", 3000)
    monkeypatch.setattr(stages, "BATCH_CHARACTERS", 10_000)
    pieces = prepared(str(path), cache / "other", **settings)
    assert whole.train.fingerprint == pieces.train.fingerprint and whole.val.fingerprint == pieces.val.fingerprint
    reference = tokenizers.Tokenizer.from_str(whole.tokenizer.backend.to_str())
    expected = reference.encode(text[: int(0.9 * len(text))], add_special_tokens=False).ids
    assert pieces.train.document(0).tolist() == expected
    assert pieces.train.documents == pieces.val.documents == 1


def test_tiny_shakespeare_by_character_has_nanogpts_numbers(shared: Path, cache: Path) -> None:
    data = prepared(str(shared / "corpora" / "tinyshakespeare.txt"), cache, tokenizer="char", split="tail")
    assert (len(data.train.document(0)), len(data.val.document(0))) == (1_003_854, 111_540)
    assert data.train.document_bytes(0) == 1_003_854
    assert data.tokenizer.vocab_size == 65 + 2  # <unk> and <|endoftext|>


def test_the_tokenizer_learns_from_the_training_part_only(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a" * 900 + "b" * 100)
    data = prepared(str(path), cache, tokenizer="char", split="tail")
    assert data.train.read(0, len(data.train)).tolist().count(data.tokenizer.unk_id) == 0
    assert data.val.document(0).tolist() == [data.tokenizer.unk_id] * 100
    assert data.report["lost_text"]["val"] == {
        "lost_bytes": 100,
        "measured_bytes": 100,
        "text_bytes": 100,
        "share": 1.0,
    }
    assert data.report["lost_text"]["train"]["share"] == 0


def test_the_second_time_nothing_is_encoded(source: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(source, cache)
    monkeypatch.setattr(prepare, "build_tokenizer", None)
    monkeypatch.setattr(prepare, "write_tokens", None)
    second = prepared(source, cache)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.train.fingerprint == first.train.fingerprint
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert second.report == first.report


def test_a_copy_of_the_corpus_under_another_name_is_not_encoded_again(
    source: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(source, cache)
    monkeypatch.setattr(prepare, "write_tokens", None)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(source).read_bytes())
    assert prepared(str(copy), cache).directory == first.directory


@pytest.mark.parametrize("change", [{"tokenizer": "byte"}, {"val_fraction": 0.4}, {"split": "tail"}, {"seed": 5}])
def test_what_changes_the_tokens_changes_the_entry(source: str, cache: Path, change: dict) -> None:
    first = prepared(source, cache)
    assert prepared(source, cache, **change).directory != first.directory
    assert prepared(source, cache, pack="document").directory == first.directory


def test_a_damaged_entry_is_written_anew(source: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepared(source, cache)
    fingerprint = first.train.fingerprint
    os.truncate(first.directory / "train" / "tokens-00000.bin", 10)
    again = prepared(source, cache)
    assert not again.from_cache and again.train.fingerprint == fingerprint
    said = capsys.readouterr().err
    assert "tokens-00000.bin is damaged: 10 bytes, should be" in said and said.endswith("; it is made again\n")
    again.train.verify()


def test_a_prepared_directory_opens_by_itself(source: str, cache: Path) -> None:
    first = prepared(source, cache)
    tokenizer, report = load_tokenizer(first.directory / "tokenizer"), (first.directory / "report.json").read_text()
    opened = open_corpus(first.directory, tokenizer, json.loads(report), from_cache=True)
    assert opened.report == first.report and opened.tokenizer.fingerprint == first.tokenizer.fingerprint


def test_a_corpus_that_changes_before_it_is_encoded_leaves_nothing(source: str, cache: Path) -> None:
    config = DataConfig(tokenizer="byte")
    scan = scan_corpus([source], Workspace(config, cache))
    with open(source, "a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(DataError, match="changed while it was being read"):
        prepare_corpus(scan, Workspace(config, cache))
    assert [path.suffix for path in (cache / "tokens").iterdir()] == [".lock"]


def prepare_in_process(source: str, cache: Path, results: multiprocessing.SimpleQueue) -> None:
    results.put(prepared(source, cache).train.fingerprint)


def test_processes_that_prepare_the_same_corpus_do_not_disturb_one_another(source: str, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=prepare_in_process, args=(source, cache, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len({results.get() for _ in processes}) == 1
    prepared(source, cache).train.verify()
    assert not [path for path in cache.rglob("*") if ".tmp-" in path.name]


def test_what_a_killed_process_left_is_cleared_away(source: str, cache: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from gptcli.data import prepare, shards
        from gptcli.data.config import DataConfig
        from gptcli.data.workspace import Workspace
        config, cache = DataConfig(tokenizer="byte"), Path(sys.argv[2])
        def die(self): os.kill(os.getpid(), signal.SIGKILL)
        shards.ShardWriter.write_index = die
        workspace = Workspace(config, cache)
        prepare.prepare_corpus(prepare.scan_corpus([sys.argv[1]], workspace), workspace)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), source, str(cache)])
    assert done.returncode == -signal.SIGKILL
    assert [path for path in (cache / "tokens").iterdir() if ".tmp-" in path.name]
    data = prepared(source, cache, tokenizer="byte")
    assert not data.from_cache
    data.train.verify()
    assert not [path for path in (cache / "tokens").iterdir() if ".tmp-" in path.name]


def test_a_full_disk_is_a_storage_error_that_leaves_nothing(source: str, cache: Path) -> None:
    script = """
        import resource, signal, sys
        from pathlib import Path
        from gptcli.data.config import DataConfig
        from gptcli.data.prepare import prepare_corpus, scan_corpus
        from gptcli.data.workspace import Workspace
        from gptcli.errors import StorageError
        config, cache = DataConfig(tokenizer="byte"), Path(sys.argv[2])
        scan = scan_corpus([sys.argv[1]], Workspace(config, cache))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            prepare_corpus(scan, Workspace(config, cache))
        except StorageError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), source, str(cache)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "cannot write" in done.stdout and "too large" in done.stdout, done.stderr
    assert [path.suffix for path in (cache / "tokens").iterdir()] == [".lock"]


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "gptcli"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "gptcli"


def test_inspection_shows_the_text_and_finds_damage(source: str, cache: Path) -> None:
    data = prepared(source, cache)
    shown = inspect_split(data.directory / "train", windows=3)
    text = "".join(data.tokenizer.decode(ids) for ids, _ in data.train.iter_documents())
    assert len(shown["windows"]) == 3 and all(window["text"] in text for window in shown["windows"])
    assert shown["document_tokens"]["longest"] == max(len(ids) for ids, _ in data.train.iter_documents())
    path = data.directory / "train" / "tokens-00000.bin"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=r"tokens-00000\.bin is damaged"):
        inspect_split(data.directory / "train", windows=0)


def test_a_read_only_cache_is_a_storage_error(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create"):
        prepared(source, tmp_path / "file" / "cache")
