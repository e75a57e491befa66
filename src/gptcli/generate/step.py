"""How a decoding step is made: by the model as it is, recorded as a CUDA graph, or compiled.

Shapes: B rows, T tokens read at a time, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gptcli.errors import UsageError
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache, KVWindow
from gptcli.nn.compiling import compile_whole, missing_compiler

DecodingStep = Callable[[Tensor, KVCache], Tensor]
"""(ids (B, T), cache) -> logits (B, T, V); the ids follow what the cache holds, and are written but not counted."""
Reading = Callable[[Tensor, KVWindow], Tensor]
"""The same where attention sees all slots of the cache: a function of tensors alone."""


def decoding_step(model: GPT, compiled_in: Path | None = None) -> DecodingStep:
    """The fastest way to take the steps of `model`; compiled, with the code kept in `compiled_in`, if that is given.

    Raises:
        UsageError: what torch compiles with is missing.
    """
    if compiled_in is not None:
        return compiled_step(model, compiled_in)
    return RecordedStep(model, partial(read, model)) if model.embedding.weight.is_cuda else PlainStep(model)


def read(model: GPT, ids: Tensor, window: KVWindow) -> Tensor:
    """ids (B, T) -> logits (B, T, V)"""
    return model.logits(model.hidden_states(ids, KVCache.of(window)))


class PlainStep:
    """The model's own."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        return self.model.next_logits(ids, cache)


class WholeStep:
    """A reading of `model`, of all slots of the cache."""

    def __init__(self, model: GPT, reading: Reading) -> None:
        self.model, self.reading = model, reading

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        self.model.reserve_positions(cache.capacity)
        cache.begin(ids.shape[1], multiple=cache.capacity)
        return self.take(ids, cache.window())

    def take(self, ids: Tensor, window: KVWindow) -> Tensor:
        return self.reading(ids, window)


class RecordedStep(WholeStep):
    """A reading recorded as a CUDA graph, which the CPU launches at once, where its kernels, launched one by one, would
    leave the GPU idle between them.

    A graph works on the memory that it was recorded with, so there is one for each cache and number of tokens. The
    logits are the graph's own and last until the next step.
    """

    def __init__(self, model: GPT, reading: Reading) -> None:
        super().__init__(model, reading)
        self.cached_ids: Tensor | None = None
        """Of the cache that the graphs belong to: it is another tensor as soon as rows have left the cache."""
        self.graphs: dict[int, Recording | None] = {}
        """By the number of tokens; none where only one step was taken."""

    def take(self, ids: Tensor, window: KVWindow) -> Tensor:
        count = ids.shape[1]
        if window.ids is not self.cached_ids:
            if self.graphs:
                torch.cuda.synchronize(ids.device)  # a step taken in vain may still be running
            self.cached_ids, self.graphs = window.ids, {}
        if count not in self.graphs:  # what is done once (workspaces, compilation) must not be recorded
            self.graphs[count] = None
            return self.reading(ids, window)
        graph = self.graphs[count] or Recording(self.reading, ids, window)
        self.graphs[count] = graph
        return graph.replay(ids, window.positions)


class Recording:
    """One reading as a graph."""

    def __init__(self, reading: Reading, ids: Tensor, window: KVWindow) -> None:
        self.ids, self.positions = ids.clone(), window.positions.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = reading(self.ids, window._replace(positions=self.positions))

    def replay(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The same for other ids (B, T) at other positions (B, T) -> logits (B, T, V)."""
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.logits


def compiled_step(model: GPT, cache_dir: Path) -> WholeStep:
    """The model in one compiled piece, made at the first call: about a minute for GPT-2's twelve layers.

    On a CPU the weights become part of the code, which is what the library's 8-bit products ask for; such code is made
    anew by every process. On CUDA it is recorded as well. Attention sees all slots of the cache, which the engine makes
    larger as they fill: each size is a new shape, and the second shape is compiled for all that follow.

    Raises:
        UsageError: what torch compiles with is missing.
    """
    device = model.embedding.weight.device
    if missing := missing_compiler(device):
        raise UsageError(f"--compile needs {missing}, and there is none", "install it, or leave out --compile")
    options = {}
    if device.type == "cuda":
        # Without it the compiler leaves a matrix times a vector to the library, which reads memory more slowly.
        options["coordinate_descent_tuning"] = True
    else:
        from torch._inductor import config  # not above: it takes a second, which every other command would pay

        config.freezing = True  # of the process: an option of one compilation comes too late for it

    def reading(ids: Tensor, window: KVWindow) -> Tensor:
        return read(model, ids, window)

    compiled = compile_whole(reading, "the model", "leave out --compile", cache_dir, options=options)
    return RecordedStep(model, compiled) if device.type == "cuda" else WholeStep(model, compiled)
