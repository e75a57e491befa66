"""What gptcli uses of llama-cpp-python, with its names and arguments, computed from a GGUF file by gptcli's own reader.

It shows that the package is called as it wants to be called, not that llama.cpp computes the same: where the package is
installed, other tests run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from gptcli.interop.gguf import read_gguf
from gptcli.tokenizer.train import byte_tokenizer

__version__ = "stand-in"
GGML_TYPE_F32 = 0


class Llama:
    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        logits_all: bool = False,
        type_k: int | None = None,
        type_v: int | None = None,
        verbose: bool = True,
    ) -> None:
        self.model, self.n_batch, self.logits_all = read_gguf(Path(model_path)), min(n_ctx, n_batch), logits_all
        rows = n_ctx if logits_all else n_batch
        self.scores = np.full((rows, self.model.config.vocab_size), np.nan, dtype=np.float32)
        self.n_ctx, self.n_tokens, self.ids = n_ctx, 0, np.zeros(n_ctx, dtype=np.intc)

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        assert not special
        return ([256] if add_bos else []) + byte_tokenizer().encode(text.decode())

    def reset(self) -> None:
        self.n_tokens = 0

    def eval(self, tokens: Sequence[int]) -> None:
        if self.n_tokens + len(tokens) > self.n_ctx:
            raise RuntimeError("llama_decode returned 1")
        end = self.n_tokens + len(tokens)
        self.ids[self.n_tokens : end] = tokens
        with torch.no_grad():
            logits = self.model(torch.from_numpy(self.ids[:end].astype(np.int64))[None])[0].numpy()
        if self.logits_all:
            self.scores[self.n_tokens : end] = logits[self.n_tokens :]
        self.last, self.n_tokens = logits[-1], end

    def generate(
        self, tokens: Sequence[int], top_k: int = 40, temp: float = 0.8, repeat_penalty: float = 1.0, reset: bool = True
    ) -> Iterator[int]:
        assert temp == 0.0 and repeat_penalty == 1.0 and self.n_tokens == 0
        self.eval(tokens)
        while True:
            token = int(self.last.argmax())
            yield token
            self.eval([token])
