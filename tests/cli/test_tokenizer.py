"""`gptcli tokenizer`: ids and text on stdout, everything else elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptcli.cli.tokenizer import tokenizer_app
from gptcli.errors import ConfigError, DataError, GptcliError, StorageError, TokenizerError, UsageError
from gptcli.tokenizer.tokenizer import load_tokenizer

TEXT = "The miller's daughter said: né 🙂\r\n\tnothing at all, the miller's daughter said nothing.\n"


def run(*arguments: object, stdin: bytes | None = None) -> bytes:
    result = CliRunner().invoke(tokenizer_app, [str(part) for part in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_bytes(TEXT.encode() * 20)
    return path


@pytest.fixture
def trained(corpus: Path, tmp_path: Path) -> Path:
    out = tmp_path / "words"
    assert run("train", corpus, "--vocab-size", 280, "--out", out).decode().strip() == str(out)
    return out


def test_train_saves_what_the_library_loads(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    assert (tokenizer.name, tokenizer.vocab_size) == ("bpe", 280)


@pytest.mark.parametrize(("name", "size"), [("char", len(set(TEXT)) + 2), ("byte", 257)])
def test_train_makes_the_other_kinds(corpus: Path, tmp_path: Path, name: str, size: int) -> None:
    run("train", corpus, "--name", name, "--out", tmp_path / name)
    tokenizer = load_tokenizer(tmp_path / name)
    assert (tokenizer.name, tokenizer.vocab_size) == (name, size)


def test_what_encode_prints_decode_gives_back_to_the_byte(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode() + b" \x00 end")
    ids = run("encode", trained, "--file", path)
    assert ids.split() == [b"%d" % id for id in load_tokenizer(trained).encode(path.read_bytes().decode())]
    assert run("decode", trained, "-", stdin=ids) == path.read_bytes()
    assert run("decode", trained, *ids.decode().split()) == path.read_bytes()


def test_text_comes_as_argument_or_from_standard_input(trained: Path) -> None:
    expected = run("encode", trained, "the miller\n")
    assert run("encode", trained, "-", stdin=b"the miller\n") == expected
    assert run("encode", trained, "--file", "-", stdin=b"the miller\n") == expected


def test_json_has_ids_and_the_text_of_each_token(trained: Path) -> None:
    tokenizer = load_tokenizer(trained)
    answer = json.loads(run("encode", trained, "said<|endoftext|>", "--json", "--allow-special"))
    assert answer["ids"] == [*tokenizer.encode("said"), tokenizer.eos_id]
    assert "".join(answer["tokens"]) == "said<|endoftext|>"
    plain = json.loads(run("encode", trained, "said<|endoftext|>", "--json"))
    assert tokenizer.eos_id not in plain["ids"]


def test_inspect_measures_a_text(trained: Path, corpus: Path) -> None:
    figures = json.loads(run("inspect", trained, "--corpus", corpus, "--json"))
    assert figures["bytes"] == len(TEXT.encode()) * 20
    assert figures["bytes_per_token"] == figures["bytes"] / figures["tokens"] > 1.2
    assert b"bytes per token" in run("inspect", trained, "--text", "the miller")
    assert b"bytes per token" not in run("inspect", trained)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("encode", "absent", "x"), TokenizerError, "absent does not exist"),
        (("encode", "{trained}"), UsageError, "there is no text"),
        (("encode", "{trained}", "x", "--file", "{corpus}"), UsageError, "a text and a file"),
        (("encode", "{trained}", "--file", "missing.txt"), StorageError, "missing.txt"),
        (("encode", "{trained}", "--file", "{binary}"), DataError, "not UTF-8 at byte 2"),
        (("decode", "{trained}", "5", "280"), TokenizerError, "id 280 is not in the vocabulary"),
        (("decode", "{trained}", "five"), TokenizerError, "'five' is not an id"),
        (("train", "{corpus}", "--out", "{trained}"), UsageError, "already holds a tokenizer"),
        (("train", "{corpus}", "--vocab-size", "100", "--out", "{new}"), ConfigError, "257"),
        (("train", "{corpus}", "--name", "char", "--vocab-size", "300", "--out", "{new}"), ConfigError, "vocab_size"),
        (("train", "missing.txt", "--out", "{new}"), DataError, "missing.txt"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    trained: Path, corpus: Path, tmp_path: Path, arguments: tuple, kind: type[GptcliError], words: str
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"ab\xff")
    before = sorted(tmp_path.iterdir())
    places = {"trained": trained, "corpus": corpus, "binary": binary, "new": tmp_path / "new"}
    filled = [part.format(**places) for part in arguments]
    result = CliRunner().invoke(tokenizer_app, filled)
    assert type(result.exception) is kind or isinstance(result.exception, kind)
    assert words in str(result.exception) and "\n" not in str(result.exception)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["bpe", "char"])
def test_nothing_is_learnt_from_a_corpus_without_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(TokenizerError, match="there is no text to train"):
        run("train", tmp_path / "empty.txt", "--name", name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_id_of_more_digits_than_python_reads_is_no_id(trained: Path) -> None:
    with pytest.raises(TokenizerError, match="is not an id") as failure:
        run("decode", trained, "9" * 5000)
    assert len(str(failure.value)) < 300
