"""A checkout with nanoGPT's interface, in code of our own, and a small shape that every peer can build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_gpt2 import write_tiny_gpt2

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

TRAIN = """
import os
import pickle
import sys
import time

import numpy as np
import torch

from model import GPT, GPTConfig

settings = {"max_iters": 10, "eval_interval": 5, "learning_rate": 0.5, "out_dir": "out", "dataset": "none",
            "device": "cuda", "always_save_checkpoint": False, "pause": 0.0,
            "lr_decay_iters": 10, "warmup_iters": 0, "eval_iters": 1}
for argument in sys.argv[1:]:
    key, value = argument.removeprefix("--").split("=")
    if key not in settings:
        raise ValueError(f"Unknown config key: {key}")
    kind = type(settings[key])
    settings[key] = value == "True" if kind is bool else kind(value)
os.makedirs(settings["out_dir"], exist_ok=True)
torch.manual_seed(1337)
folder = os.path.join("data", settings["dataset"])
tokens = torch.from_numpy(np.fromfile(os.path.join(folder, "train.bin"), dtype=np.uint16).astype(np.int64))
with open(os.path.join(folder, "meta.pkl"), "rb") as file:
    vocab_size = pickle.load(file)["vocab_size"]
model_args = {"block_size": 8, "vocab_size": vocab_size, "n_layer": 1, "n_head": 1, "n_embd": 1, "dropout": 0.0,
              "bias": False}
model = GPT(GPTConfig(**model_args)).to(settings["device"])
print("initial", torch.rand(1).item())
optimizer = model.configure_optimizers(0.0, settings["learning_rate"], (0.9, 0.95), "cpu")
for iteration in range(settings["max_iters"] + 1):
    if iteration % settings["eval_interval"] == 0:
        model.eval()
        time.sleep(settings["pause"])
        model.train()
        if iteration and settings["always_save_checkpoint"]:
            checkpoint = {"model": model.state_dict(), "model_args": model_args, "iter_num": iteration}
            torch.save(checkpoint, os.path.join(settings["out_dir"], "ckpt.pt"))
    starts = torch.randint(len(tokens) - 9, (16,)).tolist()
    x = torch.stack([tokens[i : i + 8] for i in starts])
    y = torch.stack([tokens[i + 1 : i + 9] for i in starts])
    _, loss = model(x, y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    print(f"iter {iteration}: loss {loss.item():.4f}, time 0.00ms, mfu -100.00%")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with nanoGPT's files, as far as a bench reads them."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A config file with a tiny GPT-2."""
    return write_tiny_gpt2(tmp_path)


@pytest.fixture(autouse=True)
def workers_import_peers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes find the package of the script."""
    monkeypatch.setenv("PYTHONPATH", str(root / "scripts"))
