"""A probabilistic grammar with a memory: it writes a text, and says exactly how probable any text is.

A grammar is a set of named rules, each a list of alternatives (the notation is described in `notation.py`). What is
random is only which alternative is taken where several are allowed; each choice has a known distribution that depends
on the choices before it and on nothing else. Writing a text multiplies those probabilities. Reading goes the other way:
`parse` searches *all* choice sequences that could have produced a text and adds up their probabilities, so
P(text) is exact even for an ambiguous grammar, and the number of derivations tells whether it was ambiguous.

The module knows no stories, no files and no command line; it needs the standard library alone. Probabilities are
reckoned as sums of log2 in double precision: about 1e-12 relative error in a text's bits.
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
    """The grammar itself is wrong: a rule or fact that does not exist, or a choice with no alternative left."""


class NotFromGrammarError(ValueError):
    """A text that no sequence of choices produces: its probability is zero."""


@dataclass(frozen=True)
class Literal:
    """Text as it stands; `^x` is an x that is capital at the start of a sentence or speech."""

    text: str


@dataclass(frozen=True)
class Recall:
    """A fact told before (`{hero}`), with a or an before it or a capital on demand."""

    key: str
    article: str = ""  # "", "a" or "A"
    capital: bool = False


@dataclass(frozen=True)
class Assign:
    """Notes a fact without a word (`{sea=yes}`): it only copies what the choices so far imply."""

    key: str
    value: str


@dataclass(frozen=True)
class Option:
    """One alternative: its weight among the allowed ones, the facts it needs, its parts, and the facts that it sets."""

    weight: float
    conditions: tuple[tuple[str, str | None, bool], ...]
    parts: tuple["Part", ...]
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Choice:
    """Alternatives written in line (`[a|b]`)."""

    options: tuple[Option, ...]


@dataclass(frozen=True)
class Draw:
    """A named rule (`<rule>`), its text kept as a fact if it has a role (`<rule:role>`), which is drawn only once."""

    rule: str
    role: str | None = None
    article: str = ""  # "", "a" or "A"
    owner: str | None = None  # the role for which an enclosing rule was drawn: the attributes belong to it


@dataclass(frozen=True)
class _Record:
    """Internal: the rule's text ends here; keep it under the role, and count the alternative as used."""

    role: str | None
    start: int
    article: str
    used: tuple[str, int] | None


Part = Literal | Recall | Assign | Choice | Draw | _Record


class State(NamedTuple):
    """A story being told: the text so far, the parts still to come (a linked list), facts known, alternatives used."""

    text: str
    todo: tuple | None
    facts: Mapping[str, str]
    used: frozenset[tuple[str, int]]


class Step(NamedTuple):
    """One alternative of a choice: its probability and the state in which it leaves the story."""

    probability: float
    state: State


class Sample(NamedTuple):
    """A generated text and -log2 of the probability of the choices that made it."""

    text: str
    bits: float


class Parse(NamedTuple):
    """What `Grammar.parse` finds out about a text."""

    bits: float
    """-log2 P(text)."""
    derivations: int
    """How many sequences of choices give this text."""
    points: tuple[State, ...]
    """Where the likeliest derivation stood before each of its choices."""
    longer: int
    """How many derivations give a longer text that begins with this one: none, when texts tell their own end."""


def with_article(article: str, text: str) -> str:
    return f"{article}n {text}" if _AN.match(text) else f"{article} {text}"


def _push(parts: tuple[Part, ...], todo: tuple | None) -> tuple | None:
    for part in reversed(parts):
        todo = (part, todo)
    return todo


class Grammar:
    """Rules by name; `repeatable` names those whose alternatives may serve more than once in a text."""

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
        """Tells everything that involves no choice; None as soon as the text departs from `target`."""
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
                    told = text[part.start :]
                    facts = {**facts, part.role: told.partition(" ")[2] if part.article else told}
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
            raise GrammarError(f"{{{key}}} is told before it is known, after: ...{text[-60:]!r}")
        told = with_article(part.article, facts[key]) if part.article else facts[key]
        return told[:1].upper() + told[1:] if isinstance(part, Recall) and part.capital else told

    def steps(self, state: State) -> list[Step]:
        """The alternatives allowed at the choice that `state` stands before; their probabilities sum to one."""
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
            raise GrammarError(f"nothing left to choose from at {part}, after: ...{state.text[-60:]!r}")
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
        """Writes one text. Only `rng.random()` is called, whose sequence for a seed Python guarantees to keep."""
        bits = []
        state = self.advance(self.begin())
        while state.todo is not None:
            steps = self.steps(state)
            point = rng.random()
            for step in steps:  # the last one takes what rounding leaves over
                point -= step.probability
                if point < 0:
                    break
            bits.append(-math.log2(step.probability))
            state = self.advance(step.state)
        return Sample(state.text, math.fsum(bits))

    def parse(self, text: str) -> Parse:
        """-log2 P(text), by exhaustive search over all derivations.

        Raises NotFromGrammarError, naming the furthest place that could be explained, where there is none.
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
                f"the grammar cannot make this text: nothing explains {text[furthest : furthest + 40]!r} "
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
    """The first of `parts`, told with the article that `draw` asks for."""
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
        told = (before + literal[: match.start()]).replace("^", "")
        starts = not told or told.endswith(("\n", '"')) or told.rstrip().endswith((".", "!", "?"))
        return match[1].upper() if starts else match[1]

    return re.sub(r"\^(.)", letter, literal)
