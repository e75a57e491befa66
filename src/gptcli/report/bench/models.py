"""The models of a bench: shapes by name, and directories that every contender opens."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch

from gptcli.config import merge, validate
from gptcli.config.load import with_origin
from gptcli.config.shipped import read_settings
from gptcli.errors import UsageError
from gptcli.interop.families import family_named
from gptcli.interop.huggingface import model_config, read_foreign_config, write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.special import END_OF_TEXT
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.config import RunConfig


def read_config(directory: str) -> ModelConfig:
    """The config of ours that computes what the model in `directory` does."""
    foreign = read_foreign_config(Path(directory))
    return model_config(family_named(foreign), foreign)


def named_shape(name: str, assignments: Sequence[str], options: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a TOML file or a shipped name, with --set values and then the bench's own `options`.

    Raises:
        ConfigError, UsageError: there is no such config, a value is wrong, or the size of the vocabulary is missing.
    """
    settings = read_settings([name], assignments)
    config = validate(RunConfig, merge(settings, with_origin(options or {}, "the options of the bench")))
    if config.model.vocab_size == 0:
        raise UsageError(f"{name} has no model.vocab_size", "give it one: --set model.vocab_size=50257")
    return config


def write_random_model(config: ModelConfig, directory: Path) -> None:
    """A Hugging Face directory with random weights and a vocabulary of words that mean nothing: how fast a model
    computes does not depend on either."""
    words = [f"w{number}" for number in range(config.vocab_size - 1)]
    vocabulary = {word: number for number, word in enumerate([*words, END_OF_TEXT])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    backend.add_special_tokens([END_OF_TEXT])
    write_huggingface(build_model(config), Tokenizer(backend), directory)


def write_small_model(directory: Path) -> None:
    """A Hugging Face directory with a model that takes no time to load, and writes a letter with its first token."""
    letters = build_tokenizer(CharTokenizerConfig(), lambda: iter([string.ascii_lowercase]))
    model = build_model(ModelConfig(vocab_size=letters.vocab_size, n_layer=1, n_head=2, n_embd=16, context_length=32))
    with torch.no_grad():
        model.embedding.weight[len(string.ascii_lowercase) :] = 0  # what is no letter has the logit 0, which never wins
    write_huggingface(model, letters, directory)
