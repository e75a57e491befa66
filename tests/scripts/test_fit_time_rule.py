"""The fit finds a law again from runs that it made, and a collection goes on where it was stopped."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptcli.train.planning.scaling_law import LAW_FILE, excess_bits
from gptcli.train.run import TrainRequest, train


@pytest.fixture(scope="module")
def time_rule(root: Path) -> Any:
    sys.path.insert(0, str(root / "scripts"))
    import time_rule.collect
    import time_rule.fit

    sys.path.remove(str(root / "scripts"))
    return time_rule


def runs(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Shapes and lengths as a collection has them, without losses."""
    made = []
    for number in range(count):
        layers, width = generator.choice([1, 2, 4, 6]), generator.choice([64, 128, 256])
        vocabulary, tokens = (
            generator.choice([(512, 1.9), (1024, 2.4), (4096, 3.2)]),
            generator.choice([512, 1024, 4096]),
        )
        unique = generator.choice([10**5, 10**6, 10**7])
        seen = min(2 ** generator.uniform(17, 25), 40 * unique)
        made.append({
            "corpus": generator.choice(["prose", "code", "letters"]), "number": number, "unique_bytes": unique,
            "n_layer": layers, "n_embd": width, "weights": 12 * layers * width**2, "vocab_size": vocabulary[0],
            "bytes_per_token": vocabulary[1], "context_length": generator.choice([64, 128, 256]),
            "tokens_per_step": tokens, "bytes_seen": seen,
        })  # fmt: skip
    return made


@pytest.mark.slow
def test_a_law_is_found_again_from_the_runs_that_it_foretells(time_rule: Any) -> None:
    fit, generator = time_rule.fit, random.Random(7)
    truth = fit.PRIOR._replace(a=30.0, alpha=0.36, b=50.0, beta=0.3, k=3.0, repeats=9.0)
    lines = runs(generator, 240)
    records = fit.as_records([line | {"bits_per_byte": 0.0} for line in lines])
    entropies = {"prose": 0.9, "code": 0.5, "letters": 1.1}
    noise = np.random.default_rng(0).normal(0, 0.01, len(lines))
    bits = excess_bits(truth, records.runs) + [entropies[line["corpus"]] for line in lines] + noise
    bits[::40] += 0.5  # runs that went wrong
    found = fit.fit_law(records._replace(bits=bits))
    good = np.ones(len(lines), dtype=bool)
    good[::40] = False
    assert fit.rms(found.residuals[good]) < 0.02
    assert np.median(found.residuals[::40]) == pytest.approx(0.5, abs=0.05)
    others = fit.as_records([line | {"bits_per_byte": 0.0} for line in runs(random.Random(8), 200)])
    foretold, true = excess_bits(found.law, others.runs), excess_bits(truth, others.runs)
    assert np.corrcoef(foretold, true)[0, 1] > 0.995


def test_hubers_loss_is_quadratic_near_nothing_and_linear_far_from_it(time_rule: Any) -> None:
    squares = time_rule.fit.huber(np.array([0.5, -1.5, 2.0, 10.0, 11.0, -11.0])) ** 2
    assert squares[:3].tolist() == pytest.approx([0.25, 2.25, 4.0])
    assert squares[4] - squares[3] == pytest.approx(2 * time_rule.fit.HUBER) and squares[4] == squares[5]


def test_least_squares_meet_rosenbrocks_valley(time_rule: Any) -> None:
    found = time_rule.fit.levenberg_marquardt(lambda v: np.array([1 - v[0], 10 * (v[1] - v[0] ** 2)]), np.zeros(2) - 1)
    assert found.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_the_shipped_law_is_what_the_shipped_records_give(time_rule: Any, root: Path) -> None:
    shipped = json.loads(LAW_FILE.read_text())
    recorded = time_rule.collect.read_runs(root / "scripts" / "time_rule" / "runs.jsonl")
    assert shipped["runs"] == sum(map(time_rule.fit.counts, recorded))
    assert set(shipped["law"]) == set(time_rule.fit.PRIOR._fields)


@pytest.mark.slow
def test_a_collection_records_each_run_once_and_goes_on(time_rule: Any, root: Path, tmp_path: Path) -> None:
    corpus, path = tmp_path / "corpus.txt", tmp_path / "runs.jsonl"
    corpus.write_text((root / "data" / "stories.txt").read_text()[:150_000])
    flops = (1e10, 1e11)
    time_rule.collect.collect([f"tales={corpus}"], path, time_rule.collect.Plan(1, flops, None), tmp_path / "cache")
    (first,) = time_rule.collect.read_runs(path)
    time_rule.collect.collect([f"tales={corpus}"], path, time_rule.collect.Plan(2, flops, None), tmp_path / "cache")
    again, second = time_rule.collect.read_runs(path)
    assert again == first and (second["corpus"], second["number"]) == ("tales", 1)
    for run in (first, second):
        assert 0 < run["bits_per_byte"] < 8 and run["optim"]["name"] == "muon"
        assert run["tokens"] == run["steps"] * run["tokens_per_step"]
        assert run["epochs"] == pytest.approx(run["bytes_seen"] / run["unique_bytes"], rel=0.01)
    time_rule.fit.as_records([first, second])


def test_a_finished_run_is_adopted_under_the_name_of_its_corpus(time_rule: Any, root: Path, tmp_path: Path) -> None:
    corpus, path, run = tmp_path / "corpus.txt", tmp_path / "runs.jsonl", tmp_path / "run"
    corpus.write_text((root / "data" / "stories.txt").read_text()[:150_000])
    path.write_text(json.dumps({"corpus": "tales", "number": 4}) + "\n")
    shape = ("model.n_layer=1", "model.n_embd=32", "model.context_length=32", "train.max_steps=4", "device=cpu")
    summary = train(TrainRequest(corpus=(str(corpus),), assignments=shape, out=run))
    time_rule.collect.adopt([f"tales={run}"], path)
    _, adopted = time_rule.collect.read_runs(path)
    assert (adopted["corpus"], adopted["number"], adopted["steps"]) == ("tales", 5, 4)
    assert adopted["bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], abs=1e-4)
    assert adopted["bytes_seen"] == pytest.approx(adopted["epochs"] * adopted["unique_bytes"], rel=0.01)
