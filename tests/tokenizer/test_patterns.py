"""Patterns of real tokenizers pass; those that take exponential time are refused."""

from __future__ import annotations

import re
import time

import pytest
from tokenizers import Regex, normalizers

from gptcli.tokenizer.patterns import NotUnderstoodError, analyse
from gptcli.tokenizer.structure import LINE_SPLITS

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
REAL = {
    "GPT-2": (GPT2, 1),
    "Llama 3": (LINE_SPLITS[0], 1),
    "Qwen 2": (LINE_SPLITS[1], 1),
    "o200k": (O200K, 1),
    "cl100k": (CL100K, 1),
    "BLOOM": (r" ?[^(\s|[.,!?…。，、।۔،])]+", 1),
    "Kimi": (r"[\p{Han}]+|[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+(?i:'s|'t)?", 1),
    "Falcon": ("[0-9][0-9][0-9]", 3),
    "digits from the right": (r"\p{N}{1,3}(?=(?:\p{N}{3})*\b)", 1),
    "Pegasus": (" {2,}", 2),
    "a repetition at the end": ("(?:a+b?)+|x", 1),
    "letters in turn": ("(?:a|b)+c", 2),
    "an atomic group": ("(?>a+)+b", 2),
    "possessive": ("(?:a++)*b", 1),
    "characters that look like quantifiers": ("a{,}|{|}", 1),
    "classes": (r"[[:alpha:]\]][]a]\x{200d}\u00e9", 4),
    "what may be empty": ("a*|b", 0),
    "a comment and flags": ("(?#note)(?i)ab(?<name>c)", 3),
}


@pytest.mark.parametrize("name", REAL)
def test_the_pattern_of_a_real_tokenizer_passes(name: str) -> None:
    pattern, shortest = REAL[name]
    assert analyse(pattern).shortest == shortest


EXPONENTIAL = (
    r"(a+)+$", r"(a*)*b", r"(a|a)*$", r"(a|aa)+$", r"(a?){30}a{30}$", r"(?:a{1,30}){1,30}$", r"(.*a){20}$",
    r"((a+)+)+", r"(?=(a+)+$)", r"(?!(?:a|a)+b)", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?<n>x+)+y", r"(a+)+?$",
    r"(?i:(a+)+)b", r"((a+))+b", r"(?:(?:a+))*b", r"\p{N}{1,3}+b", r"(?>(a+)+b)", r"(?:\R)+x", "(?:a{2,}?)*b",
)  # fmt: skip


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_a_pattern_of_exponential_time_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeats a repetition"):
        analyse(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a*)\1b", "refers to an earlier match"),
        (r"(?<n>a*)\k<n>", "refers to an earlier match"),
        (r"a\g<0>", "refers to an earlier match"),
        ("(a{1000}){1000}", "more than 1,000 times"),
        ("a{999999999}", "more than 1,000 times"),
        ("(" * 100 + ")" * 100, "groups within groups"),
        ("[" * 100, "groups within groups"),
        ("a" * 30_000, "more than 20,000 characters"),
    ],
)
def test_other_patterns_without_bounds_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        analyse(pattern)


@pytest.mark.parametrize("pattern", ["(", ")", "[a", "\\", "(?~a)", "(?(1)a|b)", "(?@a)"])
def test_unknown_syntax_is_not_understood(pattern: str) -> None:
    with pytest.raises(NotUnderstoodError):
        analyse(pattern)


def test_the_shortest_match_is_as_long_as_one_that_the_library_finds() -> None:
    """Against Python's own engine on short texts, for patterns that both understand."""
    for pattern in ("ab?c", "a|bc", "(?:ab){2}c*", "a{2,3}", "(?=a)a", "a(?!b)", "[ab]{3}|c", "", "(?:|a)b"):
        texts = ["".join("abc"[number // 3**place % 3] for place in range(6)) for number in range(3**6)]
        found = [len(match.group()) for text in texts for match in re.finditer(pattern, text)]
        assert min(found) >= analyse(pattern).shortest, pattern
        assert analyse(pattern).shortest == min(found), pattern


def test_real_patterns_take_time_in_proportion_to_the_text() -> None:
    for pattern, _ in REAL.values():
        normalizer = normalizers.Replace(Regex(pattern), "x")
        began = time.process_time()
        for character in "a \n1.字":
            normalizer.normalize_str(character * 2000 + "!")
        assert time.process_time() - began < 5, pattern
