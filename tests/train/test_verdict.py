"""A verdict follows from the curve alone: curves of known shape, with noise of known size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gptcli.train.config import TrainerConfig
from gptcli.train.ending import Ending
from gptcli.train.verdict import CurvePoint, Finding, curve_of, judge

TOKENS = 16_384
MANY = 300


def curve(losses: Sequence[float], noise: float = 0.0, seed: int = 0, parts: int = 32) -> list[CurvePoint]:
    """Evaluations with these losses. Some parts are harder than others, by much; how much a part's loss differs from
    one evaluation to the next is random, `noise` nats of standard deviation."""
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0, 0.4, size=parts)
    points = []
    for number, loss in enumerate(losses, start=1):
        found = loss + hardness - hardness.mean() + generator.normal(0, noise, size=parts)
        points.append(CurvePoint(100 * number, loss - 0.1 * number, float(found.mean()), tuple(found.tolist())))
    return points


FALLING = [3.0, 2.7, 2.5, 2.4, 2.32, 2.26, 2.21, 2.17, 2.14, 2.11]
FLAT = [2.6, 2.3, 2.21, 2.203, 2.201, 2.2, 2.2, 2.2, 2.2, 2.2]
TURNING = [2.6, 2.3, 2.2, 2.18, 2.19, 2.22, 2.26, 2.3, 2.33, 2.35]


@pytest.mark.parametrize(
    ("losses", "noise", "expected"),
    [
        (FALLING, 0.0, "falling"),
        (FALLING, 0.02, "falling"),
        (FLAT, 0.0, "flat"),
        (FLAT, 0.02, "flat"),
        (TURNING, 0.0, "overfitted"),
        (TURNING, 0.02, "overfitted"),
        ([0.6, 0.45, 0.39, 0.41, 0.44, 0.48, 0.52, 0.55, 0.57, 0.57], 0.01, "overfitted"),
        (FLAT, 0.5, "too_small"),
        (TURNING[:4], 0.5, "too_small"),
        (FALLING[:1], 0.0, "too_few_evaluations"),
        (FALLING[:2], 0.0, "too_few_evaluations"),
        ([], 0.0, "too_few_evaluations"),
        ([2.6, 2.3, 2.2, 2.4, 2.2, 2.1, 2.0, 1.9, 1.8, 1.7], 0.01, "falling"),  # a second descent
        ([2.6, 2.4, 2.3, 2.25, 2.21, 2.2, 2.19, 2.24, 2.22, 2.207], 0.005, "flat"),  # falls, but was lower before
    ],
)
def test_a_curve_of_known_shape_is_recognised(losses: list[float], noise: float, expected: str) -> None:
    assert judge(curve(losses, noise), TOKENS).verdict == expected


def test_the_best_and_the_compared_evaluations_are_named() -> None:
    found = judge(curve(TURNING), TOKENS)
    assert found.best is not None and found.last is not None
    assert (found.best.step, found.last.step) == (400, 1000)
    falling = judge(curve(FALLING), TOKENS)
    assert falling.before is not None and falling.before.step == 800


@pytest.mark.parametrize(("losses", "wrong"), [(FLAT, ("overfitted", "falling")), (FALLING, ("overfitted",))])
@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1, 0.3])
def test_noise_is_hardly_ever_taken_for_a_trend(losses: list[float], wrong: tuple[str, ...], noise: float) -> None:
    found = [judge(curve(losses, noise, seed), TOKENS).verdict for seed in range(MANY)]
    assert sum(one in wrong for one in found) <= 0.02 * MANY


def test_a_training_loss_that_rises_too_is_no_overfitting() -> None:
    points = [point._replace(train_loss=point.val_loss - 0.2) for point in curve(TURNING)]
    found = judge(points, TOKENS)
    assert found.verdict == "unstable"
    said = "Training became worse after step 400: the validation loss went from 2.180 to 2.350 by step 1,000, and the "
    assert f"{said}training loss from 1.980 to 2.150 (a lower optim.lr may help). The" in ending(found).sentence
    assert judge([point._replace(train_loss=None) for point in points], TOKENS).verdict == "overfitted"


def test_a_curve_of_few_tokens_proves_nothing_however_it_looks() -> None:
    """Two bytes of validation text have one target token, and a verse has a few words."""
    assert judge(curve(TURNING, parts=1), 1).verdict == "too_small"
    assert judge(curve(TURNING, parts=32), 100).verdict == "too_small"


def test_without_parts_the_losses_alone_decide() -> None:
    """Lines that an earlier version of the program wrote have none."""
    lines = [{"step": point.step, "train_loss": None, "val_loss": point.val_loss} for point in curve(TURNING)]
    between = [{"step": 50, "train_loss": 3.0, "val_loss": None}]
    assert judge(curve_of([*between, *lines]), TOKENS).verdict == "overfitted"


def ending(finding: Finding, **changes: object) -> Ending:
    settings = {"run": Path("runs/a b"), "train": TrainerConfig(max_steps=1000), "end": "max_steps", "steps": 1000}
    more = {"planned": 1000, "tokens": TOKENS, "val_tokens": TOKENS, "used_step": 400, "finding": finding}
    return Ending(**(settings | more | changes))


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (TURNING, "overfitted since step 400: the validation loss was 2.180 there and 2.350 at step 1,000, while the "
                  "training loss went from 1.78 to 1.35. The checkpoint of step 400, the best, is kept"),
        (FALLING, "still falling at the end (2.170 at step 800, 2.110 at step 1,000), so more steps would probably "
                  "lower it further: gptcli train --resume --out 'runs/a b' --set train.max_steps=2000"),
        (FLAT, "flat at the end"),
        (FALLING[:2], "too few evaluations to tell what the validation loss does (--set train.eval_every_steps=100"),
    ],
)  # fmt: skip
def test_a_verdict_is_a_sentence(losses: list[float], said: str) -> None:
    assert said in ending(judge(curve(losses), TOKENS)).sentence


def test_a_small_validation_part_is_said_with_its_interval() -> None:
    points = curve(FLAT, 0.5)
    sentence = ending(judge(points, TOKENS)).sentence
    assert "too small to tell which checkpoint is the best: on its 16,384 tokens the loss is 2." in sentence
    assert " to 2." in sentence and "--set data.val_fraction=0.2 makes it larger" in sentence
    short = ending(judge(points, TOKENS), val_tokens=90_000).sentence
    assert "What an evaluation reads is too small" in short and "on the 16,384 tokens of 90,000 the loss is" in short
    assert "(--set train.eval_tokens=65536 reads more)" in short
    assert (
        "on its 1 token the loss is 2.4, " in ending(judge(curve(TURNING, parts=1), 1), tokens=1, val_tokens=1).sentence
    )


def test_a_checkpoint_that_was_not_kept_is_not_promised() -> None:
    assert "That checkpoint was not kept" in ending(judge(curve(TURNING), TOKENS), used_step=1000).sentence


def test_why_a_run_ended_is_said() -> None:
    found = judge(curve(TURNING), TOKENS)
    assert ending(found).reason == ""
    early = ending(found, end="patience", train=TrainerConfig(max_steps=5000, patience=3), planned=5000)
    assert early.reason.startswith("The run ended at step 1,000 of 5,000: 3 evaluations in a row brought no lower")
    assert ending(found, end="patience", planned=1000).reason == ""
    assert "patience=3 such a run" not in early.sentence
    falling = judge(curve(FALLING), TOKENS)
    assert ending(falling, end="patience").sentence.endswith("--resume --out 'runs/a b' --set train.patience=0")
    assert ending(falling, end="time", train=TrainerConfig(max_seconds=600)).sentence.endswith("--time 600s")
