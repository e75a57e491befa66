"""Bounds on an untrusted tokenizer.json, checked on its JSON."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest

from gptcli.tokenizer.bounds import BoundsError, require_bounds
from gptcli.tokenizer.structure import LINE_SPLITS, is_known

VOCABULARY = {token: id for id, token in enumerate(["<unk>", "<s>", "</s>", "a", "b", " ", "▁", "ab"])}
SPEC: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [{"id": 1, "content": "<s>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "vocab": VOCABULARY, "merges": [["a", "b"]]},
}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(*pieces: str, ids: list[Any] = [1], **special: Any) -> dict[str, Any]:  # noqa: B006
    """Return a template of the pieces, of which `A` and `B` are texts; <s> is described."""
    single = [{"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in pieces]
    described = {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": described}


SENTENCEPIECE = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")],
    },
    "decoder": {
        "type": "Sequence",
        "decoders": [
            replace({"String": "▁"}, " "),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    },
    "post_processor": template("<s>", "A"),
}
BERT = {
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
    "model": {"type": "WordPiece", "vocab": VOCABULARY, "max_input_chars_per_word": 100},
}
T5 = {
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""},
                                                       replace({"Regex": " {2,}"}, " ")]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                                                            {"type": "Metaspace", "replacement": "▁"}]},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5]]},
}  # fmt: skip


@pytest.mark.parametrize("sections", [{}, SENTENCEPIECE, BERT, T5])
def test_tokenizers_as_known_models_have_them_pass(sections: dict[str, Any]) -> None:
    require_bounds(SPEC | sections)


def nested(section: str, children: str, levels: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(levels):
        part = {"type": "Sequence", children: [part]}
    return {section: part}


def vocabulary(**values: Any) -> dict[str, Any]:
    return {"model": {"type": "BPE", "vocab": values, "merges": []}}


BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "an empty text": ({"normalizer": replace({"String": ""}, "x")}, "normalizer matches an empty text"),
    "a megabyte": ({"normalizer": replace({"String": "a"}, "x" * 10**6)}, "1e.06 times as long"),
    "doublings": ({"normalizer": {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 24}}, "times"),
    "a pattern that may be empty": ({"normalizer": replace({"Regex": "x*"}, "▁" * 3)}, "10 times as long"),
    "growth of both": (
        {"normalizer": replace({"String": " "}, "▁"), "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}},
        "12 times as long",
    ),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "x" * 1000}}, "more than 64 characters"),
    "an exponential replacement": ({"normalizer": replace({"Regex": "(a+)+$"}, "")}, "normalizer has a pattern that"),
    "an exponential split": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}},
        "pre-tokenizer has a pattern that repeats a repetition",
    ),
    "pieces of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "no length"),
    "deep normalizers": (nested("normalizer", "normalizers", 9), "within each other"),
    "deep decoders": (nested("decoder", "decoders", 9), "decoder has more than 64 parts"),
    "many normalizers": ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 65}}, "64 parts"),
    "a decoder that strips": ({"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 10**9}}, "strips"),
    "a decoder that repeats": ({"decoder": replace({"Regex": "a+"}, " ")}, "decoder has a pattern that repeats"),
    "a decoder that writes": ({"decoder": replace({"String": "a"}, "x" * 10**6)}, "more than 64 characters"),
    "a long prefix of words": ({"decoder": {"type": "WordPiece", "prefix": "#" * 100}}, "more than 64 characters"),
    "an id of 2^32 - 1": (vocabulary(a=0, b=2**32 - 1), "id 4294967295"),
    "an id that is negative": (vocabulary(a=-1), "id -1"),
    "an id that is no number": (vocabulary(a="0"), "id 0"),
    "an id twice": (vocabulary(a=0, b=0), "an id twice"),
    "few tokens with large ids": (vocabulary(a=0, b=10**6), "largest id is 1,000,000, for 3 tokens"),
    "a huge id of an added token": ({"added_tokens": [{"id": 2**33, "content": "x"}]}, "id 8589934592"),
    "a long token": (vocabulary(**{"x" * 5000: 0}), "more than 4,096 characters"),
    "long words": ({"model": BERT["model"] | {"max_input_chars_per_word": 10**18}}, "10,000 characters"),
    "a score that is no number": ({"model": {"type": "Unigram", "vocab": [["a", float("inf")]]}}, "score"),
    "a token that is not described": ({"post_processor": template("zz", "A")}, "'zz', which it does not describe"),
    "no text": ({"post_processor": template("<s>")}, "does not write the text once"),
    "the text twice": ({"post_processor": template("A", "A")}, "does not write the text once"),
    "a second text": ({"post_processor": template("B")}, "does not write the text once"),
    "thousands of tokens": ({"post_processor": template(*["<s>"] * 5000, "A", ids=[1] * 10**4)}, "adds more than 64"),
    "an unknown id": ({"post_processor": template("<s>", "A", ids=[10**9])}, "id 1000000000, which is not"),
    "an unknown id in RoBERTa's form": (
        {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 99], "cls": ["<s>", 1]}},
        "id 99, which is not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEYOND)
def test_a_tokenizer_beyond_a_bound_is_refused(name: str) -> None:
    sections, reason = BEYOND[name]
    with pytest.raises(BoundsError, match=reason):
        require_bounds(SPEC | sections)


def test_a_file_of_any_form_raises_nothing_else() -> None:
    """Each node of a spec replaced by values of other types: it passes, or it is refused."""
    whole = SPEC | SENTENCEPIECE | {"model": T5["model"]}
    split = {"type": "Split", "pattern": {"Regex": LINE_SPLITS[0]}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    lines = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, last]}, "decoder": {"type": "ByteLevel"}}
    for spec in (whole, SPEC | BERT, SPEC | T5, SPEC | lines):
        for path in paths(spec):
            for value in (None, 1, -1.5, "x", "", [], [1], {}, {"type": "Sequence"}, True):
                changed = copy.deepcopy(spec)
                *parents, last = path
                node = changed
                for key in parents:
                    node = node[key]
                node[last] = value
                with contextlib.suppress(BoundsError):
                    require_bounds(changed)
                    if isinstance(changed["model"], dict):
                        assert is_known(changed) in (True, False)


def paths(node: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [path for key in keys for path in [(*before, key), *paths(node[key], (*before, key))]]
