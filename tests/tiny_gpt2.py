"""A tiny GPT-2, as a config file."""

from __future__ import annotations

from pathlib import Path

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


def write_tiny_gpt2(folder: Path) -> Path:
    """Write the config file into the folder and return its path."""
    path = folder / "tiny.toml"
    path.write_text(SHAPE)
    return path
