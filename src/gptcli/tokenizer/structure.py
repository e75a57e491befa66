"""Facts about a tokenizer that follow from its tokenizer.json: its kind, and where a long text may be cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER

PIECE_CHARACTERS = 1 << 12
"""Characters of the pieces, about, in which texts are encoded: they run in parallel and in bounded memory."""

LINE_SPLITS = tuple(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for numbers in (r"\p{N}{1,3}", r"\p{N}")
)
"""Split patterns of Llama 3 and Qwen 2, in which a word of signs takes the line ends after it."""

ALTERING = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "fuse_unk")
"""Settings of a BPE model that give it rules beyond its merges."""


class Boundary(Enum):
    """The places where a text may be cut so that the ids of the pieces, joined, are the ids of the whole."""

    ANYWHERE = "anywhere"
    WORD_END = "after a word"
    BLANK = "after a word, before a blank"
    NOWHERE = "nowhere"


WORD_ENDS = {Boundary.WORD_END: re.compile(r"\S(?=[ \t\r\n])"), Boundary.BLANK: re.compile(r"\S(?=[ \t])")}
"""Places where GPT-2's split pattern, and those of LINE_SPLITS, always end a word. None of their alternatives continues
from a character that is not white space to one that is, and none looks back: a text cut here keeps the same words on
both sides."""


def kind_name(spec: Mapping[str, Any]) -> str:
    """Return `char`, `byte` or `bpe`, and for models of another type that type: `unigram`, `wordpiece`, `wordlevel`."""
    model = spec["model"]
    if model_type(model) != "BPE":
        return model_type(model).lower()
    splits_words = (spec.get("pre_tokenizer") or {}).get("use_regex", False)
    if model["merges"] or splits_words:
        return "bpe"
    return "byte" if is_byte_level(spec) else "char"


def model_type(model: Mapping[str, Any]) -> str:
    """Return the type of the model; files of old versions do not say that theirs is BPE."""
    return model.get("type") or "BPE"


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Return whether tokens are bytes written in the byte-level alphabet, and text is their bytes joined."""
    return (spec.get("decoder") or {}).get("type") == "ByteLevel"


def is_lossless(spec: Mapping[str, Any]) -> bool:
    """Return whether decoding certainly restores every text: bytes are tokens, and nothing changes the text before."""
    model, splitter = spec["model"], spec.get("pre_tokenizer") or {}
    *splits, last = splitter.get("pretokenizers") or [splitter]
    return (
        is_byte_level(spec)
        and model_type(model) == "BPE"
        and not spec.get("normalizer")
        and all(token["special"] or not (token["lstrip"] or token["rstrip"]) for token in spec.get("added_tokens", ()))
        and all(split.get("type") == "Split" and split.get("behavior") != "Removed" for split in splits)
        and writes_bytes(last)
        and model["vocab"].keys() >= BYTE_OF_CHARACTER.keys()
    )


def is_known(spec: Mapping[str, Any]) -> bool:
    """Return whether this is BPE of a structure that takes time in proportion to any text, and never fails."""
    model, splitter = spec["model"], spec.get("pre_tokenizer")
    unknown, vocabulary = model.get("unk_token"), model.get("vocab")
    return (
        model_type(model) == "BPE"
        and isinstance(vocabulary, Mapping)
        and (unknown is None or (isinstance(unknown, str) and unknown in vocabulary))
        and not any(model.get(setting) for setting in ALTERING)
        and spec.get("normalizer") in (None, {"type": "NFC"})
        and (splitter is None or type_of(splitter) == "ByteLevel" or is_line_split(splitter))
        and (spec.get("decoder") is None or type_of(spec["decoder"]) in ("ByteLevel", "Fuse"))
        and all(token.get("content") for token in spec.get("added_tokens") or ())
    )


def type_of(part: Any) -> Any:
    """Return the type of a part, or None if it is not a table."""
    return part.get("type") if isinstance(part, Mapping) else None


def is_line_split(splitter: Any) -> bool:
    """Return whether a pre-tokenizer, if it is one, splits by one of LINE_SPLITS."""
    try:
        return splits_lines(splitter)
    except (AttributeError, KeyError, TypeError):  # no pre-tokenizer
        return False


def chunk_boundary(spec: Mapping[str, Any]) -> Boundary:
    """Return where this tokenizer's texts may be cut; nowhere unless the rule is known."""
    model, splitter = spec["model"], spec.get("pre_tokenizer") or {}
    only_special_added = all(token["special"] for token in spec.get("added_tokens", ()))
    if model_type(model) != "BPE" or spec.get("normalizer") or not only_special_added:
        return Boundary.NOWHERE
    if any(model.get(setting) for setting in ALTERING):
        return Boundary.NOWHERE
    if writes_bytes(splitter) and splitter["use_regex"]:
        return Boundary.WORD_END
    if splits_lines(splitter):
        return Boundary.BLANK
    has_parts = model["merges"] or model.get("ignore_merges")
    return Boundary.ANYWHERE if not has_parts and (writes_bytes(splitter) or not splitter) else Boundary.NOWHERE


def writes_bytes(splitter: Mapping[str, Any]) -> bool:
    """Return whether this pre-tokenizer writes the bytes of the text in the byte-level alphabet, and puts nothing
    before.
    """
    return splitter.get("type") == "ByteLevel" and not splitter["add_prefix_space"]


def joins_plainly(spec: Mapping[str, Any]) -> bool:
    """Return whether nothing is put before a text: the ids of two texts, joined, are then those of the whole text
    wherever no token of it crosses the cut.
    """
    splitter = spec.get("pre_tokenizer") or {}
    *splits, last = splitter.get("pretokenizers") or [splitter]
    are_splits = all(type_of(split) in ("Split", "Digits", "Punctuation") for split in splits)
    is_plain = writes_bytes(last) if last else True
    return (
        model_type(spec["model"]) == "BPE"
        and type_of(spec.get("normalizer")) in (None, "NFC")
        and are_splits
        and is_plain
    )


def splits_lines(splitter: Mapping[str, Any]) -> bool:
    """Return whether this pre-tokenizer splits by one of LINE_SPLITS and then writes the words as bytes."""
    if splitter.get("type") != "Sequence" or len(splitter["pretokenizers"]) != 2:
        return False
    split, last = splitter["pretokenizers"]
    return (
        split["type"] == "Split"
        and split["pattern"].get("Regex") in LINE_SPLITS
        and (split["behavior"], split["invert"]) == ("Isolated", False)
        and writes_bytes(last)
        and not last["use_regex"]
    )


def pieces(text: str, cut: Boundary, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut `text` into pieces of at least `size` characters, as `cut` allows; the last may be shorter, or empty."""
    start = 0
    while cut is not Boundary.NOWHERE and len(text) - start > size:
        end = start + size
        if cut in WORD_ENDS:
            word_end = WORD_ENDS[cut].search(text, end - 1)
            end = word_end.end() if word_end else len(text)
        yield text[start:end]
        start = end
    yield text[start:]
