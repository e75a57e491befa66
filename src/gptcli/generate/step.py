"""Decoding steps: the model's own forward pass, one recorded as a CUDA graph, or a compiled one.

Shapes: B rows, T tokens read at a time, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcli.errors import UsageError
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache, KVCacheView
from gptcli.nn.compiling import compile_whole, missing_compiler
from gptcli.nn.state import ForwardState

SMALLEST_END = 256
"""Least places of each slot that attention sees in a static-shape step, unless the cache has fewer."""

DecodingStep = Callable[[Tensor, KVCache], Tensor]
"""(ids (B, T), cache) -> logits (B, T, V), the ids being appended to the first B slots; a GPT itself is one."""
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
    """A forward pass of `model` whose shapes stay the same from step to step: attention sees as many places of each
    slot as the power of two above the longest. Rows beyond those that decode may be computed too: what they write is
    never read.
    """

    def __init__(self, model: GPT, forward: Forward) -> None:
        self.model, self.forward = model, forward

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Append ids (B, T) to the first B slots of the cache and return the logits (B, T, V)."""
        B, T = ids.shape
        rows = self.rows(B, cache)
        end = min(cache.capacity, max(SMALLEST_END, power_of_two(max(cache.lengths[:rows]) + T)))
        if rows > B:
            ids = F.pad(ids, (0, 0, 0, rows - B))
        self.model.reserve_positions(cache.capacity)
        view = cache.extend(T, [T] * B + [0] * (rows - B), slots=range(rows), static_end=end)
        return self.run(ids, view, cache)[:B]

    def rows(self, count: int, cache: KVCache) -> int:
        """Return the number of rows to compute for `count` requests: never one of several, which compiled code would
        treat as a case of its own.
        """
        return min(cache.slots, max(count, 2))

    def run(self, ids: Tensor, view: KVCacheView, cache: KVCache) -> Tensor:
        """Run the forward pass over a view of the cache."""
        return self.forward(ids, view)


class CudaGraphStep(StaticShapeStep):
    """A static-shape step recorded as a CUDA graph. The CPU launches it at once; launching its kernels one by one would
    leave the GPU idle between them.

    A graph works on the memory that it was recorded with. There is one for each number of rows, tokens and places, the
    first and the last in powers of two; they share the memory of their intermediate results. So the logits last until
    the next step.
    """

    def __init__(self, model: GPT, forward: Forward) -> None:
        super().__init__(model, forward)
        self.graphs: WeakKeyDictionary[KVCache, dict[tuple[int, int, int], GraphedForward | None]] = WeakKeyDictionary()
        """The graphs of each cache by rows, tokens and places; None where only one step has been run."""

    def rows(self, count: int, cache: KVCache) -> int:
        """Return the number of rows to compute for `count` requests: a power of two, or all slots."""
        return min(cache.slots, power_of_two(count))

    def run(self, ids: Tensor, view: KVCacheView, cache: KVCache) -> Tensor:
        """Replay the graph for this cache and these shapes; record it at the second step."""
        graphs, shape = self.graphs.setdefault(cache, {}), (*ids.shape, view.end)
        if shape not in graphs:  # work that is done once (workspaces, compilation) must not be recorded
            graphs[shape] = None
            return self.forward(ids, view)
        graph = graphs[shape]
        if graph is None:
            pool = next((other.pool for other in graphs.values() if other is not None), None)
            graph = graphs[shape] = GraphedForward(self.forward, ids, view, pool)
        return graph.replay(ids, view)


class GraphedForward:
    """One forward pass as a CUDA graph; `pool` is the memory of another one that it may use."""

    def __init__(self, forward: Forward, ids: Tensor, view: KVCacheView, pool: Any = None) -> None:
        self.ids, self.places = ids.clone(), torch.as_tensor(view.places).clone()  # never a slice in a static shape
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            self.logits = forward(self.ids, view.with_places(self.places))
        self.pool = self.graph.pool()

    def replay(self, ids: Tensor, view: KVCacheView) -> Tensor:
        """Run it for other ids (B, T) at the places of `view`, and return the logits (B, T, V)."""
        self.ids.copy_(ids)
        self.places.copy_(torch.as_tensor(view.places))
        self.graph.replay()
        return self.logits


def power_of_two(count: int) -> int:
    """Return the smallest power of two that is not below `count`, which is positive."""
    return 1 << (count - 1).bit_length()


def compiled_step(model: GPT, cache_dir: Path) -> StaticShapeStep:
    """Compile the model as one piece, at the first call: about a minute for GPT-2's twelve layers.

    On a CPU the weights become part of the code, which the library's 8-bit matmuls need; every process compiles such
    code again. On CUDA the compiled step is recorded as well. Rows and places change now and then: each number is a new
    shape, and the second shape is compiled for all that follow.

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
