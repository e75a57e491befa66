"""Draft tokens by hand, and that no draft changes what is drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.lookup import PromptLookup
from gptcli.generate.requests import Request
from gptcli.models.gpt import GPT
from gptcli.nn.state import ForwardState

MakeModel = Callable[..., GPT]

# Each is followed by what it already said: the drafts are many, of different lengths and seldom right to the end.
PROMPTS = [[1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [5], [9, 8, 9, 8, 9], list(range(16)), [7] * 12, [1, 2, 3, 4] * 5]
SCHEMES = [{}, {"position": "learned"}, {"window_pattern": (4, 0)}, {"smear": True, "bigram_buckets": 1000}]


def test_the_draft_is_what_followed_the_longest_match() -> None:
    ids = [1, 2, 3, 10, 11, 12, 2, 3, 20, 21, 22, 1, 2, 3]
    assert PromptLookup(3).draft(ids, room=9) == [10, 11, 12]
    assert PromptLookup(9).draft(ids, room=2) == [10, 11]
    assert PromptLookup(3).draft([5, *ids[5:11], 2, 3], room=9) == [20, 21, 22]


def test_of_equal_matches_the_latest_counts() -> None:
    assert PromptLookup(2).draft([1, 2, 30, 31, 1, 2, 40, 41, 1, 2], room=9) == [40, 41]


def test_a_draft_that_reaches_the_end_repeats() -> None:
    assert PromptLookup(7).draft([9, 1, 2, 3, 1, 2], room=9) == [3, 1, 2, 3, 1, 2, 3]


def test_ids_without_a_match_give_no_draft() -> None:
    assert PromptLookup(4).draft([1, 2, 3, 1], room=9) == []
    assert PromptLookup(4).draft([1], room=9) == []


def test_drafts_grow_with_the_ids() -> None:
    lookup, ids = PromptLookup(4), [1, 2, 3, 4]
    assert lookup.draft(ids, room=4) == []
    ids += [1, 2]
    assert lookup.draft(ids, room=4) == [3, 4, 1, 2]
    ids += [5, 1, 2]
    assert lookup.draft(ids, room=2) == [5, 1]


def test_wrong_drafts_become_shorter_and_right_ones_long_again() -> None:
    lookup, ids = PromptLookup(6), [1, 2] * 5
    lookup.learn(6, 2)
    assert len(lookup.draft(ids, room=9)) == 3
    lookup.learn(3, 3)
    assert len(lookup.draft(ids, room=9)) == 6
    lookup.learn(0, 0)
    assert len(lookup.draft(ids, room=9)) == 6


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"temperature": 0.5}, {"temperature": 1.0, "repetition_penalty": 1.3, "top_p": 0.9}],
    ids=str,
)
@pytest.mark.parametrize("context_length", [16, 300])
def test_drafts_change_no_id(make_model: MakeModel, scheme: dict, settings: dict, context_length: int) -> None:
    """In batches whose requests keep different numbers of drafted ids, end early, slide and move to larger caches."""
    model = make_model(context_length=context_length, vocab_size=17, **scheme)

    def generated(speculate: int) -> list[Request]:
        config = GenerationConfig(max_new_tokens=270, speculate=speculate, **settings)
        requests = [
            Request([id % 17 for id in prompt], config.params(seed), stop_ids=[16])
            for seed, prompt in enumerate(PROMPTS)
        ]
        for request in Engine(model, config.engine_config([request.ids for request in requests])).run(requests):
            if request is requests[0] and request.count == 40:
                request.finish_reason = "stop"
        return requests

    for plain, drafted in zip(generated(0), generated(4), strict=True):
        assert (plain.ids, plain.finish_reason) == (drafted.ids, drafted.finish_reason)
        torch.testing.assert_close(plain.logprobs, drafted.logprobs, rtol=1e-9, atol=1e-9)


def test_a_text_that_repeats_itself_needs_few_passes(make_model: MakeModel) -> None:
    """A model without positions or attention to speak of goes round in a ring: every draft comes true."""
    model = make_model(position="none", context_length=512)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.output.weight.zero_()
            block.mlp.down.weight.zero_()
        model.embedding.weight.copy_(torch.eye(29, 32))
        model.head.weight.copy_(torch.eye(29, 32).roll(1, dims=0))  # after id i comes i + 1
    passes = 0
    original = model.hidden_states

    def counted(state: ForwardState) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return original(state)

    model.hidden_states = counted
    config = GenerationConfig(max_new_tokens=29 * 6, temperature=0.0, speculate=8)
    requests = [Request([3, 4], config.params()), Request([20], config.params())]
    for _ in Engine(model, config.engine_config([request.ids for request in requests])).run(requests):
        pass
    for request in requests:
        assert request.ids == [(request.ids[0] + i) % 29 for i in range(len(request.ids))]
        assert request.count == 29 * 6
    # One pass an id until a pair has occurred again, then nine ids a pass.
    assert passes <= 31 + (29 * 5) // 9 + 1
