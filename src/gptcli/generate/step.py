"""How a decoding step is made: by the model as it is, or compiled.

Shapes: B rows, T tokens read at a time, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gptcli.errors import UsageError
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache, KVWindow
from gptcli.nn.compiling import compile_whole, missing_compiler

DecodingStep = Callable[[Tensor, KVCache], Tensor]
"""(ids (B, T), cache) -> logits (B, T, V); the ids follow what the cache holds, and are written but not counted."""


class PlainStep:
    """The model's own."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        return self.model.next_logits(ids, cache)


class CompiledStep:
    """The same in one compiled piece, made at the first call: about a minute for GPT-2's twelve layers.

    On a CPU the weights become part of the code, which is what the library's 8-bit products ask for; such code is made
    anew by every process. On CUDA the step is recorded as a graph, which a CPU launches at once. Attention sees all
    slots of the cache, which the engine makes larger as they fill: each size is a new shape, and the second shape is
    compiled for all that follow.
    """

    def __init__(self, model: GPT, cache_dir: Path) -> None:
        """Raises UsageError: what torch compiles with is missing."""
        self.device = model.embedding.weight.device
        if missing := missing_compiler(self.device):
            raise UsageError(f"--compile needs {missing}, and there is none", "install it, or leave out --compile")
        on_cuda = self.device.type == "cuda"

        def step(ids: Tensor, window: KVWindow) -> Tensor:
            return model.logits(model.hidden_states(ids, KVCache.of(window)))

        if not on_cuda:
            from torch._inductor import config  # not above: it takes a second, which every other command would pay

            config.freezing = True  # of the process: an option of one compilation comes too late for it
        options = {"triton.cudagraphs": True} if on_cuda else {}
        remedy = "leave out --compile"
        self.compiled = compile_whole(step, "the model", remedy, cache_dir, options=options)
        self.known: KVCache | None = None

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        cache.begin(ids.shape[1], multiple=cache.capacity)
        window = cache.window()
        if self.device.type == "cuda":
            if cache is not self.known:  # a recorded graph writes to where the cache was when it was recorded
                for tensor in (*window.keys, *window.values, window.ids):
                    torch._dynamo.mark_static_address(tensor)
                self.known = cache
            torch.compiler.cudagraph_mark_step_begin()
        return self.compiled(ids, window)
