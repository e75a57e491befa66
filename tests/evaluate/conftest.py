"""Models whose scores are known in closed form, and documents to score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

PROSE = (
    "The ferry left at nine, and Mara, who had promised to be on it, was still looking for her other boot. "
    "“Leave it,” said her brother; the café wouldn't mind.\n\nShe didn't leave it. She never left anything.\n"
)


@pytest.fixture(scope="session")
def prose() -> str:
    return PROSE


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))


@pytest.fixture(scope="session")
def char_tokenizer() -> Tokenizer:
    return build_tokenizer(CharTokenizerConfig(), lambda: iter(["abcdefghijklmnopqrstuvwxyz .\n"]))


@pytest.fixture(scope="session")
def bpe_tokenizer() -> Tokenizer:
    return build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter([PROSE]))


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Five documents of two files, of which one holds nothing and one a single character."""
    return [
        Document(PROSE, "first.txt"),
        Document("", "first.txt"),
        Document("Ω", "second.jsonl"),
        Document("Short, and to the point.", "second.jsonl"),
        Document(PROSE[50:170], "second.jsonl"),
    ]


@pytest.fixture(scope="session")
def unigram_model() -> Callable[[torch.Tensor], GPT]:
    """log-probabilities (V,) -> a model that gives every token its probability whatever came before."""

    def build(logprobs: torch.Tensor) -> GPT:
        config = ModelConfig(
            vocab_size=len(logprobs), context_length=32, n_layer=1, n_head=1, n_embd=8, norm="layernorm", bias=True,
            tie_embeddings=False,
        )  # fmt: skip
        model = build_model(config, dtype=torch.float64)
        with torch.no_grad():
            model.final_norm.weight.zero_()
            model.final_norm.bias.fill_(1.0)
            model.head.weight.copy_(logprobs[:, None] / config.n_embd)
        return model.eval()

    return build
