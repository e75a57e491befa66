"""A probabilistic grammar with a memory: it generates texts and computes the exact probability of any text.

A grammar is a set of named rules, each a list of alternatives (`notation.py` describes the notation). The only random
event is the choice among the allowed alternatives; each choice has a known distribution that depends on the choices
before it and on nothing else. A generated text has the product of its choices' probabilities. `parse` searches *all*
sequences of choices that could have produced a text and adds their probabilities, so P(text) is exact even for an
ambiguous grammar, and the number of derivations shows whether it is ambiguous.

Needs the standard library alone. Probabilities are computed as sums of log2 in double precision, with a relative error
of about 1e-12 in a text's bits.
"""

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

PRONOUNS = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
}
_AN = re.compile(r"(?!uni|use|eu|one\b|once\b)(?:[aeiou]|hour|honest|heir)", re.IGNORECASE)


class GrammarError(Exception):
    """A mistake in the grammar: a rule or fact that does not exist, or a choice without an allowed alternative."""


class NotFromGrammarError(ValueError):
    """A text that no sequence of choices produces, so that its probability is zero."""


@dataclass(frozen=True)
class Literal:
    """Literal text; `^x` is an x that is a capital at the start of a sentence or speech."""

    text: str


@dataclass(frozen=True)
class Recall:
    """A known fact (`{hero}`), optionally with an article or a capital."""

    key: str
    article: str = ""  # "", "a" or "A"
    capital: bool = False


@dataclass(frozen=True)
class Assign:
    """A fact that is set without any text (`{sea=yes}`) because the choices so far imply it."""

    key: str
    value: str


@dataclass(frozen=True)
class Option:
    """One alternative: its weight among the allowed ones, the facts it requires, its parts, and the facts it sets."""

    weight: float
    conditions: tuple[tuple[str, str | None, bool], ...]
    parts: tuple["Part", ...]
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Choice:
    """Inline alternatives (`[a|b]`)."""

    options: tuple[Option, ...]


@dataclass(frozen=True)
class Draw:
    """A named rule (`<rule>`); with a role (`<rule:role>`) its text is kept as a fact and drawn only once."""

    rule: str
    role: str | None = None
    article: str = ""  # "", "a" or "A"
    owner: str | None = None  # the role for which an enclosing rule was drawn, which owns the attributes


@dataclass(frozen=True)
class _Record:
    """The internal mark of the end of a rule's text, which is kept under the role; the alternative counts as used."""

    role: str | None
    start: int
    article: str
    used: tuple[str, int] | None


Part = Literal | Recall | Assign | Choice | Draw | _Record


class State(NamedTuple):
    """An unfinished story: its text, the remaining parts (a linked list), the known facts, the used alternatives."""

    text: str
    todo: tuple | None
    facts: Mapping[str, str]
    used: frozenset[tuple[str, int]]


class Step(NamedTuple):
    """One alternative of a choice: its probability and the state after it."""

    probability: float
    state: State


class Sample(NamedTuple):
    """A generated text and -log2 of the probability of the choices that made it."""

    text: str
    bits: float


class Parse(NamedTuple):
    """The result of `Grammar.parse`."""

    bits: float
    """-log2 P(text)."""
    derivations: int
    """Number of sequences of choices that produce this text."""
    points: tuple[State, ...]
    """States of the most probable derivation before each of its choices."""
    longer: int
    """Number of derivations of longer texts with this prefix; 0 if no text is a prefix of another."""


def with_article(article: str, text: str) -> str:
    return f"{article}n {text}" if _AN.match(text) else f"{article} {text}"


def _push(parts: tuple[Part, ...], todo: tuple | None) -> tuple | None:
    for part in reversed(parts):
        todo = (part, todo)
    return todo


