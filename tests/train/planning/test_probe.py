"""The probe measures real steps, and chooses nothing that it has not measured while there is time to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from gptcli.config import merge, parse_assignment
from gptcli.models.config import ModelConfig
from gptcli.optim.config import MuonConfig
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.train.planning import plan, probe
from gptcli.train.planning.probe import ProbeSetup, measure, seconds_per_flop, step_seconds
from gptcli.train.planning.scaling_law import shipped_law
from gptcli.train.planning.step_time import StepTimeModel
from gptcli.train.planning.text_sample import TokenizerFacts
from gptcli.train.planning.time_rule import Candidate, CandidateGrid, RuleInputs

MACHINE = ProbeSetup(torch.device("cpu"), "fp32", MuonConfig(), 1.0)


def grid(least_flop: float) -> CandidateGrid:
    facts = [TokenizerFacts(BpeTokenizerConfig(vocab_size=size), size, size**0.15, 0.0) for size in (512, 2048)]
    return CandidateGrid(RuleInputs(1_000_000, 300.0, facts, MuonConfig(), {}, "cpu", 10**10, least_flop))


def test_a_step_of_twice_the_tokens_takes_longer_and_no_step_beats_the_matrix_products_limit() -> None:
    model = ModelConfig(n_layer=2, n_embd=128, n_head=4, vocab_size=512, context_length=64)
    limit = min(seconds_per_flop(MACHINE) for _ in range(3))
    small, large = (step_seconds(MACHINE, model, tokens, 64, 8, 0.0) for tokens in (512, 4096))
    assert small < large
    assert 0 < limit * 6 * 400_000 * 4096 < 3 * large


def test_the_choice_rests_on_its_own_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine whose step times differ from what the first places suggest: wide models are ten times as slow."""
    coefficients, seen = StepTimeModel(1e-3, 2e-4, 2e-10, 1e-11), []
    candidates = grid(1e-12)

    def seconds(setup: ProbeSetup, candidate: Candidate, limit: float) -> float:
        number = candidates.candidates.index(candidate)
        seen.append(number)
        return coefficients.seconds(candidates.amounts[number]) * (10 if candidate.model.n_embd >= 192 else 1)

    monkeypatch.setattr(probe, "candidate_seconds", seconds)
    best = measure(MACHINE, candidates, shipped_law(), 60.0)[0]
    assert best.number in seen
    assert best.step_seconds == pytest.approx(seconds(MACHINE, best.candidate, 0.0), rel=0.5)


def test_a_probe_without_time_measures_once_and_still_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(probe, "candidate_seconds", lambda *_: taken.append(1) or 0.05)
    ranked = measure(MACHINE, grid(1e-12), shipped_law(), 0.0)
    assert len(taken) == 1 and ranked[0].steps > 0


def test_a_step_is_not_taken_for_as_slow_as_the_first_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a busy machine would compile what is over in seconds."""
    corpus, now = tmp_path / "corpus.txt", [0.0]
    corpus.write_text("a word and another one\n" * 200)
    settings = ("model.n_layer=1", "model.n_embd=16", "model.context_length=8", "train.tokens_per_step=64")
    user = merge(*map(parse_assignment, (f'data.corpus=["{corpus}"]', "device=cpu", "train.batch_size=2", *settings)))
    planned = plan.make_plan(user, tmp_path / "cache", 0.0)
    taken = iter([3.0, *[0.01] * 20])

    def wait(*arguments: object) -> None:
        now[0] += next(taken)

    monkeypatch.setattr(plan, "accumulate_gradients", wait)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert plan.probe_step_seconds(planned, planned.new_model()) == pytest.approx(0.01 * 8 / 2)
