"""Copied spans are the planted ones, and the validation text is measured in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.data.suffix_array import SuffixArray
from gptcli.data.token_mix import TokenMix
from gptcli.evaluate.copies import baseline_of, copied_spans, fewest_tokens, find_copies
from gptcli.tokenizer.framing import DocumentFraming

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(250, size=(40, 1_000))


def write(folder: Path, documents: np.ndarray, bytes_per_token: int = 1) -> TokenShards:
    with ShardWriter(folder, 300, DocumentFraming(256), "tokenizer") as writer:
        for ids in documents:
            writer.add(ids.astype(np.uint32), size=len(ids) * bytes_per_token, starts=True)
    return TokenShards.open(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SuffixArray:
    folder = tmp_path_factory.mktemp("copies")
    return SuffixArray.open_or_build(TokenMix.of_one(write(folder / "train", TRAIN)), folder / "cache")


def stands_in_training(ids: np.ndarray) -> bool:
    wanted = ids.astype("<u2").tobytes()
    documents = (document.astype("<u2").tobytes() for document in TRAIN)
    return any((at := text.find(wanted)) >= 0 and at % 2 == 0 for text in documents)


def test_100_of_100_planted_spans_are_found_and_none_is_invented(index: SuffixArray) -> None:
    rng = np.random.default_rng(1)
    for length in np.linspace(8, 200, 100).astype(int):
        text = rng.integers(250, size=600)
        at, source, start = int(rng.integers(1, 599 - length)), int(rng.integers(40)), int(rng.integers(1_000 - length))
        text[at : at + length] = TRAIN[source, start : start + length]
        (span,) = copied_spans(index, text, 8)
        assert span.start <= at and span.stop >= at + length
        assert stands_in_training(text[span.start : span.stop])
        assert not stands_in_training(text[span.start - 1 : span.stop] if span.start else text[: span.stop + 1])
        assert span.stop == len(text) or not stands_in_training(text[span.start : span.stop + 1])
        assert index.locate(span.place).document == source
        assert copied_spans(index, text, span.stop - span.start + 1) == []


def test_only_what_exceeds_the_share_of_the_validation_text_is_copying(index: SuffixArray, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    val = rng.integers(250, size=(4, 100))
    val[0, 10:60] = TRAIN[3, 100:150]
    texts = [np.concatenate([TRAIN[7, :40], rng.integers(250, size=60)]), rng.integers(250, size=100)]
    report = find_copies(index, texts, write(tmp_path / "val", val), 12)
    assert [len(spans) for spans in report.spans] == [1, 0]
    assert report.texts.share == pytest.approx(0.2, abs=0.015) and 40 <= report.texts.longest <= 42
    assert report.baseline.share == pytest.approx(0.125, abs=0.01)
    assert report.excess == pytest.approx(report.texts.share - report.baseline.share)
    figures = report.report()["texts"]
    assert figures["texts"] == 2 and figures["interval"] == pytest.approx([0, 0.41], abs=0.02)
    assert report.baseline.report()["interval"][1] > report.baseline.share
    assert find_copies(index, texts[1:], write(tmp_path / "other", val), 12).excess == 0


def test_a_span_has_about_50_bytes_and_at_least_8_tokens(tmp_path: Path) -> None:
    one, four, ten = (TokenMix.of_one(write(tmp_path / str(size), TRAIN, size)) for size in (1, 4, 10))
    assert (fewest_tokens(one), fewest_tokens(four), fewest_tokens(ten)) == (51, 13, 8)


def test_the_validation_text_is_cut_into_texts_as_long_as_the_samples(index: SuffixArray, tmp_path: Path) -> None:
    val = write(tmp_path / "val", TRAIN[:2, :100])  # copied whole, but a window of 10 tokens holds no span of 12
    assert [baseline_of(index, val, 12, window).copied for window in (100, 50, 12, 10)] == [200, 200, 192, 0]
    assert baseline_of(index, val, 12, 30).tokens == 180 and baseline_of(index, val, 12, 500).tokens == 200
