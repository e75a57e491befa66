"""The index of the training text finds every phrase that stands in it, and none that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcli.data.shards import TokenShards
from gptcli.data.suffix_array import LIMITS, IndexLimits, SuffixArray
from gptcli.data.token_mix import TokenMix

FRAMINGS = [{"eos_id": None}, {"eos_id": 256}, {"eos_id": 256, "end_id": 257}]


def longest_by_search(ids: list[int], documents: list[list[int]]) -> list[int]:
    """The longest match that starts at each position, by looking at every place of every document."""
    found = []
    for start in range(len(ids)):
        best = 0
        for document in documents:
            for place in range(len(document)):
                length = 0
                while (
                    start + length < len(ids)
                    and place + length < len(document)
                    and ids[start + length] == document[place + length]
                ):
                    length += 1
                best = max(best, length)
        found.append(best)
    return found


def random_documents(seed: int, symbols: int, lengths: list[int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(symbols, size=length).tolist() for length in lengths]


DOCUMENTS = random_documents(0, 3, [5, 1, 40, 17, 9, 30, 2, 33, 12, 40, 26, 8, 39, 21, 1, 14, 36, 40, 11, 28])


def index_of(shards: TokenShards, cache: Path, limits: IndexLimits = LIMITS) -> SuffixArray:
    return SuffixArray.open_or_build(TokenMix.of_one(shards), cache, limits)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("block_tokens", [8 * 43, 1 << 20])
@pytest.mark.parametrize(("vocab_size", "width"), [(260, 2), (70_000, 3)])
def test_matches_are_those_of_a_search_through_all_documents(
    write_shards, cache: Path, framing: dict, block_tokens: int, vocab_size: int, width: int
) -> None:
    shards = write_shards(DOCUMENTS, vocab_size=vocab_size, **framing)
    index = index_of(shards, cache, IndexLimits(1 << 30, block_tokens * width))
    assert index.sampled == 1 and len(index.blocks) == (1 if block_tokens == 1 << 20 else 2)
    ids = random_documents(1, 3, [60])[0] + DOCUMENTS[2] + DOCUMENTS[5]
    matches = index.longest(np.array(ids))
    assert matches.lengths.tolist() == longest_by_search(ids, DOCUMENTS)
    for start, (length, place) in enumerate(zip(*matches, strict=True)):
        if length:
            found = index.locate(int(place))
            assert shards.read(found.token, found.token + length).tolist() == ids[start : start + length]
            first, last = shards.document_bounds(found.document)
            assert first <= found.token and found.token + length <= last


def test_occurrences_are_all_places_of_a_phrase(write_shards, cache: Path) -> None:
    shards = write_shards(DOCUMENTS)
    index = index_of(shards, cache, IndexLimits(1 << 30, 8 * 43 * 2))
    for length in (1, 2, 5, 40, 41):
        phrase = [*DOCUMENTS[2], 7][:length]
        places = [
            (number, start)
            for number, document in enumerate(DOCUMENTS)
            for start in range(len(document))
            if document[start : start + length] == phrase
        ]
        found = [index.locate(int(place)) for place in index.occurrences(np.array(phrase), 10**6)]
        assert sorted((at.document, at.token - shards.document_bounds(at.document)[0]) for at in found) == places
        assert len(index.occurrences(np.array(phrase), 2)) == min(2, len(places))


def test_a_document_longer_than_a_block_is_found_across_its_windows(write_shards, cache: Path) -> None:
    document = np.random.default_rng(3).integers(250, size=3_000).tolist()
    index = index_of(write_shards([document]), cache, IndexLimits(1 << 30, 8 * 100 * 2))
    lengths = index.longest(np.array(document)).lengths
    assert len(index.blocks) > 1 and lengths[:-50].min() >= 50  # windows of 100 tokens overlap by 50


def test_a_sample_of_the_documents_is_indexed_above_the_limit_and_said(
    write_shards, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = random_documents(4, 250, [20] * 200)
    index = index_of(write_shards(documents), cache, IndexLimits(200 * 21 * 2 // 4, 1 << 20))
    assert index.sampled == pytest.approx(0.25, abs=0.01)
    assert "25.0% of its tokens are searched" in capsys.readouterr().err
    whole = [int(index.longest(np.array(document)).lengths[0] == 20) for document in documents]
    assert sum(whole) == 50 and all(sum(whole[start : start + 4]) == 1 for start in range(0, 200, 4))


def test_planted_spans_of_8_to_200_tokens_are_found_and_none_is_invented(write_shards, cache: Path) -> None:
    rng = np.random.default_rng(5)
    documents = rng.integers(250, size=(60, 1_000))
    index = index_of(write_shards(documents.tolist(), shard_bytes=1 << 20), cache)
    for length in np.linspace(8, 200, 100).astype(int):
        source, start = int(rng.integers(60)), int(rng.integers(1_000 - length))
        text = rng.integers(250, size=600)
        at = int(rng.integers(600 - length))
        text[at : at + length] = documents[source, start : start + length]
        lengths, places = index.longest(text)
        inside = np.zeros(600, dtype=bool)
        inside[max(0, at - 3) : at + length] = True  # chance may add a token or two on either side
        assert length <= lengths[at] <= length + 3 and lengths[~inside].max() < 8
        assert index.locate(int(places[at])).document == source


def test_an_index_is_opened_again_from_the_cache(write_shards, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_shards(DOCUMENTS)
    built = index_of(shards, cache).longest(np.array(DOCUMENTS[3]))
    monkeypatch.setattr("gptcli.data.suffix_array.build", None)
    opened = index_of(shards, cache).longest(np.array(DOCUMENTS[3]))
    assert built.lengths.tolist() == opened.lengths.tolist()
