"""Questions about people of the stories, with known answers: a small data set of conversations.

A table says of each person the trade, the town, the animal and the thing in the pocket, all words of the grammar. Each
of these facts can be asked for in five wordings. Three of them are in the training conversations and the other two in
the held-out ones; which ones differs from fact to fact. To answer a held-out question, a model has to have learnt the
fact from other wordings, and the wording from other facts. Guessing the commonest answer of the wording gets few right
(`by_chance`).

Needs the standard library alone. As in `corpus.py`, `random()` is the only function of `random.Random` that is used.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from stories.corpus import SEED, load_grammar
from stories.engine import Literal, with_article

PEOPLE = 64
"""People in the shipped files."""
WORDINGS = {
    "trade": (
        "What is {names} trade?",
        "As what does {name} earn a living?",
        "Which trade did {name} learn?",
        "What is {name} by profession?",
        "As what would you hire {name_}?",
    ),
    "town": (
        "Where does {name} live?",
        "In which town is {names} home?",
        "Which town does {name} come from?",
        "Where would a letter reach {name_}?",
        "What is the name of {names} town?",
    ),
    "animal": (
        "Which animal does {name} keep?",
        "What kind of animal lives with {name_}?",
        "What animal is {names} companion?",
        "Which animal follows {name_} about?",
        "What animal does {name} feed in the morning?",
    ),
    "thing": (
        "What does {name} carry in a pocket?",
        "What is in {names} pocket?",
        "What would you find in {names} coat?",
        "Which small thing does {name} never part with?",
        "What does {name} keep for luck?",
    ),
}
"""Questions for each fact: {name} is the person, {names} the possessive, and {name_} the person as an object."""
HELD_OUT = 2
RAMBLING = (
    "That is a long story, and {name} tells it better on Tuesdays, when the kettle is on and nobody is in a hurry.",
    "People say this and that about {name_}, and some of them say it twice, but who has ever gone and looked?",
    "First you would have to know about the weather that year, and about a certain gate, and about a goose.",
)
"""Answers that say nothing."""


class Person(NamedTuple):
    """What is true of a person, by the name of the fact."""

    name: str
    is_woman: bool
    facts: dict[str, str]


class Fact(NamedTuple):
    """One fact, and the numbers of the wordings that ask for it in training and in the held-out questions."""

    person: Person
    about: str
    answer: str
    wordings: tuple[int, ...]
    held_out: tuple[int, ...]


def words_of(rule: str) -> list[str]:
    """Return the alternatives of a rule that are plain words."""
    options = load_grammar().rules[rule]
    return ["".join(part.text for part in o.parts) for o in options if all(isinstance(p, Literal) for p in o.parts)]


def shuffled(values: Sequence, rng: random.Random) -> list:
    """Return values in another order."""
    keys = [rng.random() for _ in values]
    return [values[n] for n in sorted(range(len(values)), key=keys.__getitem__)]


def draw_people(count: int = PEOPLE, seed: int = SEED) -> list[Person]:
    """Draw people with different names, and what is true of them.

    Raises:
        ValueError: the grammar has fewer names.
    """
    rng = random.Random(seed)
    women = set(words_of("woman"))
    firsts = [*words_of("woman"), *words_of("man")]
    surnames = words_of("surname")
    if not 0 < count <= len(firsts) * len(surnames) // 4:
        raise ValueError(f"{count} people cannot be drawn; ask for 1 to {len(firsts) * len(surnames) // 4}")
    known = {
        "trade": words_of("trade"),
        "town": [front + back for front in words_of("town-front") for back in words_of("town-back")],
        "animal": words_of("animal"),
        "thing": words_of("small-thing"),
    }
    people: dict[str, Person] = {}
    while len(people) < count:
        first, surname = (values[int(rng.random() * len(values))] for values in (firsts, surnames))
        facts = {about: values[int(rng.random() * len(values))] for about, values in known.items()}
        people.setdefault(f"{first} {surname}", Person(f"{first} {surname}", first in women, facts))
    return list(people.values())


def sentence(about: str, value: str) -> str:
    """Return the answer to a question."""
    text = value if about == "town" else with_article("a", value)
    return f"{text[0].upper()}{text[1:]}."


def facts_of(people: Sequence[Person]) -> list[Fact]:
    """Return the facts about people, with every choice of held-out wordings equally often."""
    choices = list(combinations(range(5), HELD_OUT))
    found = []
    for number, person in enumerate(people):
        for place, (about, value) in enumerate(person.facts.items()):
            held_out = choices[(number + 3 * place) % len(choices)]
            wordings = tuple(n for n in range(5) if n not in held_out)
            found.append(Fact(person, about, sentence(about, value), wordings, held_out))
    return found


def question(fact: Fact, wording: int, is_known: bool = False) -> str:
    """Return a question; of a person who is known from the turn before, with a pronoun."""
    he, him, his = ("she", "her", "her") if fact.person.is_woman else ("he", "him", "his")
    name = fact.person.name
    names = {"name": name, "name_": name, "names": f"{name}'{'' if name.endswith('s') else 's'}"}
    text = WORDINGS[fact.about][wording].format(**({"name": he, "name_": him, "names": his} if is_known else names))
    return f"And {text[0].lower()}{text[1:]}" if is_known else text


def turns(fact: Fact, wording: int, is_known: bool = False) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": question(fact, wording, is_known)},
        {"role": "assistant", "content": fact.answer},
    ]


def conversations(facts: Sequence[Fact], seed: int = SEED) -> list[list[dict[str, str]]]:
    """Return the training conversations: each fact in its wordings, most alone and some as the second question about
    a person.
    """
    rng = random.Random(seed + 1)
    found = []
    for start in range(0, len(facts), 4):
        about_one = facts[start : start + 4]
        asked = shuffled([(fact, wording) for fact in about_one for wording in fact.wordings], rng)
        found += [turns(*one) for one in asked[:8]]
        found += [[*turns(*asked[n]), *turns(*asked[n + 1], is_known=True)] for n in range(8, len(asked), 2)]
    return shuffled(found, rng)


def held_out_conversations(facts: Sequence[Fact]) -> list[list[dict[str, str]]]:
    return [turns(fact, wording) for fact in facts for wording in fact.held_out]


def preferences(facts: Sequence[Fact], seed: int = SEED) -> Iterator[dict[str, object]]:
    """Yield for each fact a question of the training, the right answer, and a wrong or an evasive one in turn."""
    rng = random.Random(seed + 2)
    for number, fact in enumerate(facts):
        others = sorted({other.answer for other in facts if other.about == fact.about} - {fact.answer})
        wrong = others[int(rng.random() * len(others))]
        evasion = RAMBLING[int(rng.random() * len(RAMBLING))].format(name=fact.person.name, name_=fact.person.name)
        asked, answered = turns(fact, fact.wordings[number % len(fact.wordings)])
        rejected = {"role": "assistant", "content": evasion if number % 2 else wrong}
        yield {"prompt": [asked], "chosen": [answered], "rejected": [rejected]}


def by_chance(facts: Sequence[Fact]) -> float:
    """Return the share of the held-out questions that the commonest answer to each kind of question gets right."""
    right = 0
    for about in WORDINGS:
        right += Counter(fact.answer for fact in facts if fact.about == about).most_common(1)[0][1]
    return right / len(facts)


def fact_files(count: int = PEOPLE, seed: int = SEED) -> dict[str, bytes]:
    """Return the files of the data set by name."""
    facts = facts_of(draw_people(count, seed))
    rows: dict[str, list[object]] = {
        "facts.jsonl": [{"messages": one} for one in conversations(facts, seed)],
        "facts.val.jsonl": [{"messages": one} for one in held_out_conversations(facts)],
        "facts.preferences.jsonl": list(preferences(facts, seed)),
    }
    return {name: "".join(json.dumps(row) + "\n" for row in found).encode() for name, found in rows.items()}
