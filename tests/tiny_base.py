"""A tiny model with random weights and a tokenizer of bytes, as a base for further training."""

from __future__ import annotations

from pathlib import Path

from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer


def write_tiny_base(directory: Path, **shape: object) -> Path:
    """Write it as a Hugging Face directory, and return that."""
    tokenizer = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 16, "n_layer": 2, "n_head": 2, "n_embd": 32, **shape}
    write_huggingface(build_model(ModelConfig(**sizes), seed=7), tokenizer, directory)
    return directory
