"""The compiled step draws what the model itself draws."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.generate import step
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.requests import Request
from gptcli.generate.step import CudaGraphStep, DecodingStep, Forward, decoding_step
from gptcli.models.gpt import GPT
from gptcli.models.inference import quantized
from gptcli.nn.cache import KVCacheView
from gptcli.nn.compiling import missing_compiler
from waiting import no_waiting

PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 8, 4, 9, 8, 4, 9, 8]]


def texts(
    model: GPT,
    made: DecodingStep | None,
    config: GenerationConfig,
    stop_ids: Collection[int] = (3,),
    looks_ahead: bool = False,
) -> list[list[int]]:
    requests = [Request(prompt, config.params(i), stop_ids=stop_ids) for i, prompt in enumerate(PROMPTS)]
    engine = Engine(model, config.engine_config(PROMPTS), made)
    engine.looks_ahead = engine.looks_ahead or looks_ahead
    for _ in engine.run(requests):
        pass
    return [request.ids for request in requests]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.skipif(bool(missing_compiler(torch.device("cpu"))), reason="there is no C++ compiler")
@pytest.mark.parametrize("quantize", [False, True], ids=["fp32", "int8"])
def test_a_compiled_step_draws_the_same(make_model: Callable[..., GPT], tmp_path: Path, quantize: bool) -> None:
    """Rows end early, outgrow their cache and slide, so that the step meets several shapes; some tokens are drafted."""
    torch._dynamo.reset()
    model = make_model(torch.float32, context_length=320, n_layer=1)
    if quantize:
        model = quantized(model, "int8")
    config = GenerationConfig(temperature=1.0, max_new_tokens=340)
    made = decoding_step(model, tmp_path)
    expected = texts(model, None, config)
    assert texts(model, made, config) == expected
    assert texts(model, made, config.model_copy(update={"speculate": 3})) == expected


class FakeGraph:
    """A stand-in for a CUDA graph, bound to the memory that it was made with; it runs the forward pass again."""

    made: ClassVar[list[FakeGraph]] = []

    def __init__(self, forward: Forward, ids: torch.Tensor, view: KVCacheView, pool: object = None) -> None:
        self.forward, self.view, self.pool = forward, view, pool
        self.ids, self.logits = ids.clone(), forward(ids, view).clone()
        self.replays = 0
        self.made.append(self)

    def replay(self, ids: torch.Tensor, view: KVCacheView) -> torch.Tensor:
        self.ids.copy_(ids)
        self.logits.copy_(self.forward(self.ids, self.view.with_places(view.places)))
        self.replays += 1
        return self.logits


@pytest.mark.parametrize(("temperature", "stop_ids"), [(0.0, (3,)), (1.0, (3,)), (1.0, ()), (1.0, (3, 5, 8, 13))])
def test_cuda_graphs_and_looking_ahead_change_no_id(
    make_model: Callable[..., GPT], monkeypatch: pytest.MonkeyPatch, temperature: float, stop_ids: Collection[int]
) -> None:
    """Rows end while the next step is under way, or outgrow their cache and slide."""
    monkeypatch.setattr(step, "GraphedForward", FakeGraph)
    monkeypatch.setattr(FakeGraph, "made", [])
    model = make_model(context_length=320, window_pattern=(0, 50), smear=True)
    config = GenerationConfig(temperature=temperature, max_new_tokens=340)
    graphed = CudaGraphStep(model, partial(step.forward, model))
    assert texts(model, graphed, config, stop_ids, looks_ahead=True) == texts(model, None, config, stop_ids)
    assert len(FakeGraph.made) > 1 and any(one.replays > 5 for one in FakeGraph.made)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["plain", "recorded", "compiled"])
def test_on_a_gpu_every_step_draws_what_a_cpu_draws(
    make_model: Callable[..., GPT], tmp_path: Path, kind: str, temperature: float
) -> None:
    """Also where the next step is begun before the ids are known, requests end meanwhile, and caches grow and slide."""
    torch._dynamo.reset()
    model = make_model(torch.float32, context_length=320, n_layer=2, window_pattern=(0, 50), smear=True)
    config = GenerationConfig(temperature=temperature, max_new_tokens=340)
    expected = texts(model, None, config)
    model = model.cuda()
    made = model if kind == "plain" else decoding_step(model, tmp_path if kind == "compiled" else None)
    assert texts(model, made, config) == expected
    assert texts(model, made, config.model_copy(update={"speculate": 3})) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_host_never_waits_before_a_gpu_has_the_next_step(
    make_model: Callable[..., GPT], temperature: float
) -> None:
    model = make_model(torch.float32, context_length=320).cuda()
    config = GenerationConfig(temperature=temperature, top_k=5, max_new_tokens=40)
    engine = Engine(model, step=decoding_step(model))
    requests = [Request(prompt, config.params(i)) for i, prompt in enumerate(PROMPTS)]
    for request in requests:
        engine.add(request)
    for place in range(20):
        if place < 4:
            assert set(engine.step()) == set(requests)
            continue
        with torch.no_grad(), no_waiting():
            drafts = [[]] * len(requests)
            logits = engine.decode(requests, drafts)
            engine.sampler.assign(requests)
            drawn = engine.sampler.draw(logits, drafts)
            engine.ahead = engine.look_ahead(requests, drawn)
        assert engine.ahead is not None
        engine.append(requests, drawn, drafts)
    assert [request.count for request in requests] == [20] * len(requests)


def test_without_a_compiler_the_remedy_is_named(
    make_model: Callable[..., GPT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "missing_compiler", lambda device: "C++ compiler")
    with pytest.raises(UsageError, match=r"--compile needs C\+\+ compiler.*leave out --compile"):
        decoding_step(make_model(), tmp_path)
