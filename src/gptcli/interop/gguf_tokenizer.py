"""Our tokenizers as llama.cpp's byte-level BPE (`tokenizer.ggml.model = "gpt2"`), which gives the same ids.

That tokenizer splits a text into words by the pattern that `tokenizer.ggml.pre` names, writes each word in the
characters of GPT-2's byte alphabet, joins neighbours by the merges in their order, and looks up the results. A merge
need not give a token, and a result that is not a token is dropped. Hence

- byte-level BPE is written unchanged, with the name of its split pattern;
- the byte tokenizer is the 256 characters of the alphabet, with nothing to merge. llama.cpp refuses a file without
  merges, so one is written that never applies: a text is single characters to begin with, and its halves are longer;
- a character tokenizer has its characters as tokens in their UTF-8 bytes, and for each of more than one byte the merges
  that put it together from the left: E9 A1 B5 is joined by (E9, A1) and (E9 A1, B5). The left side of each begins with
  a character's first byte and the right side continues it, so no merge crosses from one character to the next, and no
  pattern splits within one. Characters that the vocabulary lacks, which are <unk> here, are dropped there.

A tokenizer that this form cannot hold exactly is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from gptcli import strict_json
from gptcli.errors import UsageError
from gptcli.tokenizer.byte_level import CHARACTER_OF_BYTE
from gptcli.tokenizer.structure import ALTERING, LINE_SPLITS, model_type, splits_lines, writes_bytes
from gptcli.tokenizer.tokenizer import Tokenizer

NORMAL, TOKEN_UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""llama.cpp's types of tokens (`gguf.TokenType`)."""

NEVER = "<|never|> <|applies|>"
"""The only merge of tokenizers without merges."""

ENDING_NAMES = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>"),
        *("<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>"),
    )
)
"""Tokens at which llama.cpp stops because of their names."""

LLAMA3_SPLIT, QWEN2_SPLIT = LINE_SPLITS


class GgufTokenizer(NamedTuple):
    """The vocabulary of a file: a text and a type for each row of the embedding, the merges, and the pattern's name."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    notes: tuple[str, ...] = ()


def gguf_tokenizer(tokenizer: Tokenizer, rows: int) -> GgufTokenizer:
    """Return the tokenizer for a model with `rows` embeddings; rows beyond its vocabulary get unused tokens.

    Raises:
        UsageError: llama.cpp's byte-level BPE would not give the same ids; the message says why.
    """
    spec = strict_json.parse(tokenizer.backend.to_str())
    require_plain(spec)
    words = word_of_id(tokenizer, spec)
    if tokenizer.is_byte_level:
        pre, merges = pattern_name(spec), [" ".join(halves) for halves in merge_list(spec["model"])]
    else:
        pre, merges = "gpt-2", [merge for word in words.values() for merge in merges_within(word)]
    tokens = [words[id] if id in words else special_text(tokenizer, id) for id in range(rows)]
    types = [NORMAL if id in words else special_type(tokenizer, id) for id in range(rows)]
    notes: tuple[str, ...] = ()
    if (spec.get("normalizer") or {}).get("type") == "NFC":
        notes = ("its tokenizer normalizes text to Unicode's form NFC, which llama.cpp does not: give it such text",)
    return GgufTokenizer(tokens, types, merges or [NEVER], pre, notes)


def require_plain(spec: Mapping[str, Any]) -> None:
    """Refuse a tokenizer with parts that byte-level BPE with a split pattern lacks."""
    model = spec["model"]
    if model_type(model) != "BPE":
        raise refused(f"its model is {model_type(model)}")
    if (spec.get("normalizer") or {"type": "NFC"})["type"] != "NFC":
        raise refused(f"it changes the text first ({spec['normalizer']['type']})")
    if altered := [setting for setting in ALTERING if model.get(setting)]:
        raise refused(f"its model has {altered[0]}")
    for token in spec.get("added_tokens", ()):
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            raise refused(f"its token {token['content']!r} includes the blanks beside it")


def word_of_id(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> dict[int, str]:
    """Return every token but the added ones, by id, in the byte alphabet."""
    added = {token["id"] for token in spec.get("added_tokens", ())}
    words = {id: word for word, id in spec["model"]["vocab"].items() if id not in added}
    if tokenizer.is_byte_level:
        return words
    if spec.get("pre_tokenizer") or spec["model"]["merges"] or any(len(word) > 1 for word in words.values()):
        raise refused("its tokens are neither bytes nor characters")
    return {id: "".join(CHARACTER_OF_BYTE[byte] for byte in word.encode()) for id, word in words.items()}


def pattern_name(spec: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of the pattern by which a byte-level tokenizer splits text."""
    splitter, model = spec.get("pre_tokenizer") or {}, spec["model"]
    if splits_lines(splitter):
        pattern = splitter["pretokenizers"][0]["pattern"]["Regex"]
        if pattern == LLAMA3_SPLIT:
            return "llama-bpe" if model.get("ignore_merges") else "smaug-bpe"
        if not model.get("ignore_merges"):
            return "qwen2"
    elif writes_bytes(splitter) and not model.get("ignore_merges") and (splitter["use_regex"] or not model["merges"]):
        return "gpt-2"
    raise refused("llama.cpp has no name for how it splits text into words")


def merge_list(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the merges in order; old files write each as one text with a blank."""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def merges_within(word: str) -> Iterator[str]:
    """Yield the merges that build a token from its characters, from the left."""
    for end in range(1, len(word)):
        yield f"{word[:end]} {word[end]}"


class EndingTokens(NamedTuple):
    """The tokens at which llama.cpp stops a text: those of three keys, and those whose names it knows.

    Attributes:
        eos: ends a text.
        eot: ends a turn of a conversation.
        eom: ends one of several messages in a turn.
        left_out: tokens for which no key is left.
    """

    eos: int | None
    eot: int | None
    eom: int | None
    left_out: tuple[int, ...]


def ending_tokens(tokenizer: Tokenizer, stop_ids: Collection[int]) -> EndingTokens:
    """Return the keys for the tokens that end a text or an answer."""
    eos, name = tokenizer.framing.stop_id, tokenizer.backend.id_to_token
    others = sorted(set(stop_ids) - {eos}, key=lambda id: (name(id) in ENDING_NAMES, id))
    found = others if eos is None else [eos, *others]
    keys: list[int | None] = [*found[:3], None, None, None]
    left_out = tuple(id for id in found[3:] if name(id) not in ENDING_NAMES)
    return EndingTokens(keys[0], keys[1], keys[2], left_out)


def special_text(tokenizer: Tokenizer, id: int) -> str:
    """Return the text of an added token or of an unused row."""
    return tokenizer.backend.id_to_token(id) or f"[PAD{id}]"


def special_type(tokenizer: Tokenizer, id: int) -> int:
    """Return llama.cpp's type of an added token or of an unused row."""
    if tokenizer.backend.id_to_token(id) is None:
        return UNUSED
    if id == tokenizer.unk_id:
        return TOKEN_UNKNOWN
    return CONTROL if id in tokenizer.special_ids else USER_DEFINED


def refused(why: str) -> UsageError:
    """Return the error about a tokenizer that cannot be written."""
    return UsageError(f"GGUF cannot hold this tokenizer exactly: {why}", "--to hf writes every tokenizer")
