"""The zero-config rule below 100 kB, where the text bounds what is learnt, not the machine: the same on every device.

The numbers were found on texts of 4 to 90 kB of six kinds (docs/benchmarks.md). No files and no models are used here.
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
    """Entries of BPE, the 256 bytes among them, so that no text is unknown to it; 0: bytes alone."""
    n_layer: int
    n_embd: int
    context_length: int
    tokens_per_step: int
    epochs: float
    """Epochs over text that repeats no more than prose does."""
    dropout: float
    cumulative_decay: float
    """Sum of rate x decay over the run, which keeps a text from being memorised when it is read so often."""


SHAPES = (
    SmallShape(0, 0, 2, 128, 64, 512, epochs=30, dropout=0.2, cumulative_decay=20.0),
    SmallShape(7_000, 0, 2, 128, 64, 1024, epochs=10, dropout=0.0, cumulative_decay=6.0),
    SmallShape(40_000, 512, 2, 128, 128, 2048, epochs=25, dropout=0.2, cumulative_decay=15.0),
)
USUAL_BITS, REPETITION_POWER, MOST_EPOCHS = 2.6, 1.5, 48
"""Bits of a byte that deflate leaves of text that does not repeat much (prose has more); the power with which epochs
grow, and dropout falls, where it leaves fewer; and the most epochs that text is read."""
LEAST_STEPS = 50
MOST_SHRINKING = 0.2
"""Most that the highest rate x decay may be: what a step takes off every weight. With more a run falls apart."""


def small_shape(train_bytes: int) -> SmallShape:
    """The row of the table for a training split of so many bytes."""
    return next(shape for shape in reversed(SHAPES) if train_bytes >= shape.minimum_bytes)


def packed_bits(text: str) -> float:
    """Bits of a byte that deflate leaves of a text: how much of it repeats. An empty text counts as usual."""
    content = text.encode()
    return 8 * len(zlib.compress(content, 9)) / len(content) if content else USUAL_BITS


def repetition(shape: SmallShape, bits: float | None) -> float:
    """The factor by which a text can be read more often than prose before it is memorised; 1 for prose.

    Args:
        bits: of a byte, as `packed_bits` gives them; None: not known yet, taken for prose.
    """
    most = MOST_EPOCHS / shape.epochs
    return min(most, max(1.0, (USUAL_BITS / (bits or USUAL_BITS)) ** REPETITION_POWER))


def small_steps(shape: SmallShape, bits: float | None, train_tokens: float, tokens_per_step: int) -> int:
    """Steps of the shape's epochs, or of more where the text repeats (`bits`: see `repetition`)."""
    return max(LEAST_STEPS, math.ceil(shape.epochs * repetition(shape, bits) * train_tokens / tokens_per_step))


def small_dropout(shape: SmallShape, bits: float | None) -> float:
    """Less where the text repeats (`bits`: see `repetition`), since there is less to memorise."""
    return round(shape.dropout / repetition(shape, bits), 2)


def small_warmup(steps: int) -> int:
    """Steps in which the rates rise."""
    return min(50, max(1, steps // 10))


def small_decay(shape: SmallShape, rate: float, steps: int) -> float:
    """Muon's weight decay: so that the sum of rate x decay over the run, of which a rate that falls to nothing makes
    half, is as the table says."""
    return round(min(2 * shape.cumulative_decay / (rate * steps), MOST_SHRINKING / rate), 2)
