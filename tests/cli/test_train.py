"""`gptcli train` as a user types it: mistakes get one line and an exit code, Ctrl-C saves, --json is one object."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from command import gptcli

TINY = [
    "--set=model.n_layer=1", "--set=model.n_embd=16", "--set=model.n_head=2", "--set=model.context_length=16",
    "--set=data.tokenizer.name=char", "--set=train.tokens_per_step=64", "--set=train.batch_size=4",
    "--set=train.sample_every_steps=0", "--set=device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{n} bottles of {('milk', 'ink', 'rain')[n % 3]} on the wall.\n" for n in range(400)))
    return path


def test_json_is_one_object_on_stdout_and_the_run_is_named_after_the_corpus(corpus: Path, tmp_path: Path) -> None:
    done = gptcli("train", corpus, *TINY, "--set=train.max_steps=4", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["steps"] == 4 and summary["run"] == "runs/corpus"
    assert "gptcli generate runs/corpus" in done.stderr
    again = gptcli("train", corpus, *TINY, "--set=train.max_steps=4", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["run"] == "runs/corpus-2"
    assert "from the cache" in again.stderr


def test_an_out_that_cannot_be_made_is_refused_before_the_corpus_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for out, words in (
        ("file", "is not a directory"),
        ("file/run", "is not a directory"),
        ("full", "holds 'notes.txt'"),
        ("/proc/run", "cannot"),
    ):
        done = gptcli("train", "missing-corpus.txt", "--out", out, cwd=tmp_path)
        assert done.returncode in (2, 5)
        assert done.stderr.count("\n") == 1 and words in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("texts/*.txt", "texts"),
        ("my texts/**/*.md", "my-texts"),
        ("books/book-[0-9].txt", "books"),
        ("*.txt", "here"),
        ("book.txt.gz", "book"),
        ("-", "stdin"),
    ],
)
def test_a_run_is_named_after_its_corpus_a_glob_after_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, name: str
) -> None:
    from gptcli.train.request import fresh_directory

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert fresh_directory((corpus,)) == Path("runs") / name


def test_a_corpus_from_standard_input_trains(corpus: Path, tmp_path: Path) -> None:
    done = gptcli("train", "-", *TINY, "--set=train.max_steps=2", "--out", "run", cwd=tmp_path, text=corpus.read_text())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "model.n_layr=3"], 2, ["model.n_layr", "did you mean 'model.n_layer'"]),
        (["--set", "model.n_layer=three"], 2, ["model.n_layer", "integer"]),
        (["--set", "model.n_embd=30", "--set", "model.n_head=4"], 2, ["n_embd", "n_head"]),
        (["--set", "model.n_head=4", "--set", "model.n_kv_head=3", "--set", "model.n_embd=32"], 2, ["n_kv_head"]),
        (["--set", "train.max_steps=many"], 2, ["train.max_steps", "integer"]),
        (["--set", "train.batch_size=0"], 2, ["train.batch_size", "greater"]),
        (["--set", "train=3"], 2, ["train"]),
        (["--set", "model.n_kv_head=x"], 2, ["n_kv_head", "integer"]),
        (["--set", "optim.name=adamm"], 2, ["optim.name", "'adamw'"]),
        (["--set", "train.tokens_per_step=100", "--set", "train.seq_len=16"], 2, ["tokens_per_step", "96"]),
        (["--set", "device=cuda:99"], 2, ["cuda"]),
        (["-c", "gpt2-124"], 2, ["gpt2-124", "did you mean gpt2-124m"]),
        (["-c", "nowhere.toml"], 2, ["nowhere.toml"]),
        (["--set", "model.context_length=100000", "--set", "train.tokens_per_step=100000"], 3, ["corpus", "context"]),
        (["--set", "data.tokenizer=file:nowhere.json"], 3, ["nowhere.json"]),
        (["--set", "train.trackers=['papyrus']"], 2, ["train.trackers"]),
        (["--time", "soon"], 2, ["--time 'soon'", "90s, 10m, 1h30m or 1d"]),
        (["--set", "train.max_seconds=-1"], 2, ["train.max_seconds", "greater than 0"]),
        (["--time", "1s"], 2, ["too short", "more"]),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_exit_code(
    corpus: Path, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    base = [] if any("model." in argument or "train.seq" in argument for argument in arguments) else TINY
    done = gptcli("train", corpus, *base, *arguments, "--out", "run", cwd=tmp_path)
    assert_one_line(done, code, words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("missing.txt", None, 3, ["missing.txt"]),
        ("empty.txt", b"", 3, ["empty"]),
        ("bytes.txt", b"good text " * 50 + b"\xff bad", 3, ["bytes.txt", "500"]),
        ("rows.jsonl", b'{"content": "a row"}\n', 3, ["rows.jsonl", "text", "content"]),
        ("short.txt", b"word", 3, []),
    ],
)
def test_an_unusable_corpus_is_one_line_with_its_exit_code(
    tmp_path: Path, name: str, content: bytes | None, code: int, words: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = gptcli("train", name, *TINY, "--out", "run", cwd=tmp_path)
    assert_one_line(done, code, words)
    assert not (tmp_path / "run").exists()


def test_no_corpus_at_all_is_a_usage_error(tmp_path: Path) -> None:
    assert_one_line(gptcli("train", cwd=tmp_path), 2, ["no corpus", "gptcli train book.txt"])


@pytest.mark.parametrize("verb", [["generate"], ["eval"], ["checkpoint", "list"]])
def test_a_directory_that_is_no_run_is_named(tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(gptcli(*verb, "empty", cwd=tmp_path), 4, ["empty"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_directory_that_cannot_be_written_is_an_io_error(corpus: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert_one_line(gptcli("train", corpus, *TINY, "--out", tmp_path / "run"), 5, ["permission"])


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, words: list[str]) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gptcli: "), done.stderr
    for word in words:
        assert word in last


@pytest.mark.slow
def test_ctrl_c_saves_and_the_resumed_run_ends_as_the_unbroken_one(corpus: Path, tmp_path: Path) -> None:
    settings = [*TINY, "--set=model.dropout=0.1", "--set=train.max_steps=400", "--set=train.log_every_steps=10",
                "--set=train.eval_every_steps=200", "--set=train.checkpoint_every_steps=200"]  # fmt: skip
    whole = gptcli("train", corpus, *settings, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "gptcli", "train", str(corpus), *settings, "--out", "broken"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "broken" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said and "stopped by SIGINT" in said
    resumed = gptcli("train", "--resume", "--out", "broken", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    step = "checkpoints/step-00000400/"
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "whole" / step / name).read_bytes() == (tmp_path / "broken" / step / name).read_bytes()
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(10, 401, 10))
