"""The configuration of a run's tokenizer: one class for each kind, distinguished by `name`, and shorthand strings. It
imports no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from gptcli.config import Config

SMALLEST_BPE = 257
LARGEST_BPE = 1_000_000


class CharTokenizerConfig(Config):
    """One token for every distinct character of the training texts; any other character becomes <unk>."""

    name: Literal["char"] = "char"
    """The kind of tokenizer."""


class ByteTokenizerConfig(Config):
    """One token for every byte of UTF-8: represents every text and needs no training."""

    name: Literal["byte"] = "byte"
    """The kind of tokenizer."""


class BpeTokenizerConfig(Config):
    """Byte-level BPE with GPT-2's split pattern, trained on the training texts: represents every text."""

    name: Literal["bpe"] = "bpe"
    """The kind of tokenizer."""

    vocab_size: int = 4096
    """Number of tokens, including the 256 bytes and <|endoftext|>."""

    min_frequency: int = Field(2, ge=1)
    """Least number of occurrences in the training texts of a pair of tokens that is merged."""

    @field_validator("vocab_size")
    @classmethod
    def holds_every_byte(cls, size: int) -> int:
        """Require room for the 256 bytes and <|endoftext|>."""
        if not SMALLEST_BPE <= size <= LARGEST_BPE:
            raise ValueError(
                f"{size} is not between {SMALLEST_BPE} (the 256 bytes and <|endoftext|>) and {LARGEST_BPE:,}; "
                "set a vocabulary size in between, or use the byte tokenizer"
            )
        return size


class FileTokenizerConfig(Config):
    """An existing tokenizer: a tokenizer.json, or a folder that holds one or vocab.json and merges.txt."""

    name: Literal["file"] = "file"
    """The kind of tokenizer."""

    path: str = Field(min_length=1)
    """The tokenizer.json or the folder."""


class HubTokenizerConfig(Config):
    """The tokenizer.json of a model on the Hugging Face Hub."""

    name: Literal["hf"] = "hf"
    """The kind of tokenizer."""

    repo: str = Field(min_length=1)
    """The model's name on the Hub, such as openai-community/gpt2."""

    revision: str | None = None
    """A branch, tag or commit; None for the main branch."""


SHORTHAND_FIELDS = {"file": "path", "hf": "repo"}


def expand_shorthand(value: Any) -> Any:
    """Replace `char`, `bpe`, `file:PATH` and `hf:NAME` by a table; they may stand for the whole section or for its
    `name`.
    """
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        name, colon, rest = value["name"].partition(":")
        if colon and name in SHORTHAND_FIELDS:
            return {**value, "name": name, SHORTHAND_FIELDS[name]: rest}
    return value


TokenizerConfig = Annotated[
    CharTokenizerConfig | ByteTokenizerConfig | BpeTokenizerConfig | FileTokenizerConfig | HubTokenizerConfig,
    Field(discriminator="name"),
    BeforeValidator(expand_shorthand),
]
