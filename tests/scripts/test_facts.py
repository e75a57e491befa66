"""The questions about people of the stories: what is held out is known from other wordings, and from nothing else."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stories import facts

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def questions_and_answers(name: str) -> list[tuple[str, str]]:
    found = []
    for row in rows(name):
        texts = [message["content"] for message in row["messages"]]
        found += zip(texts[::2], texts[1::2], strict=True)
    return found


def test_shipped_questions_are_what_the_seed_makes() -> None:
    files = facts.fact_files()
    for name, made in files.items():
        assert (DATA / name).read_bytes() == made, f"{name}: run scripts/make_stories --facts"
    assert sum(map(len, files.values())) < 300_000


def test_each_fact_is_asked_for_in_three_wordings_and_held_out_in_the_other_two() -> None:
    known = facts.facts_of(facts.draw_people())
    assert all(sorted((*fact.wordings, *fact.held_out)) == [0, 1, 2, 3, 4] for fact in known)
    asked = questions_and_answers("facts.jsonl")
    held_out = questions_and_answers("facts.val.jsonl")
    assert len(asked) == 3 * len(known) and len(held_out) == len(set(held_out)) == 2 * len(known)
    for fact in known:
        whole = {facts.question(fact, wording) for wording in fact.wordings}
        assert all((facts.question(fact, wording), fact.answer) in held_out for wording in fact.held_out)
        assert len(whole & {question for question, _ in asked}) + sum(q.startswith("And ") for q, _ in asked) >= 3


def test_no_held_out_question_is_in_the_training_and_every_wording_is() -> None:
    asked, held_out = questions_and_answers("facts.jsonl"), questions_and_answers("facts.val.jsonl")
    assert not {question for question, _ in asked} & {question for question, _ in held_out}
    known = facts.facts_of(facts.draw_people())
    trained = Counter((fact.about, wording) for fact in known for wording in fact.wordings)
    assert len(trained) == 20 and min(trained.values()) > 0.5 * max(trained.values())


def test_the_answers_are_those_of_the_table_and_cannot_be_guessed() -> None:
    people = facts.draw_people()
    table = {person.name: set(map(facts.sentence, person.facts, person.facts.values())) for person in people}
    assert len(table) == facts.PEOPLE
    for question, answer in questions_and_answers("facts.val.jsonl"):
        (name,) = [name for name in table if name in question]
        assert answer in table[name]
    assert facts.by_chance(facts.facts_of(people)) < 0.1


def test_a_second_question_of_a_conversation_names_its_person_by_a_pronoun() -> None:
    names = {person.name for person in facts.draw_people()}
    longer = [row["messages"] for row in rows("facts.jsonl") if len(row["messages"]) == 4]
    assert len(longer) == 2 * facts.PEOPLE
    for first, _, second, _ in longer:
        assert any(name in first["content"] for name in names)
        assert not any(name in second["content"] for name in names)
        assert second["content"].startswith("And ")


def test_preferences_have_the_right_answer_and_a_wrong_or_an_evasive_one() -> None:
    right = dict(questions_and_answers("facts.jsonl"))
    asked = rows("facts.preferences.jsonl")
    assert len(asked) == 4 * facts.PEOPLE
    for row in asked:
        (chosen,), (rejected,) = row["chosen"], row["rejected"]
        assert chosen["content"] != rejected["content"] and chosen["role"] == rejected["role"] == "assistant"
        assert right.get(row["prompt"][0]["content"], chosen["content"]) == chosen["content"]
    assert sum(len(row["rejected"][0]["content"]) > 60 for row in asked) == len(asked) // 2


def test_other_people_and_seeds_give_other_questions(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "make_stories", "--facts", "5", "--seed", "9", "--out", tmp_path]
    done = subprocess.run(map(str, command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "facts.val.jsonl").read_text().splitlines()) == 5 * 8
    checked = subprocess.run([*map(str, command), "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0
    (tmp_path / "facts.jsonl").write_text("")
    checked = subprocess.run([*map(str, command), "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1 and "facts.jsonl differs" in checked.stderr


@pytest.mark.parametrize("count", [0, -3, 10**9])
def test_a_count_without_names_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="people cannot be drawn"):
        facts.draw_people(count)
