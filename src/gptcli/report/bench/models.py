"""The models of a bench: shapes by name, and model directories with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from gptcli.config import merge, validate
from gptcli.config.load import with_origin
from gptcli.config.shipped import read_settings
from gptcli.errors import UsageError
from gptcli.interop.families import family_named
from gptcli.interop.huggingface import model_config, read_foreign_config, write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.special import END_OF_TEXT
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.config import RunConfig


def read_config(directory: str) -> ModelConfig:
    """Return the configuration of gptcli's model that computes the same as the model in `directory`."""
    foreign = read_foreign_config(Path(directory))
    return model_config(family_named(foreign), foreign)


def named_shape(name: str, assignments: Sequence[str], options: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a TOML file or a shipped name, with --set values and then the bench's own `options`.

    Raises:
        ConfigError, UsageError: there is no such config, a value is wrong, or the size of the vocabulary is missing.
    """
    settings = read_settings([name], assignments)
    config = validate(RunConfig, merge(settings, with_origin(options or {}, "the options of the bench")))
    if config.model.vocab_size == 0:
        raise UsageError(f"{name} has no model.vocab_size", "give it one: --set model.vocab_size=50257")
    return config


def write_random_model(config: ModelConfig, directory: Path) -> None:
    """Write a Hugging Face directory with random weights and a vocabulary of meaningless words.

    A model's speed depends on neither.
    """
    words = [f"w{number}" for number in range(config.vocab_size - 1)]
    vocabulary = {word: number for number, word in enumerate([*words, END_OF_TEXT])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=END_OF_TEXT))
    backend.add_special_tokens([END_OF_TEXT])
    write_huggingface(build_model(config), Tokenizer(backend), directory)
