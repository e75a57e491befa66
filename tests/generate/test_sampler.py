"""Rows with different settings in one pass, against transformers' processors for each row alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcli.errors import DataError, UsageError
from gptcli.generate import sampling
from gptcli.generate.config import SamplingParams
from gptcli.generate.constraint import Constraint
from gptcli.generate.requests import Request, require_known_ids
from gptcli.generate.sampler import Sampler

V = 67
CPU = torch.device("cpu")


def settings(choose: random.Random) -> dict[str, object]:
    """Random settings, of which some rows use none."""
    options = {
        "temperature": [0.0, 0.7, 1.0, 1.5],
        "top_k": [None, 0, 1, 5, 500],
        "top_p": [None, 0.3, 0.9, 1.0],
        "min_p": [None, 0.0, 0.05, 0.5],
        "repetition_penalty": [1.0, 1.3, 0.8],
        "presence_penalty": [0.0, 1.5, -0.5],
        "frequency_penalty": [0.0, 0.4, -2.0],
        "logit_bias": [{}, {}, {3: 4.5, 60: -100.0}],
    }
    return {name: choose.choice(values) for name, values in options.items()}


def a_request(choose: random.Random, seed: int, **given: object) -> Request:
    """A request in the middle of its text."""
    request = Request(choose.choices(range(V), k=5), SamplingParams(seed=seed, **{**settings(choose), **given}))
    for token in choose.choices(range(V), k=choose.randrange(8)):
        request.append(token, 0.0)
    return request


def ties(shape: Sequence[int], seed: int) -> Tensor:
    """Logits of which many are equal."""
    return (torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) * 4).round() / 2


def defined(request: Request, logits: Tensor, ids: list[int]) -> Tensor:
    """What transformers' processors in their order make of the logits (V,) after `ids`."""
    from transformers.generation import logits_process as theirs

    params, drawn = request.params, ids[request.prompt_length :]
    processors = theirs.LogitsProcessorList()
    if params.logit_bias:
        processors.append(theirs.SequenceBiasLogitsProcessor({(id,): value for id, value in params.logit_bias.items()}))
    scores = processors(torch.tensor([ids]), logits[None].clone())
    counts = torch.bincount(torch.tensor(drawn, dtype=torch.long), minlength=V)
    # https://platform.openai.com/docs/api-reference/chat/create: mu[j] - c[j] * frequency - float(c[j] > 0) * presence
    scores = scores - counts * params.frequency_penalty - (counts > 0).float() * params.presence_penalty
    filters = theirs.LogitsProcessorList()
    if params.repetition_penalty != 1:
        filters.append(theirs.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature not in (0, 1):
        filters.append(theirs.TemperatureLogitsWarper(params.temperature))
    if params.temperature:
        if params.top_k:
            filters.append(theirs.TopKLogitsWarper(params.top_k))
        if params.top_p is not None and params.top_p < 1:
            filters.append(theirs.TopPLogitsWarper(params.top_p))
        if params.min_p:
            filters.append(theirs.MinPLogitsWarper(params.min_p))
    return filters(torch.tensor([ids]), scores)[0]


@pytest.mark.parametrize("seed", range(12))
def test_rows_with_different_settings_equal_transformers_row_by_row(seed: int) -> None:
    """Also at the places of drafts, and with ties."""
    choose = random.Random(seed)
    requests = [a_request(choose, row) for row in range(9)]
    places = 1 + seed % 3
    drafts = [choose.choices(range(V), k=choose.randrange(places)) for _ in requests]
    logits = ties((len(requests), places, V), seed)
    before = logits.clone()
    sampler = Sampler(V, CPU)
    sampler.assign(requests)
    penalised = sampler.penalised(logits, drafts)
    filtered = dict(zip(sampler.random, sampler.filtered(penalised[sampler.random]), strict=True))
    drawn = sampler.draw(logits, drafts).result()
    assert torch.equal(logits, before)
    for row, request in enumerate(requests):
        for place in range(1 + len(drafts[row])):
            scores = defined(request, logits[row, place], [*request.ids, *drafts[row][:place]])
            found = filtered[row][place] if row in filtered else penalised[row, place]
            # transformers' bias is added to zeros first, and ours to the logits
            torch.testing.assert_close(found, scores, rtol=1e-6, atol=1e-6)
            assert torch.equal(found.isinf(), scores.isinf())
            if request.params.is_greedy:
                expected = int(scores.argmax())
            else:
                draws = sampling.uniform_draws([request.params.seed], [request.count + place])
                expected = int(sampling.sample(found[None], draws))
            assert drawn[row][place].token == expected
            assert drawn[row][place].logprob == pytest.approx(
                float(logits[row, place].log_softmax(-1)[expected]), abs=1e-5
            )


def test_a_row_draws_the_same_alone_and_wherever_it_stands() -> None:
    """Rows join, leave and move between the draws; the counts of those that stay move along."""
    choose = random.Random(5)
    pool = [a_request(choose, seed) for seed in range(12)]
    alone = {request: Sampler(V, CPU) for request in pool}
    sampler = Sampler(V, CPU)
    for step in range(40):
        rows = choose.sample(pool, k=choose.randint(1, 8))
        logits = ties((len(rows), 1, V), step)
        sampler.assign(rows)
        together = sampler.draw(logits, [[]] * len(rows)).result()
        for row, request in enumerate(rows):
            alone[request].assign([request])
            assert alone[request].draw(logits[row : row + 1], [[]]).result() == [together[row]]
            request.append(together[row][0].token, together[row][0].logprob)


def test_what_no_row_uses_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("repetition_penalty", "occurrence_penalties", "top_k", "top_p", "min_p", "most_likely"):
        monkeypatch.setattr(sampling, name, lambda *arguments, name=name: calls.append(name))
    sampler = Sampler(V, CPU)
    sampler.assign([Request([1, 2], SamplingParams(temperature=t, top_k=0, top_p=1.0, min_p=0.0)) for t in (1, 0.5)])
    sampler.draw(ties((2, 1, V), 0), [[], []])
    assert not calls and not len(sampler.seen.table) and not len(sampler.drawn.table)


def test_the_most_likely_tokens_are_kept_for_the_rows_that_ask() -> None:
    requests = [Request([1], SamplingParams(logprobs=wanted)) for wanted in (None, 0, 1, 20)]
    logits = torch.randn(4, 2, V, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(V, CPU)
    sampler.assign(requests)
    for row, tokens in enumerate(sampler.draw(logits, [[1]] * 4).result()):
        count = requests[row].params.logprobs or 0
        for place, (token, logprob, top) in enumerate(tokens):
            values, ids = logits[row, place].log_softmax(-1).topk(count)
            assert [id for id, _ in top] == ids.tolist()
            assert [value for _, value in top] == pytest.approx(values.tolist(), abs=1e-5)
            requests[row].append(token, logprob, top)
    assert [len(request.top_logprobs) for request in requests] == [0, 2, 2, 2]


class Multiples(Constraint):
    """Allows the multiples of a number; none of zero."""

    is_free = False

    def __init__(self, number: int) -> None:
        self.number = number

    def mask_into(self, row: NDArray[np.int32]) -> None:
        if not self.number:
            raise DataError("nothing fits")
        bits = np.zeros(32 * len(row), dtype=np.uint8)
        bits[:: self.number] = 1
        row[:] = np.packbits(bits, bitorder="little").view(np.int32)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_grammar_allows_tokens_before_the_filters_drop_others(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=1)
    requests = [
        Request([1], params, constraint=constraint) for constraint in (Constraint(), Multiples(7), Multiples(0))
    ]
    logits = torch.randn(3, 1, V, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(V, CPU)
    sampler.assign(requests)
    drawn = sampler.draw(logits, [[]] * 3).result()
    assert drawn[0][0].token == int(logits[0, 0].argmax())
    assert drawn[1][0].token == 7 * int(logits[1, 0, ::7].argmax())
    assert drawn[1][0].logprob == pytest.approx(float(logits[1, 0].log_softmax(-1)[drawn[1][0].token]))
    assert [request.finish_reason for request in requests] == [None, None, "error"]
    assert str(requests[2].error) == "nothing fits"
    assert not requests[1].may_draft


def test_biases_of_ids_that_the_model_lacks_are_refused() -> None:
    require_known_ids(SamplingParams(logit_bias={V - 1: 1.0}), V)
    with pytest.raises(UsageError, match="logit_bias has the id 67, and the model has 67 tokens; use ids below 67"):
        require_known_ids(SamplingParams(logit_bias={V: 1.0}), V)
