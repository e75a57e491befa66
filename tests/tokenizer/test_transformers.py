"""transformers opens saved tokenizers with the same ids and text, and agrees on GPT-2's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers")

MODEL_CONFIGS = [None, "qwen3", "gpt2", "llama"]
CORPORA = ["tinyshakespeare.txt", pytest.param("wikitext2-valid.txt", marks=pytest.mark.slow)]
CORPORA += [pytest.param("wikitext2-test.txt", marks=pytest.mark.slow)]


@pytest.mark.parametrize("model_type", MODEL_CONFIGS)
def test_auto_tokenizer_gives_the_same_ids_and_text_whatever_model_lies_beside(
    tokenizer: Tokenizer, tmp_path: Path, hard_texts: tuple, prose: tuple, model_type: str | None
) -> None:
    tokenizer.save(tmp_path)
    if model_type:
        config = {"model_type": model_type, "vocab_size": tokenizer.vocab_size}
        (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert theirs.unk_token_id == tokenizer.unk_id
    for text in (*prose, *hard_texts):
        ids = tokenizer.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    marked = "the<|endoftext|>miller"
    assert theirs(marked)["input_ids"] == tokenizer.encode(marked, allow_special=True)


@pytest.mark.parametrize("model_type", MODEL_CONFIGS)
def test_gpt2_s_vocabulary_saved_as_one_file_keeps_its_ids(
    shared: Path, tmp_path: Path, hard_texts: tuple, model_type: str | None
) -> None:
    gpt2 = load_tokenizer(shared / "tokenizers/gpt2")
    gpt2.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Hello world", *hard_texts):
        ids = gpt2.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == 50256


@pytest.mark.parametrize("corpus", CORPORA)
def test_gpt2_s_vocabulary_encodes_a_megabyte_as_transformers_does(shared: Path, corpus: str) -> None:
    folder = shared / "tokenizers/gpt2"
    theirs = transformers.GPT2Tokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    text = (shared / "corpora" / corpus).read_bytes().decode()
    assert len(text.encode()) > 1_000_000
    ids = ours.encode(text)
    # transformers warns about texts longer than GPT-2's context; the ids are all there.
    assert ids == theirs(text, verbose=False)["input_ids"]
    assert ours.decode(ids) == text
