"""Requests that come and go in any order, against each of them alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from gptcli.errors import CheckpointError
from gptcli.generate.config import EngineConfig, SamplingParams
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Observer, Request
from gptcli.generate.slots import Slots, shared_length
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.state import ForwardState

MakeModel = Callable[..., GPT]

CONTEXT, VOCAB = 48, 29
SHAPES = [{}, {"position": "learned", "window_pattern": (5, 0)}, {"smear": True, "bigram_buckets": 101}]


def finish(engine: Engine, limit: int = 3000) -> None:
    for _ in range(limit):
        if engine.is_idle:
            return
        engine.step()
    raise AssertionError("the requests do not end")


def copy_of(request: Request) -> Request:
    """The same request, as it was before it ran."""
    return Request(
        request.ids[: request.prompt_length],
        request.params,
        stop_ids=request.stop_ids,
        prompt_logprobs=request.prompt_logprobs,
    )


def random_request(generator: random.Random, systems: list[list[int]]) -> Request:
    """A request of any length, often with the beginning of another one."""
    prompt = [*generator.choice(systems), *(generator.randrange(VOCAB) for _ in range(generator.choice([1, 3, 20])))]
    params = SamplingParams(
        max_new_tokens=generator.choice([1, 4, 15, 60]),
        temperature=generator.choice([0.0, 0.7, 1.2]),
        top_k=generator.choice([None, 5]),
        repetition_penalty=generator.choice([1.0, 1.0, 1.2]),
        seed=generator.randrange(100),
        overflow=generator.choice(["slide", "stop"]),
        logprobs=generator.choice([None, 2]),
    )
    return Request(
        prompt[:CONTEXT],
        params,
        stop_ids=generator.choice([(), (3,), (3, 7, 11)]),
        prompt_logprobs=generator.choice([None, None, None, 2]),
    )


def run_at_random(engine: Engine, generator: random.Random, requests: list[Request]) -> set[Request]:
    """Add the requests at random times and cancel some; return those that were cancelled."""
    waiting, cancelled, turns = list(requests), set(), []
    while waiting or not engine.is_idle:
        while waiting and generator.random() < 0.4:
            engine.add(waiting.pop(0))
        if generator.random() < 0.04:
            victim = generator.choice([*engine.queue, *engine.slots.requests, None])
            if victim is not None:
                engine.cancel(victim)
                cancelled.add(victim)
                assert victim not in engine.slots.requests
        for request in engine.step():
            if request.finish_reason in ("length", "eot") and request.params.seed % 3 == 0 and len(turns) < 4:
                # A chat that goes on: its next turn begins with all that was said.
                turn = Request([*request.ids, 5, 6][:CONTEXT], request.params)
                turns.append(turn)
                requests.append(turn)
                waiting.append(turn)
        check_slots(engine.slots)
    return cancelled


def check_slots(slots: Slots) -> None:
    """Every slot holds what is noted about it, and requests are where they belong."""
    assert len(slots.requests) == slots.used == len(set(slots.requests))
    assert all(slot.request is None for slot in slots.table[slots.used :])
    for number, slot in enumerate(slots.table):
        length = slots.cache.lengths[number]
        assert len(slots.held(number)) == length
        if number < slots.decoding:
            assert length == slot.request.window_length - 1
        elif number < slots.used:
            assert length < slot.request.window_length


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_sample_is_the_same_whatever_runs_beside_it(make_model: MakeModel, shape: dict, seed: int) -> None:
    """Few or many slots, chunks, drafts, cached prefixes, cancelled neighbours, memory full of large numbers."""
    generator = random.Random(1000 * seed + len(shape))
    model = make_model(torch.float32, context_length=CONTEXT, **shape)
    systems = [[generator.randrange(VOCAB) for _ in range(length)] for length in (0, 0, 18, 25)]
    config = EngineConfig(
        rows=generator.choice([1, 3, 8]), speculate=[0, 3, 0][seed], chunk=generator.choice([1, 7, 1000])
    )
    engine = Engine(model, config)
    for memory in (*engine.slots.cache.keys, *engine.slots.cache.values):
        memory.fill_(1e6)
    requests = [random_request(generator, systems) for _ in range(14)]
    cancelled = run_at_random(engine, generator, requests)
    assert engine.running == engine.waiting == 0
    for request in requests:
        alone = copy_of(request)
        lonely = Engine(model, EngineConfig(rows=1, chunk=1000))
        lonely.add(alone)
        finish(lonely)
        if request in cancelled:
            assert alone.ids[: len(request.ids)] == request.ids and request.finish_reason is not None
            continue
        assert (request.ids, request.finish_reason) == (alone.ids, alone.finish_reason)
        torch.testing.assert_close(request.logprobs, alone.logprobs, rtol=0, atol=2e-4)
        assert [[token for token, _ in top] for top in request.top_logprobs] == [
            [token for token, _ in top] for top in alone.top_logprobs
        ]
        torch.testing.assert_close(request.prompt_scores.logprobs, alone.prompt_scores.logprobs, rtol=0, atol=2e-4)


def read_tokens(model: GPT) -> list[tuple[int, ...]]:
    """The shapes of the ids that the model reads from now on."""
    shapes: list[tuple[int, ...]] = []
    original = model.hidden_states

    def recorded(state: ForwardState) -> torch.Tensor:
        shapes.append(tuple(state.input_ids.shape))
        return original(state)

    model.hidden_states = recorded
    return shapes


def test_the_next_turn_of_a_chat_reads_only_what_is_new(make_model: MakeModel) -> None:
    model = make_model(context_length=200)
    engine, shapes = Engine(model, EngineConfig(rows=3)), read_tokens(model)
    first = Request([i % VOCAB for i in range(100)], SamplingParams(max_new_tokens=10))
    others = [Request([3, i], SamplingParams(max_new_tokens=4)) for i in range(2)]
    for request in (first, *others):
        engine.add(request)
    finish(engine)
    second = Request([*first.ids, 1, 2, 3], SamplingParams(max_new_tokens=3))
    shapes.clear()
    engine.add(second)
    finish(engine)
    # The last id of an answer has not been read, since nothing was drawn after it.
    assert shapes == [(1, 4), (1, 1), (1, 1)]
    assert second.cached_tokens == 109 and first.cached_tokens == 0
    alone = copy_of(second)
    fresh = Engine(model)
    fresh.add(alone)
    finish(fresh)
    assert alone.ids == second.ids


def test_the_oldest_free_slot_is_used_again_first(make_model: MakeModel) -> None:
    """With three slots, the chat that was used least recently is forgotten, and the others are not."""
    model = make_model(context_length=120)
    engine = Engine(model, EngineConfig(rows=3))
    prompts = [[number] * 20 for number in (1, 2, 3)]

    def cached(prompt: list[int]) -> int:
        request = Request(prompt, SamplingParams(max_new_tokens=2))
        engine.add(request)
        finish(engine)
        return request.cached_tokens

    assert [cached(prompt) for prompt in prompts] == [0, 0, 0]
    assert cached(prompts[0]) == 19
    assert cached([9] * 20) == 0  # takes the place of the second
    assert [cached(prompt) for prompt in (prompts[0], prompts[2])] == [19, 19]
    assert cached(prompts[1]) == 0


def test_a_prefix_is_copied_from_a_slot_that_is_in_use(make_model: MakeModel) -> None:
    """A system prompt is read once, though all requests come together; its other tokens stay what they were."""
    model = make_model(context_length=120)
    engine, shapes = Engine(model, EngineConfig(rows=4, chunk=50)), read_tokens(model)
    system = [(3 * i) % VOCAB for i in range(40)]
    requests = [Request([*system, i, i + 1], SamplingParams(max_new_tokens=12, seed=i)) for i in range(4)]
    for request in requests:
        engine.add(request)
    finish(engine)
    assert shapes[0] == (1, 42) and [request.cached_tokens for request in requests] == [0, 40, 40, 40]
    assert engine.statistics.tokens_cached == 120 and engine.statistics.tokens_read == 42 + 3 * 2


def test_a_long_prompt_is_read_in_chunks_between_the_steps_of_others(make_model: MakeModel) -> None:
    model = make_model(context_length=400)
    engine = Engine(model, EngineConfig(rows=3, chunk=32))
    running = Request([1, 2], SamplingParams(max_new_tokens=30))
    engine.add(running)
    engine.step()
    shapes = read_tokens(model)
    late = Request([(7 * i) % VOCAB for i in range(300)], SamplingParams(max_new_tokens=3))
    engine.add(late)
    while late.count == 0:
        count = running.count
        engine.step()
        assert running.count == count + 1
    assert shapes == [*[(19, 1)] * 16, (13, 1)]  # one pass for a chunk and the others' step
    while running.finish_reason is None:
        engine.step()
    assert late.finish_reason == "length"


def test_twins_that_are_read_beside_others_get_their_own_logits(make_model: MakeModel) -> None:
    """Several prompts end in the same chunk, and each has twins in the queue."""
    model = make_model(context_length=100)
    engine = Engine(model, EngineConfig(rows=9))
    engine.add(Request([1, 2], SamplingParams(max_new_tokens=20)))
    engine.step()
    prompts = [[1, 2, 3], [4, 5], [1, 2, 3], [4, 5], [8], [1, 2, 3], [4, 5]]
    requests = [Request(prompt, SamplingParams(max_new_tokens=6, seed=i)) for i, prompt in enumerate(prompts)]
    for request in requests:
        engine.add(request)
    engine.step()
    assert [request.count for request in requests] == [1] * 7
    finish(engine)
    for request in requests:
        alone = copy_of(request)
        fresh = Engine(model)
        fresh.add(alone)
        finish(fresh)
        assert request.ids == alone.ids


def test_requests_that_wait_come_in_order_and_memory_is_bounded(make_model: MakeModel) -> None:
    model = make_model(context_length=64)
    token_bytes = 2 * 2 * 2 * 8 * 8  # keys and values of 2 layers with 2 heads of 8 float64
    row_bytes = 64 * token_bytes + 4 * 4 * VOCAB
    engine = Engine(model, EngineConfig(rows=100, cache_bytes=3 * row_bytes + 10))
    assert (engine.statistics.slots, engine.statistics.cache_bytes) == (3, 3 * 64 * token_bytes)
    requests = [Request([i], SamplingParams(max_new_tokens=5)) for i in range(8)]
    for request in requests:
        engine.add(request)
    begun: list[Request] = []
    while not engine.is_idle:
        assert engine.running <= 3 and engine.running + engine.waiting <= 8
        begun += [request for request in engine.step() if request.count == 1]
    assert begun == requests and engine.statistics.tokens_drawn == 40


def test_numbers_that_are_not_finite_end_their_own_request_only(make_model: MakeModel) -> None:
    """Its slot is cleared, so that the next request there is not spoilt."""
    model = make_model(context_length=64)
    original = model.hidden_states
    poison = 13

    def spoilt(state: ForwardState) -> torch.Tensor:
        hidden = original(state)
        is_poisoned = (state.input_ids == poison).any(dim=1)
        for part in state.view.parts:
            for row in range(*part.rows.indices(len(is_poisoned))):
                if is_poisoned[row]:
                    for memory in (*part.keys, *part.values):
                        memory[row - (part.rows.start or 0)] = torch.nan
        return hidden.masked_fill(is_poisoned[:, None, None], torch.nan)

    model.hidden_states = spoilt
    engine = Engine(model, EngineConfig(rows=3))
    prompts = [[1, 2], [poison, 1, 2], [4, 5, 6], [7]]
    requests = [Request(prompt, SamplingParams(max_new_tokens=8, logit_bias={poison: -100.0})) for prompt in prompts]
    for request in requests:
        engine.add(request)
    finish(engine)
    assert [request.finish_reason for request in requests] == ["length", "error", "length", "length"]
    assert isinstance(requests[1].error, CheckpointError) and requests[1].count == 0
    assert all(torch.isfinite(memory).all() for memory in (*engine.slots.cache.keys, *engine.slots.cache.values))


def test_a_request_may_be_cancelled_by_an_observer_of_any(make_model: MakeModel) -> None:
    """Also one whose turn in the same step comes later; the slots are free after the step."""
    engine = Engine(make_model(), EngineConfig(rows=4))

    class Stopper(Observer):
        def on_token(self, request: Request) -> bool:
            if request.count == 3:
                for other in requests[1:]:
                    engine.cancel(other)
            return request.count == 5

    requests = [Request([i], SamplingParams(max_new_tokens=9), observer=Stopper()) for i in range(6)]
    for request in requests:
        engine.add(request)
    for _ in range(3):
        engine.step()
    assert (engine.running, engine.waiting) == (1, 0)
    finish(engine)
    assert [request.finish_reason for request in requests] == ["stop", *["cancelled"] * 5]
    assert [request.count for request in requests] == [5, 2, 2, 2, 0, 0]


def test_a_run_that_is_left_frees_its_slots(make_model: MakeModel) -> None:
    engine = Engine(make_model(), EngineConfig(rows=2))
    requests = [Request([i], SamplingParams(max_new_tokens=9)) for i in range(4)]
    for request in engine.run(requests):
        if request.count == 2:
            break
    assert engine.is_idle and {request.finish_reason for request in requests} == {"cancelled"}
    engine.close()
    assert engine.statistics.cache_bytes == 0


def test_shared_lengths_are_those_of_a_comparison_one_by_one() -> None:
    generator = random.Random(0)
    for _ in range(200):
        one = [generator.randrange(2) for _ in range(generator.choice([0, 15, 16, 40]))]
        other = list(one[: generator.randrange(len(one) + 1)]) + [generator.randrange(2) for _ in range(20)]
        count = 0
        while count < min(len(one), len(other)) and one[count] == other[count]:
            count += 1
        assert shared_length(one, other) == (count if count >= 16 else 0)


def test_caches_of_different_precision_hold_what_the_model_computes(make_model: MakeModel) -> None:
    model = make_model(torch.bfloat16, context_length=64)
    engine = Engine(model, EngineConfig(rows=2))
    assert isinstance(engine.slots.cache, KVCache) and engine.slots.cache.keys[0].dtype == torch.bfloat16
    request = Request([1, 2, 3], SamplingParams(max_new_tokens=70))
    engine.add(request)
    finish(engine)
    assert request.count == 70
