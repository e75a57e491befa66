"""Tiny models with untrained but far from uniform weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model


@pytest.fixture
def make_model() -> Callable[..., GPT]:
    """A float64 model whose weights are large, so that what it draws depends on everything that it has read."""

    def make(dtype: torch.dtype = torch.float64, **settings: object) -> GPT:
        shape = {"vocab_size": 29, "context_length": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
        config = ModelConfig.model_validate({**shape, "init_std": 0.4, "tie_embeddings": False, **settings})
        return build_model(config, seed=3, dtype=dtype).eval()

    return make
