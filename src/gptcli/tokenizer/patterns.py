"""Analysis of the regular expressions of a tokenizer.json: whether one may take exponential time. Nothing is matched.

`tokenizers` matches with Oniguruma, which backtracks: `(a+)+$` tries 2^n ways of cutting n letters into groups before
it finds that the text continues. This takes a repetition of something that can itself match in several ways, followed
by something that can fail. Patterns of real tokenizers have none: they are alternatives of words, each a few classes of
characters in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

LONGEST_PATTERN = 20_000
"""Characters of a pattern; the longest one known has 2,000."""
MOST_REPEATS = 1000
"""Upper bound of a count in braces, and of the product of nested ones: Oniguruma copies what is repeated that often."""
DEEPEST = 50
"""Depth of nested groups."""
UNBOUNDED = 1 << 30

QUANTIFIER = re.compile(r"[*+?]|\{(\d{1,9})(,?)(\d{0,9})\}|\{(),(\d{1,9})\}")
ESCAPE = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[0-9A-Fa-f ]*\}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|.)", re.DOTALL)
REFERENCE = re.compile(r"\\[1-9]|\\[kg][<'{]")
"""Matches a reference to the text that a group has matched, or a call of a group."""
FLAGS = re.compile(r"\(\?[imx]*(?:-[imx]*)?\)|\(\?#[^)]*\)")
OPENING = re.compile(r"\(\?(?:[=!>]|<[=!]|<[A-Za-z_]\w*>|[imx]*(?:-[imx]*)?:)|\((?!\?)")
ATOMIC_OPENINGS = ("(?=", "(?!", "(?<=", "(?<!", "(?>")
"""Openings of groups that are not entered again once they have matched."""
WITHOUT_WIDTH = frozenset("bBAzZGK")


class NotUnderstoodError(ValueError):
    """A pattern uses syntax that is not analysed here."""


class Character(NamedTuple):
    """One character of a class, or an assertion without width. `literal` is the character, if it is a single one."""

    width: int = 1
    varies: bool = False
    literal: str = ""


class Concatenation(NamedTuple):
    """Parts that match one after another."""

    parts: list[Part]


class Alternation(NamedTuple):
    """Parts of which one matches."""

    branches: list[Part]


class AtomicGroup(NamedTuple):
    """A group with one of ATOMIC_OPENINGS. `width` is True if what it matches is consumed."""

    part: Part
    width: bool


class Repetition(NamedTuple):
    """A part that matches between `least` and `most` times."""

    part: Part
    least: int
    most: int
    is_possessive: bool


Part = Character | Concatenation | Alternation | AtomicGroup | Repetition


class Analysis(NamedTuple):
    """Properties of a pattern, or of a part of one.

    Attributes:
        shortest: number of characters that it matches at least.
        varies: whether it can match in several ways.
        repeats: the largest product of nested counts in braces.
        has_repetition: whether something in it can occur more than once.
    """

    shortest: int
    varies: bool = False
    repeats: int = 1
    has_repetition: bool = False


def analyse(pattern: str) -> Analysis:
    """Analyse a pattern.

    Raises:
        ValueError: it may take exponential time, or is longer than any pattern of a tokenizer; the message is a clause.
        NotUnderstoodError: it uses syntax that is not analysed here.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"has more than {LONGEST_PATTERN:,} characters")
    return analysis_of(PatternReader(pattern).whole(), is_followed=False)


def analysis_of(part: Part, is_followed: bool) -> Analysis:
    """Return the analysis of a part. `is_followed` is True if what comes after it can fail, so that it is matched
    again.
    """
    match part:
        case Character():
            return Analysis(part.width, part.varies)
        case Concatenation():
            last = len(part.parts) - 1
            found = [analysis_of(one, is_followed or place < last) for place, one in enumerate(part.parts)]
            return joined(found, sum(one.shortest for one in found), any(one.varies for one in found))
        case Alternation():
            found = [analysis_of(one, is_followed) for one in part.branches]
            letters = [one.literal for one in part.branches if isinstance(one, Character) and one.literal]
            are_distinct = len(letters) == len(set(letters)) == len(found)
            return joined(found, min(one.shortest for one in found), not are_distinct)
        case AtomicGroup():
            inner = analysis_of(part.part, is_followed=False)
            return inner._replace(shortest=inner.shortest * part.width, varies=False)
        case Repetition():
            return analysis_of_repetition(part, is_followed)


def analysis_of_repetition(part: Repetition, is_followed: bool) -> Analysis:
    """Return the analysis of a repetition."""
    inner = analysis_of(part.part, is_followed or part.most > 1)
    if part.most > 1 and inner.varies and is_followed:
        raise ValueError("repeats a repetition, which can take exponential time")
    repeats = inner.repeats * max(part.least if part.most == UNBOUNDED else part.most, 1)
    if repeats > MOST_REPEATS:
        raise ValueError(f"repeats something more than {MOST_REPEATS:,} times")
    varies = not part.is_possessive and (inner.varies or part.least != part.most)
    return Analysis(inner.shortest * part.least, varies, repeats, inner.has_repetition or part.most > 1)


