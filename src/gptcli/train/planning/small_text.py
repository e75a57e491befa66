"""The zero-config rule below 100 kB. There the text bounds the result, not the machine, so all devices share it.

The numbers were found on texts of 4 to 90 kB of six kinds (docs/benchmarks.md). This module uses no files or models.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

SMALL_TEXT = 100_000
"""Bytes of a training split below which this rule holds."""


class SmallShape(NamedTuple):
    """The model and the regularisation for training splits of at least `minimum_bytes`."""

    minimum_bytes: int
    vocab_size: int
    """Entries of BPE, including the 256 bytes, so that it can encode every text; 0: bytes alone."""
    n_layer: int
    n_embd: int
    context_length: int
    tokens_per_step: int
    epochs: float
    """Epochs of a text that repeats itself no more than prose does."""
    dropout: float
    cumulative_decay: float
    """The sum of rate x decay over the run, which keeps a text that is read often from being memorised."""


SHAPES = (
    SmallShape(0, 0, 2, 128, 64, 512, epochs=30, dropout=0.2, cumulative_decay=20.0),
    SmallShape(7_000, 0, 2, 128, 64, 1024, epochs=10, dropout=0.0, cumulative_decay=6.0),
    SmallShape(40_000, 512, 2, 128, 128, 2048, epochs=25, dropout=0.2, cumulative_decay=15.0),
)
USUAL_BITS = 2.6
"""Bits of a byte to which deflate compresses a text that hardly repeats itself; prose has more."""
REPETITION_POWER = 1.5
"""Power with which epochs grow, and dropout falls, as deflate needs fewer bits."""
MOST_EPOCHS = 48
LEAST_STEPS = 50
MOST_SHRINKING = 0.2
"""Largest rate x decay, the part by which a step shrinks every weight. Runs with more diverge."""
SMALL_WARMUP_STEPS, WARMUP_PART = 50, 10
"""Most steps of the warm-up, and the part of the run that it takes at most, as a divisor."""
DEFLATE_LEVEL = 9


def small_shape(train_bytes: int) -> SmallShape:
    """Return the row of the table for a training split of so many bytes."""
    return next(shape for shape in reversed(SHAPES) if train_bytes >= shape.minimum_bytes)


def packed_bits(text: str) -> float:
    """Return the bits to which deflate compresses a byte of the text: fewer, the more it repeats itself.

    An empty text has USUAL_BITS.
    """
    content = text.encode()
    return 8 * len(zlib.compress(content, DEFLATE_LEVEL)) / len(content) if content else USUAL_BITS


def repetition(shape: SmallShape, bits: float | None) -> float:
    """Return the factor by which a text can be read more often than prose before it is memorised; 1 for prose.

    Args:
        shape: the row of the table.
        bits: the bits of a byte, as `packed_bits` returns them; None: not known yet, so those of prose.
    """
    most = MOST_EPOCHS / shape.epochs
    factor = float((USUAL_BITS / (bits or USUAL_BITS)) ** REPETITION_POWER)
    return min(most, max(1.0, factor))


def small_steps(shape: SmallShape, bits: float | None, train_tokens: float, tokens_per_step: int) -> int:
    """Return the steps of the shape's epochs, or of more if the text repeats itself (`bits`: see `repetition`)."""
    return max(LEAST_STEPS, math.ceil(shape.epochs * repetition(shape, bits) * train_tokens / tokens_per_step))


def small_dropout(shape: SmallShape, bits: float | None) -> float:
    """Return the dropout, less if the text repeats itself (`bits`: see `repetition`): there is less to memorise."""
    return round(shape.dropout / repetition(shape, bits), 2)


def small_warmup(steps: int) -> int:
    """Return the steps in which the learning rates rise."""
    return min(SMALL_WARMUP_STEPS, max(1, steps // WARMUP_PART))


def small_decay(shape: SmallShape, rate: float, steps: int) -> float:
    """Return Muon's weight decay that gives the table's cumulative decay.

    The rate falls to zero, so its sum over the run is half of `rate * steps`.
    """
    return round(min(2 * shape.cumulative_decay / (rate * steps), MOST_SHRINKING / rate), 2)
