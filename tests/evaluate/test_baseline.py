"""xz's bits per byte are those of the program, for the text that a split or a document holds."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.evaluate import baseline
from gptcli.evaluate.baseline import TextPrefix, baseline_of_shards, xz_bits_per_byte
from gptcli.evaluate.report import PerplexityReport
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer
from measuring import evaluate_shards, evaluate_texts

WORDS = ["the", "rain", "an", "owl", "sleeps", "on", "oak", "river", "Mara's", "café", "left", "—", "nine"]


def text_of(words: int) -> str:
    draw = random.Random(words)
    return " ".join(draw.choice(WORDS) for _ in range(words)) + "\n"


def shards_of(folder: Path, tokenizer: Tokenizer, texts: list[str], lost: int = 0) -> TokenShards:
    """The texts as a split, each said to have `lost` bytes more than its tokens give back."""
    with ShardWriter(folder, tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for text in texts:
            writer.add(np.array(tokenizer.encode(text)), len(text.encode()) + lost, starts=True)
    return TokenShards.open(folder)


@pytest.mark.parametrize("size", [1_000, 30_000, 300_000])
def test_bits_are_those_of_the_preset_with_its_own_dictionary(size: int) -> None:
    text = text_of(size // 4).encode()[:size]
    assert xz_bits_per_byte(text) == pytest.approx(8 * len(lzma.compress(text, preset=9)) / size, rel=0.002)


def test_a_split_and_its_documents_have_the_same_baseline(
    unigram_model: Callable[[torch.Tensor], GPT], byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = [text_of(100), text_of(300), text_of(50)]
    expected = xz_bits_per_byte("".join(texts).encode())
    shards = shards_of(tmp_path, byte_tokenizer, texts)
    found = baseline_of_shards(byte_tokenizer, shards)
    assert (found.bits_per_byte, found.bytes, found.is_cut) == (expected, sum(len(t.encode()) for t in texts), False)
    model = unigram_model(torch.linspace(0, 3, byte_tokenizer.vocab_size))
    for evaluation in (
        evaluate_shards(model, byte_tokenizer, shards, "split"),
        evaluate_texts(model, byte_tokenizer, [Document(text, "t") for text in texts]),
    ):
        assert evaluation.baseline == found
        assert PerplexityReport(evaluation, "m").as_dict()["xz_bits_per_byte"] == expected
        assert f"; xz -9 needs {expected:.2f} for the same text" in PerplexityReport(evaluation, "m").text()


@pytest.mark.parametrize("sizes", [[5_000], [400, 5_000], [1_900, 3_000], [900, 900, 900, 900]])
def test_a_long_text_is_cut(
    byte_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr(baseline, "MOST_BYTES", 2_000)
    texts = [text_of(size)[:size].replace("é", "e").replace("—", "-") for size in sizes]
    found = baseline_of_shards(byte_tokenizer, shards_of(tmp_path, byte_tokenizer, texts))
    assert found.bits_per_byte == xz_bits_per_byte("".join(texts).encode()[:2_000])
    assert (found.bytes, found.is_cut, found.text) == (2_000, True, "the first 0.002 MB of this text")


def test_a_text_that_its_tokens_do_not_give_back_is_not_compressed(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = baseline_of_shards(byte_tokenizer, shards_of(tmp_path, byte_tokenizer, [text_of(500)], lost=40))
    assert found.bits_per_byte is None
    assert found.reason == "the tokenizer does not give the text back"


def test_a_short_text_has_no_baseline() -> None:
    """xz's headers alone would be bits of every byte."""
    prefix = TextPrefix()
    prefix.add("Short, and to the point.", 24)
    assert prefix.baseline().bits_per_byte is None
    assert "below 1,000 bytes" in prefix.baseline().reason
