"""The model that is served, and texts of given lengths in its tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptcli.config import validate
from gptcli.config.shipped import read_settings
from gptcli.errors import UsageError
from gptcli.interop.gguf import GgufMetadata, write_gguf
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.report.bench.encoding import EncodingRequest, read_corpus
from gptcli.report.bench.tables import shown
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from gptcli.train.config import RunConfig

CORPUS_MEGABYTES = 1.0
MOST_ENTRIES = 8192
"""Entries of the tokenizer of a model with random weights; a larger vocabulary has ids that never occur."""
SMALLEST_VOCABULARY = 2048


@dataclass(frozen=True)
class ModelChoice:
    """A directory of the user, or a config, whose shape is given random weights."""

    model: str
    assignments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name for a heading."""
        return shown((self.model, *self.assignments))


class ServedModel:
    """The files of a model, and texts for it from Python's library.

    Attributes:
        directory: in Hugging Face's form.
    """

    def __init__(self, directory: Path, model: GPT, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self.directory, self.model, self.tokenizer = directory, model, tokenizer
        self.ids = tokenizer.encode("\n".join(texts))

    @property
    def context(self) -> int:
        """Most tokens that the model reads."""
        return self.model.config.context_length

    def text(self, tokens: int, seed: int) -> str:
        """Return a text of about so many tokens; another seed gives another place of the corpus."""
        start = random.Random(seed).randrange(max(1, len(self.ids) - tokens))
        return self.tokenizer.decode(self.ids[start : start + tokens])

    def write_gguf(self, path: Path) -> Path:
        """Write the weights in fp32 for llama.cpp and return the path.

        Raises:
            UsageError: llama.cpp has no form for the model.
        """
        write_gguf(self.model, self.tokenizer, path, "f32", GgufMetadata("bench"))
        return path


def prepare_model(choice: ModelChoice, needed: int, scratch: Path) -> ServedModel:
    """Return the user's model, or write one of the shape with random weights and a context of `needed` tokens or more.

    Raises:
        UsageError: settings are given for a directory, or its context is too short.
    """
    texts = read_corpus(EncodingRequest(megabytes=CORPUS_MEGABYTES))
    if not Path(choice.model).is_dir():
        return random_model(choice, needed, scratch, texts)
    if choice.assignments:
        raise UsageError(f"{choice.model} is a model already", "leave out --set")
    directory = Path(choice.model).resolve()
    model, tokenizer = read_huggingface(directory)
    if model.config.context_length < needed:
        raise UsageError(
            f"{needed} tokens are more than the model's context of {model.config.context_length}",
            "name a shape instead, which gets random weights and a longer context: --model demo",
        )
    return ServedModel(directory, model, tokenizer, texts)


def random_model(choice: ModelChoice, needed: int, directory: Path, texts: Sequence[str]) -> ServedModel:
    """Write a model with random weights that only ever prefers tokens of whole characters, and return it."""
    config = validate(RunConfig, read_settings([choice.model], choice.assignments)).model
    size = config.vocab_size or SMALLEST_VOCABULARY
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=min(size, MOST_ENTRIES)), lambda: iter(texts))
    settings = {"vocab_size": max(size, tokenizer.vocab_size), "context_length": max(config.context_length, needed)}
    model = build_model(ModelConfig.model_validate(config.model_dump() | settings))
    randomize(model, plain_tokens(tokenizer))
    write_huggingface(model, tokenizer, directory)
    return ServedModel(directory, model.eval(), tokenizer, texts)


def plain_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens whose text is of ASCII characters that can be printed: each is a piece of a stream."""
    texts = ((token, tokenizer.decode([token])) for token in range(tokenizer.vocab_size))
    special = tokenizer.special_ids
    return [token for token, text in texts if text and text.isascii() and text.isprintable() and token not in special]


@torch.no_grad()
def randomize(model: GPT, tokens: Sequence[int]) -> None:
    """Give the model weights with which every token of a text matters for the next one, which is one of `tokens`.

    As they are initialised, some matrices of a model are zero. A logit of 0 is never the highest.
    """
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    rows = (model.embedding if model.config.tie_embeddings else model.head).weight
    is_plain = torch.zeros(rows.shape[0], dtype=torch.bool)
    is_plain[list(tokens)] = True
    rows[~is_plain] = 0
