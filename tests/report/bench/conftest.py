"""A checkout with nanoGPT's interface, in code of our own, and a small shape that every peer can build."""

from __future__ import annotations

from pathlib import Path

import pytest

MODEL = '''
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


class GPT(torch.nn.Module):
    """A bigram model: each token's logits depend on the token before it alone."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, idx, targets=None):
        logits = self.table(idx)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            idx = torch.cat((idx, self(idx)[0][:, -1].argmax(-1, keepdim=True)), dim=1)
        return idx
'''

SHAPE = """
[model]
vocab_size = 61
context_length = 32
n_layer = 2
n_head = 2
n_embd = 32
norm = "layernorm"
norm_eps = 1e-5
position = "learned"
mlp = "gelu_tanh"
qk_norm = false
bias = true
tie_embeddings = true

[optim]
lr = 0.01
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with nanoGPT's files, as far as a bench reads them."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A config file with a tiny GPT-2."""
    path = tmp_path / "tiny.toml"
    path.write_text(SHAPE)
    return path
