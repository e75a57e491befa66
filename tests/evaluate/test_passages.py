"""The most surprising passages, against brute force."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.evaluate.passages import PASSAGE_TOKENS, SHORTEST_TAIL, WorstPassages, passage_edges
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer
from measuring import evaluate_texts


@pytest.mark.parametrize("length", [0, 1, 31, 64, 65, 95, 96, 97, 128, 200, 1000])
def test_passages_cover_all_scored_tokens_without_overlap(length: int) -> None:
    edges = passage_edges(length)
    assert edges[-1] == length
    sizes = np.diff(edges)
    assert sizes.sum() == length - edges[0]
    if length > PASSAGE_TOKENS:
        assert sizes.min() >= SHORTEST_TAIL
        assert sizes.max() < PASSAGE_TOKENS + SHORTEST_TAIL


@pytest.mark.parametrize("count", [0, 1, 4, 1000])
def test_the_worst_are_those_that_sorting_all_would_give(byte_tokenizer: Tokenizer, count: int) -> None:
    generator = np.random.default_rng(0)
    worst, means = WorstPassages(count, byte_tokenizer), []
    for document in range(1, 6):
        losses = generator.exponential(size=int(generator.integers(1, 500)))
        ids = generator.integers(97, 123, size=len(losses), dtype=np.uint32)
        worst.consider("x", document, ids, losses)
        edges = passage_edges(len(losses))
        means += [losses[a:b].mean() for a, b in pairwise(edges)]
    assert [passage.loss for passage in worst.passages()] == pytest.approx(sorted(means, reverse=True)[:count])


def test_a_planted_passage_is_found_with_the_text_around_it(
    unigram_model: Callable[[torch.Tensor], GPT], byte_tokenizer: Tokenizer
) -> None:
    """To this model every z is a surprise and every Q a greater one; nothing else is."""
    logits = torch.zeros(byte_tokenizer.vocab_size)
    logits[byte_tokenizer.encode("z")] = -5.0
    logits[byte_tokenizer.encode("Q")] = -9.0
    calm = "all is well in the harbour town today, all is well, I tell you! "
    assert len(calm) == PASSAGE_TOKENS
    planted = "z" * 40 + "Q" + "z" * 23
    texts = [Document(calm * 4, "calm.txt"), Document(calm * 2 + planted + calm, "storm.txt")]
    found = evaluate_texts(unigram_model(logits), byte_tokenizer, texts, worst=1)
    (passage,) = found.worst
    assert (passage.source, passage.document, passage.position, passage.tokens) == ("storm.txt", 1, 128, 64)
    assert (passage.before, passage.text, passage.after) == (calm[-32:], planted, calm[:32])
    assert passage.peak == "Q"
    assert passage.peak_nats == pytest.approx(passage.loss + 4 - 4 / 64)


def test_passages_show_whole_characters_also_where_tokens_are_bytes(byte_tokenizer: Tokenizer) -> None:
    text = "é" * 100 + "漢字" * 50
    ids = np.array(byte_tokenizer.encode(text))
    losses = np.ones(len(ids))
    losses[3] = losses[331] = 9.0  # the second byte of an é, and a byte of a Chinese character
    worst = WorstPassages(100, byte_tokenizer)
    worst.consider("x", 1, ids, losses)
    for passage in worst.passages():
        assert "\ufffd" not in passage.before + passage.text + passage.after
    assert [passage.peak for passage in worst.passages()[:2]] in (["é", "字"], ["字", "é"])
    invalid = np.full(40, byte_tokenizer.encode("é")[1])
    worst.consider("y", 1, invalid, np.full(40, 99.0))
    assert worst.passages()[0].peak == "\\xa9"
