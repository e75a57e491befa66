"""Measurements of texts and of splits, with options by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptcli.data.corpus import Document
from gptcli.data.shards import TokenShards
from gptcli.evaluate.perplexity import (
    Evaluation,
    PerplexityOptions,
    encoded_texts,
    evaluate_documents,
    stored_documents,
)
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer


def evaluate_texts(model: GPT, tokenizer: Tokenizer, documents: Iterable[Document], **options: Any) -> Evaluation:
    return evaluate_documents(model, tokenizer, encoded_texts(tokenizer, documents), PerplexityOptions(**options))


def evaluate_shards(model: GPT, tokenizer: Tokenizer, shards: TokenShards, name: str, **options: Any) -> Evaluation:
    return evaluate_documents(model, tokenizer, stored_documents(tokenizer, shards, name), PerplexityOptions(**options))
