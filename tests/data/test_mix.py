"""A mix of corpora: each is prepared as if alone, and no validation document of one is trained on in another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_files import write_rows
from gptcli.data.batches import Batches, ShardSequences
from gptcli.data.config import DataConfig
from gptcli.data.mix import prepare_mix, scan_mix
from gptcli.data.prepare import prepare_corpus, scan_corpus
from gptcli.data.token_mix import TokenMix
from gptcli.data.worker_pool import WorkerConfig
from gptcli.data.workspace import Workspace
from gptcli.errors import ConfigError, DataError

WORDS = {"a": "apple ant arm ", "b": "bee bread bone ", "c": "cat cold cup "}
WORKERS = WorkerConfig(workers=1, section_bytes=3000)


def texts_of(name: str) -> list[str]:
    return [f"{WORDS[name] * (1 + number % 7)}{number}" for number in range({"a": 300, "b": 100, "c": 40}[name])]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Three corpora; some documents of `a` are also in `b` and `c`, which have other validation parts."""
    shared = texts_of("a")[:60]
    for name in WORDS:
        rows = texts_of(name) + (shared if name != "a" else [])
        write_rows(tmp_path / f"{name}.jsonl", rows)
    mix = [
        {"corpus": str(tmp_path / f"{name}.jsonl"), "weight": weight}
        for name, weight in zip("abc", (5.0, 3.0, 2.0), strict=True)
    ]
    return DataConfig.model_validate({"mix": tuple(mix), "val_fraction": 0.3, "tokenizer": "byte"})


def test_what_one_corpus_is_validated_on_no_other_is_trained_on(config: DataConfig, tmp_path: Path) -> None:
    mix = scan_mix(Workspace(config, tmp_path / "cache", 0, WORKERS))
    trained = [set(scan.train_texts()) for scan in mix.scans]
    validated = [set(scan.val_texts()) for scan in mix.scans]
    for number, train in enumerate(trained):
        assert not train & set().union(*validated)
        alone = scan_corpus(config.mix[number].corpus, Workspace(config, tmp_path / "cache", 0, WORKERS))
        others = set().union(*(val for other, val in enumerate(validated) if other != number))
        assert train == set(alone.train_texts()) - others and validated[number] == set(alone.val_texts())
        scan = mix.scans[number]
        assert scan.overlap == len(set(alone.train_texts()) & others)
        assert (scan.train.documents, scan.train.bytes) == (len(train), sum(len(text.encode()) for text in train))
    assert sum(scan.overlap for scan in mix.scans) > 0
    again = scan_mix(Workspace(config, tmp_path / "cache", 0, WORKERS))
    assert again.report() == mix.report()


def test_the_tokens_of_a_mix_are_those_of_its_corpora(config: DataConfig, tmp_path: Path) -> None:
    mix = scan_mix(Workspace(config, tmp_path / "cache", 0, WORKERS))
    data = prepare_mix(mix, Workspace(config, tmp_path / "cache", workers=WORKERS))
    assert data.names == data.train.names == ("a", "b", "c")
    for scan, train, val in zip(mix.scans, data.train.parts, data.vals, strict=True):
        alone = prepare_corpus(scan, Workspace(config, tmp_path / "other", workers=WorkerConfig(1)), data.tokenizer)
        assert (alone.train.fingerprint, alone.val.fingerprint) == (train.fingerprint, val.fingerprint)
    whole = np.concatenate([val.read(0, len(val)) for val in data.vals])
    assert np.array_equal(data.val.read(0, len(data.val)), whole)
    assert data.val.documents == sum(val.documents for val in data.vals)
    assert [one["name"] for one in data.report["mix"]] == ["a", "b", "c"] and data.report["mix"][0]["weight"] == 0.5
    assert prepare_mix(mix, Workspace(config, tmp_path / "cache", workers=WORKERS)).from_cache