class Grammar:
    """Rules by name; the alternatives of those in `repeatable` may occur more than once in a text."""

    def __init__(self, rules: Mapping[str, tuple[Option, ...]], start: str, repeatable: frozenset[str] = frozenset()):
        self.rules = dict(rules)
        self.start = start
        self.repeatable = repeatable
        for name, options in self.rules.items():
            for option in options:
                self._require_rules(option.parts, name)

    def _require_rules(self, parts: tuple[Part, ...], where: str) -> None:
        for part in parts:
            if isinstance(part, Draw) and part.rule not in self.rules:
                raise GrammarError(f"rule {where!r} calls <{part.rule}>, which no file defines")
            if isinstance(part, Choice):
                for option in part.options:
                    self._require_rules(option.parts, where)

    def begin(self) -> State:
        return State("", (Draw(self.start), None), {}, frozenset())

    def advance(self, state: State, target: str | None = None) -> State | None:
        """Write all parts before the next choice; return None if the text differs from `target`."""
        text, todo, facts, used = state
        if target is not None and not target.startswith(text):
            return None
        matched = len(text)
        while todo is not None:
            part, rest = todo
            if isinstance(part, Choice) or (isinstance(part, Draw) and part.role not in facts):
                break
            todo = rest
            if isinstance(part, _Record):
                if part.role is not None:
                    written = text[part.start :]
                    facts = {**facts, part.role: written.partition(" ")[2] if part.article else written}
                if part.used is not None:
                    used = used | {part.used}
            elif isinstance(part, Assign):
                facts = {**facts, part.key: part.value}
            else:
                text += self._render(part, text, facts)
                if target is not None and not target.startswith(text[matched:], matched):
                    return None
                matched = len(text)
        return State(text, todo, facts, used)

    def _render(self, part: Part, text: str, facts: Mapping[str, str]) -> str:
        if isinstance(part, Literal):
            return _capitals(part.text, text) if "^" in part.text else part.text
        key = part.role if isinstance(part, Draw) else part.key
        if key not in facts:
            raise GrammarError(f"{{{key}}} is used before it is set, after: ...{text[-60:]!r}")
        fact = with_article(part.article, facts[key]) if part.article else facts[key]
        return fact[:1].upper() + fact[1:] if isinstance(part, Recall) and part.capital else fact

    def steps(self, state: State) -> list[Step]:
        """Return the allowed alternatives of the next choice of `state`; their probabilities sum to one."""
        part, rest = state.todo
        draw = part if isinstance(part, Draw) else None
        options = self.rules[draw.rule] if draw else part.options
        once = draw is not None and draw.rule not in self.repeatable
        allowed = [
            (number, option)
            for number, option in enumerate(options)
            if not (once and (draw.rule, number) in state.used) and _holds(option, state.facts)
        ]
        if not allowed:
            raise GrammarError(f"no alternative is allowed at {part}, after: ...{state.text[-60:]!r}")
        total = math.fsum(option.weight for _, option in allowed)
        return [
            Step(option.weight / total, self._take(state, draw, option, (draw.rule, number) if once else None, rest))
            for number, option in allowed
        ]

    def _take(self, state: State, draw: Draw | None, option: Option, used: tuple | None, rest: tuple | None) -> State:
        facts, parts = state.facts, option.parts
        if draw:
            owner = draw.role or draw.owner
            if option.attributes:
                prefix = f"{owner}." if owner else ""
                facts = {**facts, **{prefix + key: value for key, value in option.attributes}}
            if owner:
                parts = tuple(replace(p, owner=owner) if isinstance(p, Draw) and not p.role else p for p in parts)
            if draw.article:
                parts = (_articled(parts, draw), *parts[1:])
            if draw.role or used:
                rest = (_Record(draw.role, len(state.text), draw.article, used), rest)
        return State(state.text, _push(parts, rest), facts, state.used)

    def sample(self, rng: random.Random) -> Sample:
        """Generate one text. Only `rng.random()` is called, whose sequence for a seed Python guarantees."""
        bits = []
        state = self.advance(self.begin())
        while state.todo is not None:
            steps = self.steps(state)
            point = rng.random()
            for step in steps:  # rounding may leave a remainder, which falls to the last one
                point -= step.probability
                if point < 0:
                    break
            bits.append(-math.log2(step.probability))
            state = self.advance(step.state)
        return Sample(state.text, math.fsum(bits))

    def parse(self, text: str) -> Parse:
        """Return -log2 P(text), by exhaustive search over all derivations.

        Raises:
            NotFromGrammarError: there is none; the message names the longest part that could be derived.
        """
        found: list[tuple[float, tuple | None]] = []
        longer = furthest = 0
        open_states: list[tuple[State, float, tuple | None]] = [(self.begin(), 0.0, None)]
        while open_states:
            state, bits, path = open_states.pop()
            reached = self.advance(state, text)
            if reached is None:
                longer += self._longer_than(state, text)
                continue
            furthest = max(furthest, len(reached.text))
            if reached.todo is None:
                if len(reached.text) == len(text):
                    found.append((bits, path))
                continue
            for step in self.steps(reached):
                open_states.append((step.state, bits - math.log2(step.probability), (reached, path)))
        if not found:
            raise NotFromGrammarError(
                f"the grammar cannot produce this text: nothing derives {text[furthest : furthest + 40]!r} "
                f"(character {furthest}, after {text[max(0, furthest - 40) : furthest]!r})"
            )
        least, path = min(found, key=lambda derivation: derivation[0])
        total = math.fsum(2.0 ** (least - bits) for bits, _ in found)
        points = []
        while path is not None:
            point, path = path
            points.append(point)
        return Parse(least - math.log2(total), len(found), tuple(reversed(points)), longer)

    def _longer_than(self, state: State, text: str) -> int:
        reached = self.advance(state)
        return int(len(reached.text) > len(text) and reached.text.startswith(text))


def _articled(parts: tuple[Part, ...], draw: Draw) -> Part:
    """Return the first of `parts` with the article of `draw`."""
    match parts[0] if parts else None:
        case Literal(text):
            return Literal(with_article(draw.article, text))
        case Recall() | Draw() as first:
            return replace(first, article=draw.article)
    raise GrammarError(f"<a {draw.rule}> needs alternatives that begin with a word")


def _holds(option: Option, facts: Mapping[str, str]) -> bool:
    for key, value, wanted in option.conditions:
        true = key in facts if value is None else facts.get(key) == value
        if true is not wanted:
            return False
    return True


def _capitals(literal: str, before: str) -> str:
    def letter(match: re.Match[str]) -> str:
        text = (before + literal[: match.start()]).replace("^", "")
        starts = not text or text.endswith(("\n", '"')) or text.rstrip().endswith((".", "!", "?"))
        return match[1].upper() if starts else match[1]

    return re.sub(r"\^(.)", letter, literal)
