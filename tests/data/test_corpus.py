"""Documents and pieces: nothing is lost, and no tokenizer gives other tokens because a document was cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from gptcli.data import corpus
from gptcli.data.config import DataConfig
from gptcli.data.corpus import Document, corpus_documents, cut_pieces
from gptcli.errors import DataError
from gptcli.tokenizer.tokenizer import load_tokenizer

# The split pattern of Llama 3 and, but for the digits, of Qwen 2 and 3.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = ["the", "it's", "naïve", "日本", "12345", "x=1;", "--", "don't", "…", "«", ".", "e\u0301"]


def noise(seed: int, spaces: list[str], words: int = 400) -> str:
    generator = random.Random(seed)
    return "".join(generator.choice(WORDS) + generator.choice(spaces) for _ in range(words))


def pieces_of(text: str) -> list[str]:
    return [piece.text for piece in cut_pieces([(text, True)])]


@pytest.mark.parametrize(
    "spaces", [[" ", "\n", "\n\n", "\r\n", "  \n\t", " \n ", "\x85", "\x1c"], ["\n\n", ""], ["\r\n"]]
)
@pytest.mark.parametrize("seed", range(8))
def test_pieces_have_the_words_of_the_whole_under_gpt2s_pattern(
    monkeypatch: pytest.MonkeyPatch, seed: int, spaces: list[str]
) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 60)
    text = noise(seed, spaces)
    pieces = pieces_of(text)
    assert "".join(pieces) == text and len(pieces) > 10 and max(map(len, pieces)) <= 60
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [word for word, _ in gpt2.pre_tokenize_str(text)]
    assert [word for piece in pieces for word, _ in gpt2.pre_tokenize_str(piece)] == words


@pytest.mark.parametrize("spaces", [[" ", "\n", "\n\n", "\r\n", "  \n\t"], [" ", "\r\n"], ["\n", "\n\n"]])
@pytest.mark.parametrize("seed", range(8))
def test_pieces_have_the_words_of_the_whole_under_llama3s_pattern(
    monkeypatch: pytest.MonkeyPatch, seed: int, spaces: list[str]
) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 200)
    text = noise(seed, spaces, 2000)
    llama3 = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    words = [word for word, _ in llama3.pre_tokenize_str(text)]
    assert [word for piece in pieces_of(text) for word, _ in llama3.pre_tokenize_str(piece)] == words


def test_pieces_of_real_text_have_gpt2s_ids_of_the_whole(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 1000)
    tokenizer = load_tokenizer(shared / "tokenizers" / "gpt2")
    text = (shared / "corpora" / "wikitext2-valid.txt").read_text()[:300_000]
    pieces = pieces_of(text)
    assert len(pieces) > 250
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert [id for piece in tokenizer.encode_batch(pieces) for id in piece.tolist()] == ids


def test_pieces_do_not_depend_on_how_the_text_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 50)
    text = noise(0, [" ", "\n", ""])
    for step in (1, 7, 49, 50, 51, 333):
        stretches = [(text[start : start + step], False) for start in range(0, len(text), step)]
        assert [piece.text for piece in cut_pieces([*stretches, ("", True)])] == pieces_of(text)


def test_text_without_any_space_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 10)
    assert pieces_of("a" * 25) == ["a" * 10, "a" * 10, "a" * 5]
    assert pieces_of(" " * 25) == [" " * 10, " " * 10, " " * 5]


def test_documents_come_whole_in_order_without_blank_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_CHARACTERS", 16)
    monkeypatch.setattr("gptcli.data.compression.CHUNK_BYTES", 5)
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbffirst line\r\nand \x00 second, long enough<eot> \n<eot>another")
    (tmp_path / "c.jsonl").write_text('{"text": "row one"}\n{"text": " "}\n{"text": "row two<eot>"}\n')
    (tmp_path / "a.txt").write_text("")
    found = list(corpus_documents([str(tmp_path)], DataConfig(document_separator="<eot>"), tmp_path / "cache"))
    text, rows = str(tmp_path / "b.txt"), str(tmp_path / "c.jsonl")
    assert found == [
        Document("first line\r\nand \x00 second, long enough", text),
        Document("another", text),
        Document("row one", rows),
        Document("row two<eot>", rows),
    ]


def test_a_missing_source_is_an_error_before_anything_is_read() -> None:
    with pytest.raises(DataError, match="there is no corpus"):
        corpus_documents(["missing.txt"], DataConfig())
