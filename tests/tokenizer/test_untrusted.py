"""An untrusted tokenizer.json is tried in a separate process before it is opened here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from gptcli import limited_process
from gptcli.errors import TokenizerError
from gptcli.tokenizer import library, trial, untrusted
from gptcli.tokenizer.byte_level import CHARACTER_OF_BYTE
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

VOCABULARY = {token: id for id, token in enumerate(["<unk>", "a", "b", " ", "▁", "ab"])}


def written(path: Path, **sections: Any) -> Path:
    file = path / "tokenizer.json"
    bpe = {"type": "BPE", "unk_token": "<unk>", "vocab": VOCABULARY, "merges": [["a", "b"]]}
    empty = dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
    file.write_text(json.dumps({"version": "1.0", "added_tokens": [], **empty, "model": bpe} | sections))
    return file


FAILING: dict[str, tuple[dict[str, Any], str]] = {
    "a table that aborts": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        r"crashed \(SIGABRT\)",
    ),
    "a table that is none": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "Precompiled"),
    "merges without their prefix": (
        {
            "model": {
                "type": "BPE",
                "continuing_subword_prefix": "###",
                "vocab": {"a": 0, "é": 1, "aé": 2},
                "merges": [["a", "é"]],
            }
        },
        "slice index",
    ),
    "a decoder that strips more than there is": (
        {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}},
        "index out of bounds",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_of_the_library_gives_one_line(tmp_path: Path, name: str) -> None:
    sections, reason = FAILING[name]
    with pytest.raises(TokenizerError, match=f"tokenizer.json is not used: .*{reason}") as failure:
        load_tokenizer(written(tmp_path, **sections))
    assert len(str(failure.value)) < 500 and "Panic" not in str(failure.value)


def test_a_tokenizer_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    run = limited_process.run
    monkeypatch.setattr(limited_process, "run", lambda module, *others: (tried.append(module), run(module, *others))[1])
    path = written(tmp_path, normalizer={"type": "Lowercase"})
    assert load_tokenizer(path).encode("AB a") == load_tokenizer(path).encode("ab A") == [5, 3, 1]
    assert tried == ["gptcli.tokenizer.trial"]
    load_tokenizer(written(tmp_path, normalizer={"type": "NFKC"}))
    assert len(tried) == 2
    with pytest.raises(TokenizerError):
        load_tokenizer(written(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": ""}))
    with pytest.raises(TokenizerError):
        load_tokenizer(written(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": ""}))
    assert len(tried) == 4


def test_a_cache_that_cannot_be_written_costs_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load_tokenizer(written(tmp_path, normalizer={"type": "Lowercase"})).encode("A") == [1]


def test_known_structures_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bpe: Tokenizer) -> None:
    monkeypatch.setattr(untrusted, "try_once", lambda content: pytest.fail("it was tried"))
    bpe.save(tmp_path)
    assert load_tokenizer(tmp_path).encode("Once upon") == bpe.encode("Once upon")
    written(tmp_path, normalizer={"type": "NFC"}, decoder={"type": "Fuse"})
    assert load_tokenizer(tmp_path).encode("ab") == [5]


def test_a_trial_that_takes_too_long_or_too_much_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, normalizer={"type": "Lowercase"})
    monkeypatch.setattr(untrusted, "PATIENCE", 0.001)
    with pytest.raises(TokenizerError, match="takes more than"):
        load_tokenizer(path)


def test_the_trial_finds_growth_that_the_bounds_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"model": {"type": "BPE", "vocab": VOCABULARY, "unk_token": "<unk>", "merges": []},
            "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}}  # fmt: skip
    with pytest.raises(SystemExit, match="more than 8 times as long"):
        trial.try_text(tokenizers.Tokenizer.from_str(json.dumps(spec)), "a" * 3000)


def test_added_tokens_have_the_ids_of_their_file(tmp_path: Path) -> None:
    token = {"content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    assert load_tokenizer(written(tmp_path, added_tokens=[{"id": 6, **token, "special": True}])).vocab_size == 7
    with pytest.raises(TokenizerError, match="'<s>' the id 9, but the tokenizers library gives it 6"):
        load_tokenizer(written(tmp_path, added_tokens=[{"id": 9, **token, "special": True}]))


def test_a_text_that_takes_too_long_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern of cubic time on letters that the trial has no run of."""
    monkeypatch.setattr(library, "BASE_SECONDS", 0.2)
    splitter = {"type": "Split", "pattern": {"Regex": r"q*q*\s{2}"}, "behavior": "Isolated", "invert": False}
    tokenizer = load_tokenizer(written(tmp_path, pre_tokenizer=splitter))
    assert tokenizer.encode("a b") == [1, 3, 2]
    with pytest.raises(TokenizerError, match="takes more than 0 s for a text of 700 characters"):
        tokenizer.encode("q" * 700)
    with pytest.raises(TokenizerError, match="takes more than"):
        tokenizer.encode("q" * 700, allow_special=True)
    with pytest.raises(TokenizerError, match="takes more than"):
        tokenizer.encoding("q" * 700)


def test_a_panic_while_a_text_is_encoded_or_decoded_is_one_line(tmp_path: Path) -> None:
    fixed = {"type": "FixedLength", "length": 5}
    tokenizer = load_tokenizer(written(tmp_path, pre_tokenizer=fixed))
    broken = json.loads(tokenizer.backend.to_str()) | {"pre_tokenizer": {**fixed, "length": 0}}
    backend = tokenizers.Tokenizer.from_str(json.dumps(broken))
    tokenizer.backend.pre_tokenizer = backend.pre_tokenizer
    for encode in (tokenizer.encode, tokenizer.encoding):
        with pytest.raises(TokenizerError, match="cannot encode the text: chunk size must be non-zero"):
            encode("ab")
    tokenizer.backend.decoder = tokenizers.decoders.Strip("a", 0, 9)
    with pytest.raises(TokenizerError, match="cannot decode its tokens: index out of bounds"):
        tokenizer.decode([1])
    stream = tokenizer.decode_stream()
    stream.step(1)
    with pytest.raises(TokenizerError, match="cannot decode its tokens"):
        stream.finish()


def test_a_vocabulary_of_a_foreign_folder_is_bounded(tmp_path: Path) -> None:
    letters = {CHARACTER_OF_BYTE[byte]: byte for byte in range(256)}
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    for change, reason in (({"x1": 2**32 - 1}, "id 4294967295"), ({"x1": 0}, "an id twice")):
        (tmp_path / "vocab.json").write_text(json.dumps(letters | change))
        with pytest.raises(TokenizerError, match=f"vocab.json is not used: its vocabulary has .*{reason}"):
            load_tokenizer(tmp_path)
