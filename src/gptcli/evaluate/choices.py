"""A language model as a classifier, which takes the choice that is most probable after a prompt.

Choices may be labels (a sentiment, a topic) or whole answers. Prompt and choice are tokenized as in lm-eval, so that a
multiple-choice task of the same rows gives the same accuracies. This module reads no files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gptcli.errors import DataError
from gptcli.evaluate.continuations import Continuation, score_continuations
from gptcli.evaluate.statistics import (
    LEAST_CALIBRATION_ROWS,
    CalibrationBin,
    Uncertainty,
    calibration_bins,
    calibration_error,
    calibration_noise,
    proportion,
)
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer

SHOT_SEPARATOR = "\n\n"
"""The text between worked examples, as in lm-eval."""


class ChoiceRow(NamedTuple):
    """A prompt, the choices that may follow it, and the right one; `place` names the row in messages."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    place: str


@dataclass(frozen=True)
class ChoiceEvaluation:
    """Measurements over `rows` rows.

    Attributes:
        cut_rows: rows that are longer than the context, whose beginning is not read.
        accuracy: the share of rows whose answer is the choice of highest probability.
        accuracy_by_bytes: the same with each log-probability divided by the choice's UTF-8 bytes (lm-eval's acc_bytes,
            and its acc_norm where every character is one byte), which does not favour short choices.
        calibration_error: of the probabilities that make `accuracy`, see `calibration_error`; None below 50 rows.
        calibration_noise: the calibration error of a perfectly calibrated model on as many rows; None below 50.
        chance: the accuracy of random guesses.
        commonest, commonest_rate: the majority class and the accuracy of always choosing it.
    """

    rows: int
    shots: int
    cut_rows: int
    unknown_tokens: int
    accuracy: float
    accuracy_uncertainty: Uncertainty
    accuracy_by_bytes: float
    accuracy_by_bytes_uncertainty: Uncertainty
    calibration_error: float | None
    calibration_noise: float | None
    bins: tuple[CalibrationBin, ...]
    chance: float
    commonest: str
    commonest_rate: float
    predictions: tuple[int, ...]
    seconds: float


def parse_row(row: dict[str, Any], place: str) -> ChoiceRow:
    """Check a row {"prompt": text, "choices": [texts], "answer": a choice's number from 0, or its text}.

    Raises:
        DataError: the row has another form.
    """
    remedy = 'write {"prompt": "...", "choices": ["...", "..."], "answer": 0} with the number or the text of a choice'
    missing = [key for key in ("prompt", "choices", "answer") if key not in row]
    if missing:
        raise DataError(f"{place} has no field {missing[0]!r}", remedy)
    prompt, choices, answer = row["prompt"], row["choices"], row["answer"]
    if not isinstance(prompt, str):
        raise DataError(f"the prompt of {place} is {type(prompt).__name__}, not a text", remedy)
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise DataError(f"the choices of {place} are not a list of texts", remedy)
    if len(set(choices)) != len(choices) or len(choices) < 2:
        raise DataError(f"{place} needs at least two different choices", remedy)
    if isinstance(answer, str):
        if answer not in choices:
            raise DataError(f"the answer {answer!r} of {place} is none of its choices", remedy)
        answer = choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"the answer {answer!r} of {place} is not a number from 0 to {len(choices) - 1}", remedy)
    return ChoiceRow(prompt, tuple(choices), answer, place)


