"""The model as a classifier: against closed forms of a unigram model, and rows as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from gptcli.errors import DataError
from gptcli.evaluate.choice_report import ChoiceReport
from gptcli.evaluate.choices import ChoiceRow, encode_row, evaluate_choices, parse_row, with_choice
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer

ROW = {"prompt": "a b", "choices": ["a", "bb"], "answer": 0}


@pytest.fixture(scope="module")
def letters(unigram_model: Callable, char_tokenizer: Tokenizer) -> GPT:
    """Knows letters only: `a` with probability 1/2, `b` 1/4, everything else shares the rest."""
    weights = torch.full((char_tokenizer.vocab_size,), 0.25 / (char_tokenizer.vocab_size - 2), dtype=torch.float64)
    weights[char_tokenizer.encode("a")[0]], weights[char_tokenizer.encode("b")[0]] = 0.5, 0.25
    return unigram_model(weights.log())


def rows(*answers: int, choices: tuple[str, ...] = ("a", "b"), prompt: str = "x ") -> list[ChoiceRow]:
    return [ChoiceRow(prompt, choices, answer, f"line {number}") for number, answer in enumerate(answers, start=1)]


def test_accuracy_confidence_and_baselines_are_those_of_the_probabilities(
    letters: GPT, char_tokenizer: Tokenizer
) -> None:
    """Given that one of two letters follows, `a` has probability 2/3, and it is the answer in three rows of five."""
    found = evaluate_choices(letters, char_tokenizer, rows(0, 0, 1, 0, 1))
    assert found.predictions == (0, 0, 0, 0, 0)
    assert found.accuracy == found.commonest_rate == 0.6
    assert (found.chance, found.commonest, found.rows) == (0.5, "a", 5)
    (only,) = found.bins
    assert (only.count, only.accuracy) == (5, 0.6)
    assert only.confidence == pytest.approx(2 / 3)
    assert found.accuracy_uncertainty.interval == pytest.approx((0.2307, 0.8824), abs=1e-4)  # Wilson's, of 3 in 5


def test_two_right_answers_prove_little(letters: GPT, char_tokenizer: Tokenizer) -> None:
    found = evaluate_choices(letters, char_tokenizer, rows(0, 0))
    text = ChoiceReport(found, "m", "rows.jsonl").text()
    assert "accuracy           1.00 (0.34 to 1.00)\n" in text
    assert "calibration error  not measured: it takes 50 rows or more" in text
    given = ChoiceReport(found, "m", "rows.jsonl").as_dict()
    assert given["accuracy"] == 1.0 and given["accuracy_stderr"] > 0.1
    assert given["calibration_error"] is given["calibration_error_by_chance"] is None
    assert (
        "accuracy           0.00 (0.00 to 0.66)\n"
        in ChoiceReport(evaluate_choices(letters, char_tokenizer, rows(1, 1)), "m", "rows.jsonl").text()
    )


def test_fifty_rows_have_a_calibration_error_beside_what_chance_gives(letters: GPT, char_tokenizer: Tokenizer) -> None:
    found = evaluate_choices(letters, char_tokenizer, rows(*[0, 0, 1, 0, 1] * 10))
    assert found.calibration_error == pytest.approx(2 / 3 - 0.6)
    # One bin of 50 predictions of 2/3: the mean absolute deviation of a share, sqrt(2 p q / (pi n)).
    assert found.calibration_noise == pytest.approx(math.sqrt(2 * 2 / 9 / (math.pi * 50)), abs=0.01)
    assert (
        "calibration error  0.07 (a perfectly calibrated model would show about 0.06"
        in ChoiceReport(found, "m", "r").text()
    )


def test_length_takes_the_advantage_from_a_short_choice(letters: GPT, char_tokenizer: Tokenizer) -> None:
    """`aaa` has probability 1/8 and `b` 1/4, but a letter of `aaa` has 1/2."""
    found = evaluate_choices(letters, char_tokenizer, rows(1, 1, choices=("b", "aaa")))
    assert (found.accuracy, found.accuracy_by_bytes) == (0.0, 1.0)


def test_length_is_counted_in_bytes(letters: GPT, char_tokenizer: Tokenizer) -> None:
    """A letter that the tokenizer lacks is one token of two bytes."""
    row = rows(0, choices=("Ω", "q"))
    found = evaluate_choices(letters, char_tokenizer, row)
    assert found.unknown_tokens == 1
    assert found.accuracy_by_bytes == 1.0


def test_examples_stand_before_each_row(letters: GPT, char_tokenizer: Tokenizer) -> None:
    shots = rows(0, 1, prompt="q.")
    (row,) = rows(1, prompt="z.")
    found = encode_row(char_tokenizer, "".join(f"q. {answer}\n\n" for answer in "ab"), row, 32)
    assert [char_tokenizer.decode(one.context) for one in found] == ["q. a\n\nq. b\n\nz."] * 2
    assert [char_tokenizer.decode(one.ids) for one in found] == [" a", " b"]
    assert evaluate_choices(letters, char_tokenizer, [row], shots=shots).shots == 2


def test_a_row_beyond_the_context_loses_its_beginning_and_is_counted(letters: GPT, char_tokenizer: Tokenizer) -> None:
    limit = letters.config.context_length
    found = evaluate_choices(letters, char_tokenizer, [*rows(0), *rows(0, prompt="x" * limit), *rows(0)])
    assert found.cut_rows == 1
    assert (
        evaluate_choices(letters, char_tokenizer, rows(0, prompt="x" * (limit - 1))).cut_rows == 0
    )  # the last id is not read
    assert found.accuracy == 1.0


@pytest.mark.parametrize(
    ("prompt", "choice", "whole"),
    [
        ("Q:", "yes", "Q: yes"),
        ("Q: ", "yes", "Q: yes"),
        ("Q:\n", "yes", "Q:\nyes"),
        ("Q:", " yes", "Q: yes"),
        ("", "yes", "yes"),
    ],
)
def test_a_space_stands_between_prompt_and_choice_unless_there_is_one(prompt: str, choice: str, whole: str) -> None:
    assert with_choice(prompt, choice) == whole


def test_an_empty_prompt_is_the_beginning_of_a_document(char_tokenizer: Tokenizer) -> None:
    (row,) = rows(0, prompt="")
    assert [one.context for one in encode_row(char_tokenizer, "", row, 32)] == [(char_tokenizer.eos_id,)] * 2


def test_an_answer_is_a_number_or_a_text() -> None:
    assert parse_row(ROW, "line 1").answer == 0
    assert parse_row(ROW | {"answer": "bb"}, "line 1").answer == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": "c"}, "'c'"),
        ({"answer": 2}, "from 0 to 1"),
        ({"answer": -1}, "from 0 to 1"),
        ({"answer": True}, "True"),
        ({"answer": None}, "None"),
        ({"prompt": 3}, "prompt"),
        ({"choices": ["a"]}, "two different"),
        ({"choices": ["a", "a"]}, "two different"),
        ({"choices": "ab"}, "choices"),
        ({"choices": ["a", ""]}, "choices"),
    ],
)
def test_a_bad_row_is_named(change: dict, named: str) -> None:
    with pytest.raises(DataError, match=r"line 7") as raised:
        parse_row(ROW | change, "line 7")
    assert named in str(raised.value)


def test_a_missing_field_and_a_choice_that_is_too_long_are_named(letters: GPT, char_tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="line 7 has no field 'choices'"):
        parse_row({"prompt": "", "answer": 0}, "line 7")
    with pytest.raises(DataError, match="a choice of line 1 has 41 tokens"):
        evaluate_choices(letters, char_tokenizer, rows(0, choices=("a", "b" * 40)))


def test_several_choices_take_no_other_order_than_the_rows(letters: GPT, char_tokenizer: Tokenizer) -> None:
    """Rows of different length are read in another order than they stand in."""
    given = [*rows(0, prompt="x" * 20), *rows(1, prompt="y"), *rows(0, choices=("b", "a", "z"), prompt="z" * 7)]
    found = evaluate_choices(letters, char_tokenizer, given, batch_size=2)
    assert found.predictions == (0, 0, 1)
    assert found.chance == pytest.approx(np.mean([1 / 2, 1 / 2, 1 / 3]))
