"""The engine against a loop of full forwards without a cache, which is the definition of what it must give."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import torch

from gptcli.errors import CheckpointError, OutOfMemoryError
from gptcli.generate import engine, sampling
from gptcli.generate.config import EngineConfig, GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.state import ForwardState

MakeModel = Callable[..., GPT]

PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 8], list(range(16)), [1, 2, 3, 4, 5, 6, 7], [28, 0, 13, 4, 4, 4, 2, 1, 11]]
SCHEMES = [{"position": "rope"}, {"position": "learned"}, {"position": "none"}, {"window_pattern": (4, 0)}]
SCHEMES += [{"smear": True, "bigram_buckets": 101}]


def requests_for(
    config: GenerationConfig, prompts: list[list[int]] = PROMPTS, stop_ids: Collection[int] = ()
) -> list[Request]:
    return [Request(prompt, config.params(i), stop_ids=stop_ids) for i, prompt in enumerate(prompts)]


def finished(
    model: GPT,
    config: GenerationConfig,
    prompts: list[list[int]] = PROMPTS,
    stop_ids: Collection[int] = (),
) -> list[Request]:
    requests = requests_for(config, prompts, stop_ids)
    for _ in Engine(model, config.engine_config(prompts)).run(requests):
        pass
    return requests


@torch.no_grad()
def defined(model: GPT, config: GenerationConfig, prompt: list[int], seed: int) -> tuple[list[int], list[float]]:
    """ids and logprobs by full forwards over the window, of which the last half is kept when it is full."""
    context = model.config.context_length
    ids, start, logprobs = list(prompt), max(0, len(prompt) - context), []
    for position in range(config.max_new_tokens):
        if len(ids) - start > context:
            start = len(ids) - context // 2
        logits = model(torch.tensor([ids[start:]]))[:, -1]
        if config.temperature == 0:
            token = int(logits.argmax())
        else:
            draw = sampling.uniform_draws([seed], [position])
            token = int(sampling.sample(logits / config.temperature, draw))
        logprobs.append(float(logits.log_softmax(-1)[0, token]))
        ids.append(token)
    return ids[len(prompt) :], logprobs


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_mixed_batch_gives_what_full_forwards_give_also_when_it_slides(
    make_model: MakeModel, scheme: dict, temperature: float
) -> None:
    model = make_model(**scheme)
    config = GenerationConfig(temperature=temperature, max_new_tokens=60)
    for request in finished(model, config):
        tokens, logprobs = defined(model, config, request.ids[: request.prompt_length], request.params.seed)
        assert request.ids[request.prompt_length :] == tokens
        torch.testing.assert_close(request.logprobs, logprobs, rtol=1e-9, atol=1e-9)
        assert request.finish_reason == "length"


@pytest.mark.parametrize("temperature", [1e-6, 1e-20, 1e-38, 1e-320])
def test_a_temperature_near_zero_gives_the_greedy_text(make_model: MakeModel, temperature: float) -> None:
    model = make_model(torch.float32)
    greedy = finished(model, GenerationConfig(temperature=0, max_new_tokens=20))
    cold = GenerationConfig(temperature=temperature, top_p=0.9, min_p=0.1, max_new_tokens=20)
    assert [request.ids for request in finished(model, cold)] == [request.ids for request in greedy]


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1.4}, {"top_k": 5, "top_p": 0.8}, {"min_p": 0.1}])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_each_row_of_a_batch_is_what_it_is_alone(make_model: MakeModel, settings: dict, batch_size: int) -> None:
    """Some requests end early (at id 3), so that the others go on in a smaller batch."""
    model = make_model(torch.float32)
    config = GenerationConfig(temperature=1.0, max_new_tokens=50, batch_size=batch_size, seed=40, **settings)
    together = finished(model, config, stop_ids=[3])
    assert {request.finish_reason for request in together} == {"eot", "length"}
    for request in together:
        alone = Request(request.ids[: request.prompt_length], request.params, stop_ids=[3])
        for _ in Engine(model).run([alone]):
            pass
        assert (request.ids, request.finish_reason) == (alone.ids, alone.finish_reason)


def test_what_unused_memory_holds_does_not_matter(make_model: MakeModel) -> None:
    """Memory is used again, so it may hold any number."""
    config = GenerationConfig(temperature=1.0, max_new_tokens=60, speculate=3)
    expected = [request.ids for request in finished(make_model(), config)]
    model = make_model()
    original = model.new_cache

    def filled(batch_size: int, capacity: int) -> KVCache:
        cache = original(batch_size, capacity)
        for memory in (*cache.keys, *cache.values):
            memory.fill_(1e9)
        return cache

    model.new_cache = filled
    assert [request.ids for request in finished(model, config)] == expected


def test_samples_of_one_prompt_read_it_once(make_model: MakeModel) -> None:
    model = make_model()
    shapes = []
    original = model.hidden_states
    model.hidden_states = lambda state: (shapes.append(tuple(state.input_ids.shape)), original(state))[1]
    requests = finished(model, GenerationConfig(max_new_tokens=4), [[1, 2, 3]] * 5)
    assert shapes == [(1, 3), (5, 1), (5, 1), (5, 1)]
    assert len({tuple(request.ids) for request in requests}) > 1, "different seeds give different samples"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_prefix_that_prompts_share_is_read_once(make_model: MakeModel, scheme: dict) -> None:
    model = make_model(context_length=64, **scheme)
    shapes = []
    original = model.hidden_states
    model.hidden_states = lambda state: (shapes.append(tuple(state.input_ids.shape)), original(state))[1]
    shared = [(5 * i) % 29 for i in range(20)]
    config = GenerationConfig(temperature=0.9, max_new_tokens=30)
    requests = finished(model, config, [[*shared, 1, 2, 3], shared, [*shared, 7], [*shared, 1, 2, 3]])
    del model.hidden_states  # the class's own again
    # The shortest is read first. Of the next only one token is left, and of the equal ones three: a pass of 1 + 1 + 3.
    assert shapes[:3] == [(1, 20), (5, 1), (4, 1)]
    for request in requests:
        assert (
            request.ids[request.prompt_length :]
            == defined(model, config, request.ids[: request.prompt_length], request.params.seed)[0]
        )


def test_ended_rows_leave_the_batch(make_model: MakeModel) -> None:
    model = make_model()
    sizes = []
    original = model.hidden_states
    model.hidden_states = lambda state: (sizes.append(len(state.input_ids)), original(state))[1]
    requests = requests_for(GenerationConfig(max_new_tokens=6), PROMPTS[:3])
    for request in Engine(model).run(requests):
        if request is requests[1] and request.count == 2:
            request.finish_reason = "stop"
    assert sizes == [3, 3, 2, 2, 2, 2]
    assert [request.count for request in requests] == [6, 2, 6]
    assert [request.finish_reason for request in requests] == ["length", "stop", "length"]


def test_overflow_stop_ends_when_the_context_is_full(make_model: MakeModel) -> None:
    """The token that the full context predicts is the last."""
    model = make_model()
    requests = finished(model, GenerationConfig(max_new_tokens=10**9, overflow="stop"))
    assert {len(request.ids) for request in requests} == {17}
    assert {request.finish_reason for request in requests} == {"length"}


def test_a_context_of_one_token_slides(make_model: MakeModel) -> None:
    model = make_model(context_length=1)
    config = GenerationConfig(temperature=1.0, max_new_tokens=9)
    request = finished(model, config, [[4, 5]])[0]
    expected, last = [], 5
    with torch.no_grad():
        for position in range(9):
            logits = model(torch.tensor([[last]]))[:, -1]
            last = int(sampling.sample(logits, sampling.uniform_draws([0], [position])))
            expected.append(last)
    assert request.ids[2:] == expected


def test_a_prompt_longer_than_the_context_is_read_from_its_end(make_model: MakeModel) -> None:
    model = make_model()
    config = GenerationConfig(temperature=0.0, max_new_tokens=5)
    prompt = [(7 * i) % 29 for i in range(50)]
    request = finished(model, config, [prompt])[0]
    assert request.ids[50:] == defined(model, config, prompt, 0)[0]


@pytest.mark.parametrize("count", [1, 3])
def test_each_stop_token_is_the_last_of_its_request(make_model: MakeModel, count: int) -> None:
    model, config = make_model(), GenerationConfig(temperature=0.0, max_new_tokens=12)
    references = [request.ids[request.prompt_length :] for request in finished(model, config)]
    stop_ids = {references[number][4] for number in range(count)}
    requests = finished(model, config, stop_ids=stop_ids)
    for request, reference in zip(requests, references, strict=True):
        place = next((place for place, token in enumerate(reference) if token in stop_ids), None)
        assert request.ids[request.prompt_length :] == (reference if place is None else reference[: place + 1])
        assert request.finish_reason == ("length" if place is None else "eot")


def test_running_out_of_memory_halves_the_batch_and_changes_no_token(make_model: MakeModel) -> None:
    config = GenerationConfig(temperature=1.0, max_new_tokens=40, repetition_penalty=1.1)
    expected = [request.ids for request in finished(make_model(), config)]
    model = make_model()
    original, calls = model.hidden_states, []

    def limited(state: ForwardState) -> torch.Tensor:
        calls.append(len(state.input_ids))
        if len(calls) > 20 and calls[-1] > 2:  # also in the middle of a batch, after it has slid
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(state)

    model.hidden_states = limited
    assert [request.ids for request in finished(model, config)] == expected
    assert max(calls[22:]) <= 3


def test_a_batch_that_would_take_all_memory_is_made_smaller(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = make_model(), [[1, 2], [3], [4, 5, 6], [7], [8, 9]]
    config = GenerationConfig(temperature=1.0, max_new_tokens=5, batch_size=10**9)
    expected = [request.ids for request in finished(model, config, prompts)]
    model_config = model.config
    numbers = 2 * model_config.n_layer * model_config.kv_heads * model_config.head_width * (3 + 5)
    row_bytes = numbers * model.embedding.weight.element_size() + 4 * 4 * model_config.vocab_size
    monkeypatch.setattr(engine, "machine_memory_bytes", lambda device: 2 * 3 * row_bytes)
    assert Engine(model, config.engine_config(prompts)).statistics.slots == 3
    assert Engine(model, EngineConfig(cache_bytes=2 * row_bytes, context=8)).statistics.slots == 2
    assert [request.ids for request in finished(model, config, prompts)] == expected


def test_a_row_that_does_not_fit_alone_is_one_clear_error(make_model: MakeModel) -> None:
    model = make_model()

    def never(state: ForwardState) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.hidden_states = never
    with pytest.raises(OutOfMemoryError, match="does not fit"):
        finished(model, GenerationConfig())


def test_logits_that_are_not_numbers_are_one_clear_error(make_model: MakeModel) -> None:
    model = make_model()
    model.head.weight.data.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        with pytest.raises(CheckpointError, match="not finite"):
            finished(model, GenerationConfig(temperature=temperature))


def test_training_goes_on_undisturbed(make_model: MakeModel) -> None:
    """Training mode, the global random state and the ability to take gradients are as before."""
    model = make_model(dropout=0.3).train()
    before = torch.get_rng_state()
    finished(model, GenerationConfig(max_new_tokens=20))
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    model.loss_sum(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).backward()
