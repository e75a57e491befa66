"""Bounds on an untrusted tokenizer.json, checked on its JSON. All known tokenizers stay far within them.

They ensure that encoding takes time and memory in proportion to the text, whatever the text is: no pattern takes
exponential time, and no text grows to more than MOST_GROWTH times its bytes before it is cut into tokens. Nothing is
encoded here, and no code of the `tokenizers` library runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeGuard

from gptcli.tokenizer.patterns import NotUnderstoodError, analyse
from gptcli.tokenizer.structure import model_type

MOST_GROWTH = 8
"""Bytes of the text that is cut into tokens, for each byte of the original text."""
MOST_PARTS, DEEPEST = 64, 8
"""Parts of a normalizer, pre-tokenizer, decoder or post-processor, and the depth of nested sequences of them."""
MOST_ADDED = 64
"""Tokens that a post-processor puts around a text."""
LONGEST_AFFIX = 64
"""Characters that are put before or after a text or a word."""
LONGEST_TOKEN = 4096
"""Characters of a token."""
LARGEST_ID = 2**24
"""Upper bound of the ids; the largest known vocabulary has a million entries."""
MOST_UNUSED = 2**16
"""Ids without a token, beyond three for each token: a model has a row of weights for each id."""
LONGEST_WORD = 10_000
"""Characters of a word that WordPiece splits, in time that grows with their square; 100 in known tokenizers."""

CHILDREN = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
            "post_processor": "processors"}  # fmt: skip


class BoundsError(ValueError):
    """The reason why a tokenizer.json is refused: a clause such as "its normalizer replaces an empty text"."""


def require_bounds(spec: Mapping[str, Any]) -> None:
    """Check the content of a tokenizer.json.

    Raises:
        BoundsError: it exceeds a bound. Other files than a tokenizer.json may pass here: the library reports them.
    """
    growth = 1.0
    for section in ("normalizer", "pre_tokenizer"):
        for part in parts_of(spec, section):
            growth *= growth_of(part, section)
    if growth > MOST_GROWTH:
        raise BoundsError(f"its normalizer makes a text up to {growth:.3g} times as long (at most {MOST_GROWTH} times)")
    for part in parts_of(spec, "decoder"):
        require_decoder(part)
    ids = require_vocabulary(spec)
    require_post_processor(list(parts_of(spec, "post_processor")), ids)


def parts_of(spec: Mapping[str, Any], section: str) -> Iterator[Mapping[str, Any]]:
    """Iterate over the parts of a section, those of nested sequences one after another."""
    name, waiting, count = section.replace("_", "-"), [(spec.get(section), 1)], 0
    while waiting:
        part, depth = waiting.pop()
        count += 1
        if count > MOST_PARTS or depth > DEEPEST:
            raise BoundsError(f"its {name} has more than {MOST_PARTS} parts, or {DEEPEST} sequences within each other")
        if not isinstance(part, Mapping):
            if part is not None:
                raise BoundsError(f"its {name} is not a table")
            continue
        children = part.get(CHILDREN[section])
        if isinstance(children, list):
            waiting += [(child, depth + 1) for child in reversed(children)]
        else:
            yield part


def growth_of(part: Mapping[str, Any], section: str) -> float:
    """Return how many bytes a part of a normalizer or pre-tokenizer makes of one byte of text, at most.

    Unicode's normal forms and a precompiled table count as 1: they lengthen few characters, by a factor of at most 11.
    """
    match part.get("type"):
        case "Replace":
            return growth_of_replacement(part, f"its {section.replace('_', '-')}")
        case "Split":
            require_pattern(part, f"its {section.replace('_', '-')}")
        case "Prepend":
            require_affix(part.get("prepend"), "its normalizer puts")
        case "Metaspace":
            return max(1, 1 + size(part.get("replacement") or part.get("str_rep") or "▁"))
        case "ByteLevel":
            return 4 if part.get("add_prefix_space") else 2
        case "BertNormalizer":
            return 2
        case "FixedLength" if not is_count(part.get("length"), 1, 2**31):
            raise BoundsError("its pre-tokenizer cuts the text into pieces of no length")
    return 1


def growth_of_replacement(part: Mapping[str, Any], where: str) -> float:
    """Return how many bytes a replacement makes of one byte of text, at most."""
    shortest, has_repetition = require_pattern(part, where)
    content = size(part.get("content", ""))
    if has_repetition is None and content > MOST_GROWTH:  # the pattern is not understood
        raise BoundsError(
            f"{where} has a pattern that cannot be analysed, and replaces its matches by {content:,} bytes"
        )
    return max(1.0, content / shortest if shortest else 1 + content)


def require_pattern(part: Mapping[str, Any], where: str) -> tuple[int, bool | None]:
    """Return the least number of bytes that a pattern matches, and whether it repeats something; None if it is not
    understood.
    """
    pattern = part.get("pattern")
    if not isinstance(pattern, Mapping) or not isinstance(next(iter(pattern.values()), None), str):
        return 0, None  # no pattern: the library reports it
    if "Regex" not in pattern:
        text = str(next(iter(pattern.values())))
        if not text:
            raise BoundsError(f"{where} matches an empty text")
        return len(text.encode(errors="replace")), False
    try:
        found = analyse(pattern["Regex"])
    except NotUnderstoodError:
        return 0, None
    except ValueError as error:
        raise BoundsError(f"{where} has a pattern that {error}") from error
    return found.shortest, found.has_repetition


def require_decoder(part: Mapping[str, Any]) -> None:
    """Check a part of the decoder."""
    match part.get("type"):
        case "Replace":
            _, has_repetition = require_pattern(part, "its decoder")
            if has_repetition is not False:
                raise BoundsError("its decoder has a pattern that repeats something")
            require_affix(part.get("content"), "its decoder puts")
        case "Strip":
            if not all(is_count(part.get(side, 0), 0, LONGEST_AFFIX) for side in ("start", "stop")):
                raise BoundsError(f"its decoder strips more than {LONGEST_AFFIX} characters")
        case "WordPiece" | "BPEDecoder" | "CTC" | "Metaspace":
            for value in part.values():
                require_affix(value, "its decoder puts")


def require_affix(value: Any, what: str) -> None:
    """Check the length of a text that is put before or after another."""
    if isinstance(value, str) and len(value) > LONGEST_AFFIX:
        raise BoundsError(f"{what} more than {LONGEST_AFFIX} characters into the text")


def require_vocabulary(spec: Mapping[str, Any]) -> set[int]:
    """Check the model, its vocabulary and the added tokens, and return the ids."""
    model = spec.get("model")
    if not isinstance(model, Mapping):
        return set()
    for setting in ("continuing_subword_prefix", "end_of_word_suffix"):
        require_affix(model.get(setting), "its model puts")
    longest = model.get("max_input_chars_per_word", 0)
    if isinstance(longest, int) and longest > LONGEST_WORD:
        raise BoundsError(f"its model splits words of more than {LONGEST_WORD:,} characters")
    ids, vocabulary = set(), model.get("vocab")
    if isinstance(vocabulary, Mapping):
        require_tokens(vocabulary)
        ids = require_ids(vocabulary.values())
        if len(ids) < len(vocabulary):
            raise BoundsError("its vocabulary has an id twice")
    elif model_type(model) == "Unigram" and isinstance(vocabulary, list):
        require_scores(vocabulary)
        ids = set(range(len(vocabulary)))
    added = spec.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, Mapping) for token in added):
        raise BoundsError("its added tokens are not a list of tables")
    require_tokens(str(token.get("content", "")) for token in added)
    ids |= require_ids(token.get("id") for token in added)
    if max(ids, default=0) > 4 * len(ids) + MOST_UNUSED:
        raise BoundsError(f"its largest id is {max(ids):,}, for {len(ids):,} tokens")
    return ids


def require_tokens(tokens: Iterable[str]) -> None:
    """Check the lengths of tokens."""
    if max(map(len, tokens), default=0) > LONGEST_TOKEN:
        raise BoundsError(f"its vocabulary has a token of more than {LONGEST_TOKEN:,} characters")


def require_ids(values: Iterable[Any]) -> set[int]:
    """Check ids, and return them as a set."""
    ids = list(values)
    wrong = [id for id in ids if not is_count(id, 0, LARGEST_ID - 1)]
    if wrong:
        raise BoundsError(f"its vocabulary has the id {str(wrong[0])[:40]} (ids are below {LARGEST_ID:,})")
    return set(ids)


def require_scores(vocabulary: list[Any]) -> None:
    """Check the scores of a Unigram vocabulary."""
    for entry in vocabulary:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            return  # no vocabulary: the library reports it
        if not (isinstance(entry[1], int | float) and math.isfinite(entry[1])):
            raise BoundsError(f"its vocabulary has a score that is not a number, of {entry[0][:40]!r}")
    require_tokens(entry[0] for entry in vocabulary)


def require_post_processor(parts: list[Mapping[str, Any]], ids: set[int]) -> None:
    """Check that the text is written once, and that the tokens put around it are few and in the vocabulary."""
    added: list[Any] = []
    for part in parts:
        match part.get("type"):
            case "TemplateProcessing":
                added += template_ids(part)
            case "RobertaProcessing" | "BertProcessing":
                added += [pair[1] for pair in (part.get("sep"), part.get("cls")) if is_pair(pair)]
    if len(added) > MOST_ADDED:
        raise BoundsError(f"its post-processor adds more than {MOST_ADDED} tokens to a text")
    unknown = [id for id in added if not (type(id) is int and id in ids)]
    if unknown:
        raise BoundsError(f"its post-processor adds the id {str(unknown[0])[:40]}, which is not in its vocabulary")


def is_pair(value: Any) -> TypeGuard[list[Any]]:
    """Return whether a value is a list of two."""
    return isinstance(value, list) and len(value) == 2


def template_ids(part: Mapping[str, Any]) -> list[Any]:
    """Return the ids that a template puts around a text."""
    template, special = part.get("single"), part.get("special_tokens")
    if not isinstance(template, list) or not isinstance(special, Mapping):
        invalid_template("is not a template")
    parts = [next(iter(part.items()), ("", None)) for part in template if isinstance(part, Mapping)]
    named = [(kind, piece.get("id")) for kind, piece in parts if isinstance(piece, Mapping)]
    if [name for kind, name in named if kind == "Sequence"] != ["A"]:
        invalid_template("does not write the text once")
    ids: list[Any] = []
    for name in (name for kind, name in named if kind == "SpecialToken"):
        token = special.get(name) if isinstance(name, str) else None
        if not isinstance(token, Mapping) or not isinstance(token.get("ids"), list):
            invalid_template(f"names the token {str(name)[:40]!r}, which it does not describe")
        ids += token["ids"][: MOST_ADDED + 1 - len(ids)]
    return ids


def invalid_template(what: str) -> NoReturn:
    """Raise the error for a post-processor that is not valid."""
    raise BoundsError(f"its post-processor {what}")


def is_count(value: Any, least: int, most: int) -> bool:
    """Return whether a value is an integer between two bounds."""
    return type(value) is int and least <= value <= most


def size(text: Any) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(str(text).encode(errors="replace"))