def evaluate_choices(
    model: GPT,
    tokenizer: Tokenizer,
    rows: Sequence[ChoiceRow],
    *,
    shots: Sequence[ChoiceRow] = (),
    batch_size: int | None = None,
    on_scored: Callable[[int], None] = lambda count: None,
) -> ChoiceEvaluation:
    """Let the model choose in every row, after the worked examples `shots`.

    Raises:
        DataError: a row cannot be scored with this tokenizer or model; the message names it.
        OutOfMemoryError: the device has no memory for one row.
    """
    if not rows:
        raise DataError("there is no row to score", "give rows beyond the worked examples")
    began = time.monotonic()
    before = "".join(with_choice(row.prompt, row.choices[row.answer]) + SHOT_SEPARATOR for row in shots)
    encoded = [encode_row(tokenizer, before, row, model.config.context_length) for row in rows]
    flat = [continuation for row in encoded for continuation in row]
    scores = iter(score_continuations(model, flat, batch_size=batch_size, on_scored=on_scored))
    nats = [np.array([next(scores).logprob for _ in row.choices]) for row in rows]
    answers = np.array([row.answer for row in rows])
    chosen = np.array([int(row.argmax()) for row in nats])
    sizes = [np.array([len(choice.encode()) for choice in row.choices]) for row in rows]
    by_bytes = np.array([int((row / size).argmax()) for row, size in zip(nats, sizes, strict=True)])
    confidences = np.array([softmax(row).max() for row in nats])
    bins = calibration_bins(confidences, chosen == answers)
    is_enough = len(rows) >= LEAST_CALIBRATION_ROWS
    commonest, count = Counter(row.choices[row.answer] for row in rows).most_common(1)[0]
    limit = model.config.context_length
    return ChoiceEvaluation(
        rows=len(rows),
        shots=len(shots),
        cut_rows=sum(any(len(one.context) + len(one.ids) > limit + 1 for one in row) for row in encoded),
        unknown_tokens=count_unknown(tokenizer, encoded),
        accuracy=float((chosen == answers).mean()),
        accuracy_uncertainty=of_rows(chosen == answers),
        accuracy_by_bytes=float((by_bytes == answers).mean()),
        accuracy_by_bytes_uncertainty=of_rows(by_bytes == answers),
        calibration_error=calibration_error(bins) if is_enough else None,
        calibration_noise=calibration_noise(confidences) if is_enough else None,
        bins=bins,
        chance=float(np.mean([1 / len(row.choices) for row in rows])),
        commonest=commonest,
        commonest_rate=count / len(rows),
        predictions=tuple(chosen.tolist()),
        seconds=time.monotonic() - began,
    )


def of_rows(is_right: np.ndarray) -> Uncertainty:
    """Return the uncertainty of the share of right rows, (N,) booleans."""
    return proportion(int(is_right.sum()), len(is_right), "rows")


def softmax(nats: np.ndarray) -> np.ndarray:
    """Map the choices' log-probabilities (N,) to their probabilities given that one of them is right."""
    weights = np.exp(nats - nats.max())
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities


def with_choice(prompt: str, choice: str) -> str:
    """Join prompt and choice, with a space between them unless one of the two has white space there."""
    is_separate = not prompt or prompt[-1].isspace() or choice[0].isspace()
    return prompt + choice if is_separate else f"{prompt} {choice}"


def encode_row(tokenizer: Tokenizer, before: str, row: ChoiceRow, limit: int) -> list[Continuation]:
    """Tokenize each choice of a row after its prompt, as lm-eval does.

    White space at the end of the prompt belongs to the choice. Prompt and choice are encoded together, and the tokens
    beyond as many as the prompt alone has are scored, so that a token may join the space and the word. An empty prompt
    is the token that begins a document.
    """
    prompt = (before + row.prompt).rstrip()
    wholes = [before + with_choice(row.prompt, choice) for choice in row.choices]
    context, *encoded = (ids.tolist() for ids in tokenizer.encode_batch([prompt, *wholes]))
    prefix = tokenizer.framing.before if tokenizer.adds_bos or not context else []
    if not prefix and not context:
        raise DataError(f"the prompt of {row.place} is empty and the tokenizer has no token to begin with", "write one")
    found = []
    for choice, whole in zip(row.choices, encoded, strict=True):
        ids = whole[len(context) :]
        if not ids:
            raise DataError(
                f"the choice {choice!r} of {row.place} adds no token to the prompt", "end the prompt before it"
            )
        if len(ids) > limit:
            raise DataError(
                f"a choice of {row.place} has {len(ids)} tokens, more than the model's context of {limit}", "shorten it"
            )
        found.append(Continuation((*prefix, *context), tuple(ids)))
    return found


def count_unknown(tokenizer: Tokenizer, encoded: list[list[Continuation]]) -> int:
    """Count the tokens for characters that the tokenizer lacks; a prompt counts once."""
    if tokenizer.unk_id is None:
        return 0
    return sum(
        row[0].context.count(tokenizer.unk_id) + sum(one.ids.count(tokenizer.unk_id) for one in row) for row in encoded
    )
