"""A tiny base model and tiny conversations, for tests of fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

QUICK = (
    "--set=train.max_steps=4", "--set=train.tokens_per_step=256", "--set=train.batch_size=2",
    "--set=train.eval_every_steps=2", "--set=train.checkpoint_every_steps=2", "--set=device=cpu",
)  # fmt: skip


def write_base(directory: Path, spare: int = 0, **slots: Any) -> Path:
    """Write a model directory with random weights and a byte tokenizer, and `spare` rows that no token has."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    sizes = {"vocab_size": tokenizer.vocab_size + spare, "context_length": 64, "n_layer": 1, "n_head": 2, "n_embd": 32}
    write_huggingface(build_model(ModelConfig(**(sizes | slots)), seed=7), tokenizer, directory)
    return directory


def conversations(count: int) -> list[dict[str, Any]]:
    """Return rows with one question and one answer each."""
    return [
        {"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": f"No {n * n}."}]}
        for n in range(count)
    ]


def write_conversations(path: Path, count: int = 60) -> Path:
    """Write conversations as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(count)))
    return path
