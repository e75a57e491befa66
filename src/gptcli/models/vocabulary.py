"""Rows for new tokens in the embedding and the head of a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model

LARGEST_PADDING = 128
"""Rows to a multiple of which a padded vocabulary is rounded up at most, as GPT-2's 50,257 are to 50,304."""


class GrownVocabulary(NamedTuple):
    """A model with rows for new tokens."""

    config: ModelConfig
    weights: Mapping[str, Tensor]
    spare: int
    """The new tokens that have rows which no token had."""


def add_tokens(config: ModelConfig, weights: Mapping[str, Tensor], known: int, wanted: int) -> GrownVocabulary:
    """Return the model with rows for the tokens from `known` to `wanted`, each of them the mean of the rows before.

    With such rows a new token is as likely as tokens are on average, and the logits of the others stay as they are
    (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Rows that no token has are used first, and a
    padded vocabulary stays padded to the same multiple.

    Args:
        config: the shape of the model.
        weights: its weights by name; they are not changed.
        known: the tokens that the model has a row for.
        wanted: the tokens that it is to have a row for.
    """
    size = max(config.vocab_size, padded(wanted, config.vocab_size, known))
    numbered = config.bigram_vocab_size or config.vocab_size if config.bigram_buckets else None
    grown = config.model_copy(update={"vocab_size": size, "bigram_vocab_size": numbered})
    tables = {name: with_mean_rows(weights[name], known, wanted, size) for name in vocabulary_weights(config)}
    return GrownVocabulary(grown, {**weights, **tables}, min(wanted, config.vocab_size) - known)


def padded(wanted: int, rows: int, known: int) -> int:
    """Return `wanted` rounded up to the multiple to which the vocabulary of `rows` rows for `known` tokens is padded.

    A vocabulary without spare rows is not padded.
    """
    if rows == known:
        return wanted
    multiple = min(rows & -rows, LARGEST_PADDING)
    return -(-wanted // multiple) * multiple


def vocabulary_weights(config: ModelConfig) -> list[str]:
    """Return the names of the weights that have a row for each token."""
    one, more = (
        build_model(config.model_copy(update={"vocab_size": config.vocab_size + extra}), device="meta")
        for extra in (0, 1)
    )
    shapes = {name: tensor.shape for name, tensor in one.state_dict().items()}
    return [name for name, tensor in more.state_dict().items() if tensor.shape != shapes[name]]


def with_mean_rows(table: Tensor, known: int, wanted: int, size: int) -> Tensor:
    """Return a table (V, C) with `size` rows: the first `known` unchanged, those up to `wanted` their mean.

    Rows beyond them, which no token has, stay as they are, and new ones are 0.
    """
    grown = torch.zeros(size, table.shape[1], dtype=table.dtype, device=table.device)
    grown[: table.shape[0]] = table
    grown[known:wanted] = table[:known].mean(dim=0, dtype=torch.float64).to(table.dtype)
    return grown
