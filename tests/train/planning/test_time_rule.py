"""The rule for a deadline: more time never buys less, what the user set stands, and what cannot be done is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gptcli.errors import UsageError
from gptcli.models.estimate import non_embedding_parameters, parameter_count
from gptcli.optim.config import MuonConfig
from gptcli.tokenizer.config import BpeTokenizerConfig, CharTokenizerConfig
from gptcli.train.compiling import Compilation
from gptcli.train.planning.scaling_law import shipped_law
from gptcli.train.planning.step_time import StepTimeModel
from gptcli.train.planning.text_sample import TokenizerFacts
from gptcli.train.planning.time_rule import LEAST_STEPS, CandidateGrid, GridPoint, Prediction, RuleInputs
from gptcli.train.planning.zero_config import most_epochs

CPU = StepTimeModel(step=2e-3, layer=4e-4, number=4e-10, flop=1.2e-11)
GPU = StepTimeModel(step=1e-3, layer=2e-4, number=2e-12, flop=2.5e-15)
MACHINES = {"cpu": CPU, "cuda": GPU}
TOKENIZERS = [TokenizerFacts(CharTokenizerConfig(), 90, 1.0, 0.0)] + [
    TokenizerFacts(BpeTokenizerConfig(vocab_size=size), size, per_token, 0.0)
    for size, per_token in [(512, 1.95), (1024, 2.4), (2048, 2.8), (4096, 3.2), (8192, 3.5), (16384, 3.8)]
]
FEW_TOKENIZERS = [TOKENIZERS[place] for place in (0, 1, 2, 4, 6)]
MINUTES = [1, 2, 5, 15, 60, 240]
MEASURED = 1e18
"""Operations of the largest measured step: more than any candidate has, so that none is left out."""


def situation(seconds: float, unique_bytes: int = 1_000_000, device: str = "cpu", **given: Any) -> RuleInputs:
    return RuleInputs(
        unique_bytes=unique_bytes,
        seconds=seconds,
        tokenizers=FEW_TOKENIZERS,
        optim=MuonConfig(),
        given=given,
        device_type=device,
        memory_bytes=24_000_000_000,
        least_flop=MACHINES[device].flop / 2,
    )


def best(where: RuleInputs) -> Prediction:
    return CandidateGrid(where).rank(MACHINES[where.device_type], shipped_law(), MEASURED)[0]


CORPORA = [100_000, 30_000_000, 3_000_000_000]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("unique_bytes", CORPORA)
def test_more_time_never_chooses_a_smaller_model(unique_bytes: int, device: str) -> None:
    for tokenizer in TOKENIZERS[::3]:
        where = [replace(situation(60 * m, unique_bytes, device), tokenizers=[tokenizer]) for m in MINUTES]
        sizes = [non_embedding_parameters(best(one).candidate.model) for one in where]
        assert sizes == sorted(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("unique_bytes", CORPORA)
def test_more_time_never_predicts_a_higher_loss(unique_bytes: int, device: str) -> None:
    where = [replace(situation(60 * m, unique_bytes, device), tokenizers=TOKENIZERS) for m in MINUTES[::2]]
    bits = [best(one).bits for one in where]
    assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_text_never_predicts_a_higher_loss(device: str) -> None:
    corpora = [100_000, 1_000_000, 10_000_000, 1_000_000_000]
    bits = [best(situation(900, size, device)).bits for size in corpora]
    assert bits == sorted(bits, reverse=True)


def test_long_runs_count_on_being_compiled_and_short_ones_do_not() -> None:
    compilation = Compilation(least_run=200.0, seconds=30.0, gain=1.5)
    for seconds, is_compiled in ((180, False), (300, True)):
        first = best(replace(situation(seconds), compilation=compilation))
        eager = best(situation(seconds))
        assert (first.compiling_seconds > 0) == is_compiled and (first.bits < eager.bits) == is_compiled
        assert 0.8 * seconds < first.compiling_seconds + first.steps * first.step_seconds < seconds


def test_the_time_that_is_missing_counts_the_compiling() -> None:
    slow, compilation = StepTimeModel(step=60.0, layer=0.0, number=0.0, flop=0.0), Compilation(0.0, 100.0, 1.0)
    missing = []
    for compiled in (None, compilation):
        with pytest.raises(UsageError) as failure:
            CandidateGrid(replace(situation(300), compilation=compiled)).rank(slow, shipped_law(), MEASURED)
        missing.append(int(str(failure.value).split("; give ")[1].split()[0]))
    assert missing[1] - missing[0] == 100


def test_a_faster_machine_never_predicts_a_higher_loss() -> None:
    grid = CandidateGrid(situation(300))
    costs = [StepTimeModel(*(price * factor for price in CPU)) for factor in (4, 2, 1, 0.5)]
    bits = [grid.rank(cost, shipped_law(), MEASURED)[0].bits for cost in costs]
    assert bits == sorted(bits, reverse=True)


def test_the_best_is_the_lowest_of_all_and_the_runners_up_differ_in_vocabulary_and_shape() -> None:
    first, *others = CandidateGrid(situation(300)).rank(CPU, shipped_law(), MEASURED)
    assert 1 <= len(others) <= 2
    assert all(other.bits >= first.bits for other in others)
    assert any(other.candidate.tokenizer.vocab_size != first.candidate.tokenizer.vocab_size for other in others)
    models = [(one.candidate.model.n_layer, one.candidate.model.n_embd) for one in (first, *others)]
    assert any(model != models[0] for model in models)


def test_steps_fill_the_time_that_the_tokenizer_leaves() -> None:
    learnt = [fact._replace(seconds_per_byte=6e-5) for fact in FEW_TOKENIZERS]
    first = best(replace(situation(300), tokenizers=learnt))
    spent = first.steps * first.step_seconds + first.candidate.tokenizer.seconds_per_byte * 1_000_000
    assert 0.8 * 300 < spent < 300
    assert first.epochs == pytest.approx(
        first.steps * first.candidate.tokens_per_step * first.candidate.tokenizer.bytes_per_token / 1e6
    )


@pytest.mark.parametrize(
    "given",
    [
        {"model": {"n_layer": 7}},
        {"model": {"n_embd": 100}},
        {"model": {"n_layer": 3, "n_embd": 48, "n_head": 3}},
        {"model": {"context_length": 96}},
        {"train": {"tokens_per_step": 640}, "model": {"context_length": 64}},
        {"train": {"seq_len": 48}},
        {"train": {"batch_size": 3}},
        {"model": {"mlp": "gelu", "n_kv_head": 1, "position": "learned"}},
    ],
)
def test_what_the_user_set_is_the_only_candidate_there(given: dict[str, Any]) -> None:
    for candidate in CandidateGrid(situation(300, **given)).candidates:
        for name, value in given.get("model", {}).items():
            assert getattr(candidate.model, name) == value
        for name, value in given.get("train", {}).items():
            assert getattr(candidate, name) == value
        assert candidate.tokens_per_step % candidate.seq_len == 0


def test_steps_far_beyond_what_was_measured_are_not_chosen() -> None:
    grid = CandidateGrid(situation(3600))
    measured = grid.flops[grid.nearest(GridPoint(2, 128, 128, 1024, 1024))]
    chosen = grid.rank(CPU, shipped_law(), measured)[0]
    assert grid.flops[chosen.number] <= 4 * measured < grid.flops[best(grid.inputs).number]


def test_models_that_do_not_fit_into_memory_are_no_candidates() -> None:
    small = CandidateGrid(replace(situation(1e5), memory_bytes=100_000_000))
    assert max(parameter_count(candidate.model) for candidate in small.candidates) < 6_000_000
    with pytest.raises(UsageError, match="memory"):
        CandidateGrid(replace(situation(1e5), memory_bytes=1000))


def test_a_time_too_short_for_any_training_says_how_much_is_missing() -> None:
    learnt = [fact._replace(seconds_per_byte=6e-6) for fact in FEW_TOKENIZERS]
    short = replace(situation(5), tokenizers=learnt)
    with pytest.raises(UsageError, match=r"too short.*give \d+ s more") as error:
        CandidateGrid(short).rank(CPU, shipped_law(), MEASURED)
    missing = int(str(error.value).split("give ")[1].split(" s")[0])
    grid = CandidateGrid(replace(short, seconds=5 + missing))
    assert 1 <= missing < 10 and grid.rank(CPU, shipped_law(), MEASURED)[0].steps >= LEAST_STEPS


def test_no_text_is_memorised_however_much_time_there_is() -> None:
    for seconds in (60, 3600):
        first = best(situation(seconds, 1_000_000, "cuda"))
        tokens = 1_000_000 / first.candidate.tokenizer.bytes_per_token
        assert first.epochs <= most_epochs(non_embedding_parameters(first.candidate.model) / tokens)
    assert first.steps == first.most_steps and first.steps * first.step_seconds < 1800
    for other in (best(situation(300)), best(situation(3600, 3_000_000_000, "cuda"))):
        assert other.steps < other.most_steps


def test_steps_are_at_most_those_that_are_set() -> None:
    for most in (77, 12):
        assert best(situation(300, train={"max_steps": most})).steps <= most
    for epochs in (2.5, 0.1):
        first = best(situation(300, train={"epochs": epochs}))
        assert first.epochs <= epochs * 1.01 + first.candidate.tokens_per_step / 250_000