def joined(found: list[Analysis], shortest: int, varies: bool) -> Analysis:
    """Return the analysis of several parts together."""
    repeats = max((one.repeats for one in found), default=1)
    return Analysis(shortest, varies, repeats, any(one.has_repetition for one in found))


class PatternReader:
    """A parser that reads a pattern from left to right into its parts."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.place, self.depth = pattern, 0, 0

    def whole(self) -> Part:
        """Read the whole pattern."""
        part = self.alternatives()
        if self.place < len(self.pattern):
            raise NotUnderstoodError("a parenthesis too many")
        return part

    def alternatives(self) -> Part:
        """Read sequences between bars, up to a closing parenthesis or the end."""
        branches = [self.sequence()]
        while self.next_is("|"):
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else Alternation(branches)

    def sequence(self) -> Part:
        """Read parts up to a bar, a closing parenthesis or the end."""
        parts: list[Part] = []
        while self.place < len(self.pattern) and self.pattern[self.place] not in "|)":
            part = self.part()
            for least, most, is_possessive in self.quantifiers():
                part = Repetition(part, least, most, is_possessive)
            parts.append(part)
        return parts[0] if len(parts) == 1 else Concatenation(parts)

    def quantifiers(self) -> Iterator[tuple[int, int, bool]]:
        """Iterate over (least, most, is possessive) of each quantifier here; in Oniguruma, {n,m}+ is two of them."""
        while found := QUANTIFIER.match(self.pattern, self.place):
            self.place = found.end()
            sign = found.group()
            if sign[0] != "{":
                least, most = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}[sign]
                is_possessive = self.next_is("+")
                if not is_possessive:
                    self.next_is("?")  # a lazy one
                yield least, most, is_possessive
                continue
            self.next_is("?")
            first, comma, last, _, only = found.groups()
            if only is not None:
                yield 0, int(only), False
            else:
                yield int(first), (int(last) if last else UNBOUNDED) if comma else int(first), False

    def next_is(self, sign: str) -> bool:
        """Return whether `sign` comes next, and read it if so."""
        if self.pattern.startswith(sign, self.place):
            self.place += len(sign)
            return True
        return False

    def part(self) -> Part:
        """Read a character, a class, an escape or a group."""
        character = self.pattern[self.place]
        if character == "(":
            return self.group()
        if character == "\\":
            return self.escape()
        self.place += 1
        if character == "[":
            self.rest_of_class()
            return Character()
        return Character(0) if character in "^$" else Character(literal="" if character == "." else character)

    def escape(self) -> Part:
        """Read an escape."""
        if REFERENCE.match(self.pattern, self.place):
            raise ValueError("refers to an earlier match, which can take exponential time")
        found = ESCAPE.match(self.pattern, self.place)
        if found is None:
            raise NotUnderstoodError("a backslash at the end")
        self.place = found.end()
        kind = found.group()[1]
        if kind in WITHOUT_WIDTH:
            return Character(0)
        return Character(varies=kind in "RX", literal="" if kind.isalnum() else kind)

    def rest_of_class(self) -> None:
        """Read past the rest of a class, with the classes within it."""
        self.next_is("^")
        self.next_is("]")
        while self.place < len(self.pattern):
            character = self.pattern[self.place]
            self.place += 2 if character == "\\" else 1
            if character == "]":
                return
            if character == "[":
                end = self.pattern.find(":]", self.place) if self.next_is(":") else -1
                if end > 0:
                    self.place = end + 2
                else:
                    self.enter()
                    self.rest_of_class()
                    self.depth -= 1
        raise NotUnderstoodError("a class without an end")

    def group(self) -> Part:
        """Read a group with its content; a comment, or a change of flags, is an assertion that always holds."""
        if flags := FLAGS.match(self.pattern, self.place):
            self.place = flags.end()
            return Character(0)
        opening = OPENING.match(self.pattern, self.place)
        if opening is None:
            raise NotUnderstoodError("a group of a rare kind")
        self.place = opening.end()
        self.enter()
        part = self.alternatives()
        self.depth -= 1
        if not self.next_is(")"):
            raise NotUnderstoodError("a parenthesis that is not closed")
        if opening.group() in ATOMIC_OPENINGS:
            return AtomicGroup(part, width=opening.group() == "(?>")
        return Concatenation([part]) if isinstance(part, Character) else part

    def enter(self) -> None:
        """Count a nested group."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"has more than {DEEPEST} groups within groups")
