"""Decoding steps: the model's own forward pass, one recorded as a CUDA graph, or a compiled one.

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
from gptcli.nn.cache import KVCache, KVCacheView
from gptcli.nn.compiling import compile_whole, missing_compiler
from gptcli.nn.state import ForwardState

DecodingStep = Callable[[Tensor, KVCache], Tensor]
"""(ids (B, T), cache) -> logits (B, T, V), the ids being appended to the cache; a GPT itself is one."""
Forward = Callable[[Tensor, KVCacheView], Tensor]
"""The same over a view of the cache: a function of tensors alone."""


def decoding_step(model: GPT, compiled_in: Path | None = None) -> DecodingStep:
    """Return the fastest decoding step of `model`, or a compiled one, whose code is kept in `compiled_in`.

    Raises:
        UsageError: a part that torch.compile needs is missing.
    """
    if compiled_in is not None:
        return compiled_step(model, compiled_in)
    return CudaGraphStep(model, partial(forward, model)) if model.embedding.weight.is_cuda else model


def forward(model: GPT, ids: Tensor, view: KVCacheView) -> Tensor:
    """Map ids (B, T) to logits (B, T, V)."""
    return model.logits(model.hidden_states(ForwardState(ids, view)))


class StaticShapeStep:
    """A forward pass of `model` in which attention sees every slot of the cache, so that shapes stay the same."""

    def __init__(self, model: GPT, forward: Forward) -> None:
        self.model, self.forward = model, forward

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Append ids (B, T) to the cache and return the logits (B, T, V)."""
        self.model.reserve_positions(cache.capacity)
        return self.run(ids, cache.extend(ids.shape[1], static=True))

    def run(self, ids: Tensor, view: KVCacheView) -> Tensor:
        """Run the forward pass over a view of the whole cache."""
        return self.forward(ids, view)


class CudaGraphStep(StaticShapeStep):
    """A static-shape step recorded as a CUDA graph. The CPU launches it at once; launching its kernels one by one would
    leave the GPU idle between them.

    A graph works on the memory that it was recorded with, so there is one for each cache and number of tokens. The
    logits are the graph's own and last until the next step.
    """

    def __init__(self, model: GPT, forward: Forward) -> None:
        super().__init__(model, forward)
        self.cached_ids: Tensor | None = None
        """The ids of the cache that the graphs belong to: another tensor as soon as rows have left the cache."""
        self.graphs: dict[int, GraphedForward | None] = {}
        """The graphs by number of tokens; None where only one step has been run."""

    def run(self, ids: Tensor, view: KVCacheView) -> Tensor:
        """Replay the graph for this cache and number of tokens; record it at the second step."""
        count = ids.shape[1]
        if view.ids is not self.cached_ids:
            if self.graphs:
                torch.cuda.synchronize(ids.device)  # a step whose logits are unused may still be running
            self.cached_ids, self.graphs = view.ids, {}
        if count not in self.graphs:  # work that is done once (workspaces, compilation) must not be recorded
            self.graphs[count] = None
            return self.forward(ids, view)
        graph = self.graphs[count] or GraphedForward(self.forward, ids, view)
        self.graphs[count] = graph
        return graph.replay(ids, view)


class GraphedForward:
    """One forward pass as a CUDA graph."""

    def __init__(self, forward: Forward, ids: Tensor, view: KVCacheView) -> None:
        self.ids, self.places = ids.clone(), torch.as_tensor(view.places).clone()  # never a slice in a static shape
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = forward(self.ids, view._replace(places=self.places))

    def replay(self, ids: Tensor, view: KVCacheView) -> Tensor:
        """Run it for other ids (B, T) at the places of `view`, and return the logits (B, T, V)."""
        self.ids.copy_(ids)
        self.places.copy_(torch.as_tensor(view.places))
        self.graph.replay()
        return self.logits


def compiled_step(model: GPT, cache_dir: Path) -> StaticShapeStep:
    """Compile the model as one piece, at the first call: about a minute for GPT-2's twelve layers.

    On a CPU the weights become part of the code, which the library's 8-bit matmuls need; every process compiles such
    code again. On CUDA the compiled step is recorded as well. Attention sees every slot of the cache, which the engine
    enlarges as it fills: each size is a new shape, and the second shape is compiled for all that follow.

    Raises:
        UsageError: a part that torch.compile needs is missing.
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

        config.freezing = True  # for the process: an option of one compilation comes too late for it

    def whole(ids: Tensor, view: KVCacheView) -> Tensor:
        return forward(model, ids, view)

    compiled = compile_whole(whole, "the model", "leave out --compile", cache_dir, options=options)
    return CudaGraphStep(model, compiled) if device.type == "cuda" else StaticShapeStep(model, compiled)