@pytest.mark.parametrize("tokenizer", ["char", {"name": "bpe", "vocab_size": 300}])
def test_a_tokenizer_of_a_mix_learns_from_all_training_parts(
    config: DataConfig, tmp_path: Path, tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig.model_validate(config.model_dump() | {"tokenizer": tokenizer})
    mix = scan_mix(Workspace(config, tmp_path / "cache", 0, WORKERS))
    data = prepare_mix(mix, Workspace(config, tmp_path / "cache", workers=WORKERS))
    assert data.report["tokenizer_sample"]["bytes"] == mix.train.bytes
    for text in ("apple", "bread", "cold"):
        assert data.tokenizer.decode(data.tokenizer.encode(text)) == text
    monkeypatch.setattr("gptcli.data.mix.SAMPLE_BYTES", 4000)
    less = prepare_mix(mix, Workspace(config, tmp_path / "cache", workers=WORKERS))
    if config.tokenizer.name == "bpe":
        assert less.report["tokenizer_sample"]["bytes"] < 4100 < mix.train.bytes


def test_sequences_of_a_mix_are_those_of_its_corpora_in_their_turns(write_shards) -> None:
    sizes = (300, 90, 50)
    parts = tuple(
        write_shards([[100 * n + i % 100 for i in range(size)]], vocab_size=400, eos_id=None, name=str(n))
        for n, size in enumerate(sizes)
    )
    mix = TokenMix(("x", "y", "z"), (0.5, 0.3, 0.2), parts)
    batches = Batches(mix, 8, seed=1)
    whole = batches.sequences(range(200))
    owners = whole.input_ids[:, 0] // 100
    assert ((whole.input_ids // 100) == owners[:, None]).all() and ((whole.targets // 100) == owners[:, None]).all()
    for start in range(0, 190, 7):
        for length in (10, 50):
            counts = torch.bincount(owners[start : start + length], minlength=3)
            expected = torch.tensor(mix.weights) * len(owners[start : start + length])
            assert (counts - expected).abs().max() < 2
    single = [batches.sequences([number]) for number in (0, 199, 57)]
    assert all(
        torch.equal(one.input_ids[0], whole.input_ids[number]) for one, number in zip(single, (0, 199, 57), strict=True)
    )
    for owner, part in enumerate(batches.parts):
        mine = whole.input_ids[owners == owner]
        assert torch.equal(mine, part.sequences(range(len(mine))).input_ids), "its epochs, one after another"
    assert batches.epochs(200) == {"x": 100 / 37, "y": 60 / 11, "z": 40 / 6}
    with pytest.raises(DataError, match=r"of the mix, z: the training split holds 50 tokens"):
        Batches(mix, 64, seed=1)


def test_a_single_corpus_has_the_seed_of_the_run_and_each_corpus_of_a_mix_its_own(write_shards) -> None:
    shards = write_shards([list(range(250))], vocab_size=300, eos_id=None)
    alone = Batches(TokenMix.of_one(shards), 8, seed=1).sequences(range(62))
    named = Batches(TokenMix(("x",), (1.0,), (shards,)), 8, seed=1).sequences(range(62))
    assert torch.equal(alone.input_ids, ShardSequences(shards, 8, 1, "cross").sequences(range(62)).input_ids)
    assert not torch.equal(alone.input_ids, named.input_ids)
    assert TokenMix.of_one(shards).fingerprint == shards.fingerprint, "so that runs of one corpus are resumed"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpus": ("x",), "mix": ({"corpus": "y", "weight": 1.0},)}, "corpus and mix are both given"),
        ({"val": "x", "mix": ({"corpus": "y", "weight": 1.0},)}, "val is given with a mix"),
        ({"mix": ({"corpus": "a/x.txt", "weight": 1.0}, {"corpus": "b/x.md", "weight": 1.0})}, "two corpora .* 'x'"),
        ({"mix": ({"corpus": "y", "weight": 0.0},)}, "greater than 0"),
    ],
)
def test_a_mix_that_cannot_be_meant_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig.model_validate(values)


def test_tokens_of_another_program_are_no_part_of_a_mix(tmp_path: Path) -> None:
    config = DataConfig.model_validate({"mix": ({"corpus": "train.bin", "weight": 1.0},)})
    with pytest.raises(ConfigError, match="is a file of tokens"):
        scan_mix(Workspace(config, tmp_path))
