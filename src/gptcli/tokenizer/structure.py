"""What a tokenizer.json says about the tokenizer: its kind, and where a long text may be cut. Encodes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

PIECE_CHARACTERS = 1 << 12
"""Texts are encoded in pieces of about this many characters: they run in parallel and in bounded memory."""

WORD_END = re.compile(r"\S(?=[ \t\r\n])")
"""Where GPT-2's split pattern always ends a word. None of its alternatives passes from a character that is no white
space to one that is, and none looks back: cut here, a text keeps the same words on both sides."""


class Cut(Enum):
    """Where a text may be cut so that the ids of the pieces, joined, are the ids of the whole."""

    ANYWHERE = "anywhere"
    WORD_END = "after a word"
    NOWHERE = "nowhere"


def kind_name(spec: Mapping[str, Any]) -> str:
    """`char`, `byte` or `bpe`, and for models of another type that type: `unigram`, `wordpiece`, `wordlevel`."""
    model = spec["model"]
    if model_type(model) != "BPE":
        return model_type(model).lower()
    splits_words = (spec.get("pre_tokenizer") or {}).get("use_regex", False)
    if model["merges"] or splits_words:
        return "bpe"
    return "byte" if is_byte_level(spec) else "char"


def model_type(model: Mapping[str, Any]) -> str:
    """The type of the model; files of old versions do not say that theirs is BPE."""
    return model.get("type") or "BPE"


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Whether tokens are bytes written in the byte-level alphabet, and text is their bytes joined."""
    return (spec.get("decoder") or {}).get("type") == "ByteLevel"


def cut_rule(spec: Mapping[str, Any]) -> Cut:
    """Where this tokenizer's texts may be cut; nowhere unless it is one whose rule is known."""
    only_special_added = all(token["special"] for token in spec.get("added_tokens", ()))
    if model_type(spec["model"]) != "BPE" or spec.get("normalizer") or not only_special_added:
        return Cut.NOWHERE
    splitter = spec.get("pre_tokenizer") or {}
    plain_bytes = splitter.get("type") == "ByteLevel" and not splitter["add_prefix_space"]
    if plain_bytes and splitter["use_regex"]:
        return Cut.WORD_END
    if not spec["model"]["merges"] and not spec["model"].get("fuse_unk") and (plain_bytes or not splitter):
        return Cut.ANYWHERE
    return Cut.NOWHERE


def pieces(text: str, cut: Cut, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut `text` into pieces of at least `size` characters, as `cut` allows; the last may be shorter, or empty."""
    start = 0
    while cut is not Cut.NOWHERE and len(text) - start > size:
        end = start + size
        if cut is Cut.WORD_END:
            word_end = WORD_END.search(text, end - 1)
            end = word_end.end() if word_end else len(text)
        yield text[start:end]
        start = end
    yield text[start:]
