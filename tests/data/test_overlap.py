"""The overlap of a validation split with its training split: counted as a plain set of n-grams would count it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_files import write_rows
from gptcli.data import overlap
from gptcli.data.config import DataConfig, DataSettings
from gptcli.data.inspect import inspect, prepare
from gptcli.data.overlap import Overlap, measure_overlap, overlap_warning, overlap_words
from gptcli.data.prepare import prepare_corpus, scan_corpus
from gptcli.data.workspace import Workspace

from .conftest import WriteShards

EOS = 256
WORDS = [f"{a}{b}" for a in ("ba", "co", "du", "fe", "gi", "lo", "mu") for b in ("ran", "tel", "sor", "vin", "nak")]


def ngrams(documents: Sequence[list[int]], length: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + length]) for ids in documents for i in range(len(ids) - length + 1)]


def random_text(seed: int, words: int = 300) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


@pytest.mark.parametrize("eos", [EOS, None])
def test_every_ngram_within_a_document_is_counted_as_a_set_counts_it(
    write_shards: WriteShards, monkeypatch: pytest.MonkeyPatch, eos: int | None
) -> None:
    draw = random.Random(3)
    train = [[draw.randrange(256) for _ in range(draw.randrange(1, 300))] for _ in range(20)]
    val = [[draw.randrange(256) for _ in range(draw.randrange(1, 120))] for _ in range(6)]
    val[1:1] = [train[4][10:90], train[7] + val[0], [1] * 60, [1] * 40]
    train.append([1] * 70)
    monkeypatch.setattr(overlap, "BLOCK", 64)
    monkeypatch.setattr(overlap, "READ_TOKENS", 200)
    monkeypatch.setattr(overlap, "NGRAM_BYTES", 0)
    shards = [write_shards(part, eos_id=eos, name=name) for part, name in ((val, "val"), (train, "train"))]
    known, looked_for = set(ngrams(train, 13)), ngrams(val, 13)
    if eos is None:  # nothing in the stream tells documents apart, so that n-grams of two of them are training n-grams
        known = set(ngrams([[id for ids in train for id in ids]], 13))
    (found,) = measure_overlap(shards[:1], shards[1:])
    assert found == Overlap(13, len(looked_for), sum(one in known for one in looked_for))
    assert 0 < found.found < found.sampled


def test_a_sample_estimates_the_share_of_all_ngrams(write_shards: WriteShards, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)
    train = [[min(255, int(draw.expovariate(0.02))) for _ in range(40_000)]]
    val = [
        train[0][start : start + 200] if start % 3 else train[0][start : start + 60] * 3
        for start in range(0, 40_000, 501)
    ]
    val += [[min(255, int(draw.expovariate(0.02))) for _ in range(9_000)]]
    shards = [write_shards(part, name=name, shard_bytes=1 << 20) for part, name in ((val, "val"), (train, "train"))]
    (exact,) = measure_overlap(shards[:1], shards[1:])
    monkeypatch.setattr(overlap, "SAMPLED", 2_000)
    (sampled,) = measure_overlap(shards[:1], shards[1:])
    assert 500 < sampled.sampled < 4_000 < exact.sampled
    assert exact.share is not None and sampled.share == pytest.approx(exact.share, abs=0.03)


def test_tokens_that_stand_for_little_text_make_longer_ngrams(write_shards: WriteShards) -> None:
    (found,) = measure_overlap([write_shards([[1, 2] * 60], name="val")], [write_shards([[1, 2] * 20])])
    assert found.ngram_tokens == 51  # a byte a token, the end-of-text token included: 121 tokens for 120 bytes


def test_a_validation_split_of_short_documents_has_an_unknown_overlap(write_shards: WriteShards) -> None:
    (found,) = measure_overlap([write_shards([[1, 2]] * 9, name="val")], [write_shards([[1, 2] * 20])])
    assert found.share is None and "not known" in overlap_words(found.as_json())
    assert overlap_warning({"ngram_overlap": found.as_json()}) is None


def versions(count: int, edited: int = 4) -> list[str]:
    texts = [random_text(number).split() for number in range(count)]
    return [
        " ".join(word if random.Random(f"{n}{v}{i}").random() > 0.03 * v else "other" for i, word in enumerate(words))
        for n, words in enumerate(texts)
        for v in range(edited)
    ]


PREFIXES = [random_text(99, words=400 * part) for part in range(1, 11)]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
@pytest.mark.parametrize(
    ("texts", "warns"),
    [(versions(20), True), (PREFIXES, True), ([random_text(number) for number in range(80)], False)],
    ids=["twenty texts in four versions", "ten prefixes of one text", "unrelated texts"],
)
def test_near_duplicates_across_the_split_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: str, texts: list[str], warns: bool
) -> None:
    source = write_rows(tmp_path / "rows.jsonl", texts)
    settings = DataSettings.model_validate({"data": {"corpus": (source,), "tokenizer": tokenizer}})
    report = prepare(settings, tmp_path / "cache")
    share = report["ngram_overlap"]["share"]
    assert (share > 0.3) if warns else (share < 0.02)
    assert ("warning" in capsys.readouterr().err) == warns
    again = prepare(settings, tmp_path / "cache")
    assert again["from_cache"] and again["ngram_overlap"] == report["ngram_overlap"]
    train, val = inspect(settings, tmp_path / "cache", windows=0)
    assert train["ngram_overlap"] is None and val["ngram_overlap"] == report["ngram_overlap"]


def test_each_corpus_of_a_mix_is_compared_with_the_training_text_of_all(tmp_path: Path) -> None:
    shared = [random_text(number) for number in range(40)]
    first = write_rows(tmp_path / "first.jsonl", shared)
    second = write_rows(tmp_path / "second.jsonl", [f"{text} and one word more" for text in shared])
    alone = [random_text(number) for number in range(100, 140)]
    third = write_rows(tmp_path / "third.jsonl", alone)
    mix = tuple({"corpus": source, "weight": 1} for source in (first, second, third))
    settings = DataSettings.model_validate({"data": {"mix": mix, "tokenizer": "byte"}})
    report = prepare(settings, tmp_path / "cache")
    shares = [one["ngram_overlap"]["share"] for one in report["mix"]]
    assert min(shares[:2]) > 0.5 and shares[2] < 0.02
    assert shares[2] < report["ngram_overlap"]["share"] < max(shares)
    assert "data.val" not in str(overlap_warning(report))  # which a mix refuses


def test_the_overlap_does_not_depend_on_the_names_of_files(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"tokenizer": "byte"})
    reports = []
    for name in ("one", "two"):
        source = write_rows(tmp_path / f"{name}.jsonl", versions(20))
        reports.append(
            prepare_corpus(
                scan_corpus([source], Workspace(config, tmp_path / "cache")), Workspace(config, tmp_path / name)
            ).report
        )
    assert reports[0]["ngram_overlap"] == reports[1]["ngram_overlap"]
