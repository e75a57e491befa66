"""Tiny models with untrained but far from uniform weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def make_model() -> Callable[..., GPT]:
    """A float64 model whose weights are large, so that what it draws depends on everything that it has read."""

    def make(dtype: torch.dtype = torch.float64, **settings: object) -> GPT:
        shape = {"vocab_size": 29, "context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
        config = ModelConfig.model_validate({**shape, "init_std": 0.4, "tie_embeddings": False, **settings})
        model = build_model(config, seed=3, dtype=dtype).eval()
        generator = torch.Generator().manual_seed(4)
        for tensor in model.parameters():
            if not tensor.any():  # what begins at zero must matter as well
                tensor.data = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(dtype)
        return model

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """One token a byte, so that an untrained model writes characters of several tokens, and broken ones."""
    from gptcli.tokenizer.config import ByteTokenizerConfig
    from gptcli.tokenizer.train import build_tokenizer

    return build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
