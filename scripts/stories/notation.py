r"""The notation of the grammar files: rules and alternatives as plain prose with a few marks.

    = rule              starts a rule; `= rule *` one whose alternatives may occur more than once in a story
    some text           one alternative a line; indented lines continue it; lines with # are comments
    3* some text        weight 3 (1 when not given)
    ?sea ?!hill ?x=y    before the text: allowed only if the fact is known, is not known, has that value
    text / k=v; she     after the text: facts that the alternative sets (under the role it is drawn for, if any);
                        `he` and `she` stand for all the pronouns; an underscore is a space
    [a|2* b|c]          an inline choice, each part an alternative like those above
    <rule> <rule:role>  a choice among a rule's alternatives; with a role the text is kept as a fact, and a role that
                        is known already is repeated; `<a rule>`, `<A rule>` with an article before it
    {role} {a role}     a known fact; {Role} {A role} with a capital; {role.key} an attribute
    {key=value}         sets a fact without any text
    ^word               a capital if a sentence or a speech starts here
    ¶                   a new paragraph

The rules themselves are in the folder `grammar`; `engine.py` evaluates them.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from stories.engine import PRONOUNS, Assign, Choice, Draw, Grammar, GrammarError, Literal, Option, Part, Recall

_WEIGHT = re.compile(r"(\d+)\* ?")
_CONDITION = re.compile(r"\?(!?)([\w.]+)(?:=(\w+))? ")
_CALL = re.compile(r"([aA] )?([\w-]+)(?::([\w.]+))?$")
_SPECIAL = re.compile(r"[\[\]<>{}|]")


def read_grammar(paths: Iterable[Path], start: str) -> Grammar:
    """Read the grammar in `paths`.

    Raises:
        GrammarError: there is a mistake; the message names its file and line.
    """
    rules: dict[str, list[Option]] = {}
    repeatable: set[str] = set()
    for path in paths:
        name = None
        for number, line in _logical_lines(path.read_text(encoding="utf-8")):
            try:
                if line.startswith("= "):
                    name, _, star = line[2:].partition(" ")
                    if name in rules:
                        raise GrammarError(f"rule {name!r} is defined twice")
                    rules[name] = []
                    if star == "*":
                        repeatable.add(name)
                elif name is None:
                    raise GrammarError("text before the first rule")
                else:
                    rules[name].append(parse_option(line))
            except GrammarError as error:
                raise GrammarError(f"{path.name}, line {number}: {error}") from None
    return Grammar({name: tuple(options) for name, options in rules.items()}, start, frozenset(repeatable))


def _logical_lines(text: str) -> list[tuple[int, str]]:
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] == " " and lines:
            lines[-1] = (lines[-1][0], lines[-1][1] + " " + line.strip())
        else:
            lines.append((number, line.rstrip()))
    return lines


def parse_option(line: str) -> Option:
    """Read one alternative: conditions, weight, text, attributes."""
    conditions = []
    while match := _CONDITION.match(line):
        conditions.append((match[2], match[3], not match[1]))
        line = line[match.end() :]
    weight = 1.0
    if match := _WEIGHT.match(line):
        weight = float(match[1])
        line = line[match.end() :]
    line, _, tail = line.partition(" / ")
    return Option(weight, tuple(conditions), parse_parts(line), _attributes(tail))


def _attributes(tail: str) -> tuple[tuple[str, str], ...]:
    attributes: dict[str, str] = {}
    for item in filter(None, (item.strip() for item in tail.split(";"))):
        key, equals, value = item.partition("=")
        if equals:
            attributes[key] = value.replace("_", " ")
        elif key in PRONOUNS:
            attributes.update(PRONOUNS[key])
        else:
            raise GrammarError(f"{item!r} is not an attribute (key=value, he, she)")
    return tuple(attributes.items())


def parse_parts(text: str) -> tuple[Part, ...]:
    """Read the parts of an alternative's text."""
    text = text.replace("¶ ", "¶").replace(" ¶", "¶").replace("¶", "\n\n")
    parts: list[Part] = []
    at = 0
    while match := _SPECIAL.search(text, at):
        if match.start() > at:
            parts.append(Literal(text[at : match.start()]))
        mark = match[0]
        if mark not in "[<{":
            raise GrammarError(f"a {mark!r} that closes or divides nothing in {text!r}")
        end = _closing(text, match.start(), {"[": "]", "<": ">", "{": "}"}[mark])
        inside = text[match.end() : end]
        parts.append({"[": _choice, "<": _draw, "{": _fact}[mark](inside))
        at = end + 1
    if at < len(text):
        parts.append(Literal(text[at:]))
    return tuple(parts)


def _closing(text: str, start: int, close: str) -> int:
    depth = 0
    for at in range(start, len(text)):
        if text[at] == text[start]:
            depth += 1
        elif text[at] == close:
            depth -= 1
            if depth == 0:
                return at
    raise GrammarError(f"no {close!r} closes {text[start : start + 30]!r}")


def _choice(inside: str) -> Choice:
    pieces, depth, start = [], 0, 0
    for at, letter in enumerate(inside):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            pieces.append(inside[start:at])
            start = at + 1
    return Choice(tuple(parse_option(piece) for piece in [*pieces, inside[start:]]))


def _draw(inside: str) -> Draw:
    match = _CALL.match(inside)
    if not match:
        raise GrammarError(f"<{inside}> is not a call of a rule")
    return Draw(match[2], match[3], (match[1] or "").strip())


def _fact(inside: str) -> Part:
    key, equals, value = inside.partition("=")
    if equals:
        return Assign(key, value)
    article = inside[0] if inside[:2] in ("a ", "A ") else ""
    key = inside[2:] if article else inside
    return Recall(key[:1].lower() + key[1:], article, inside[:1].isupper() and not article)
