"""The loss mask of a split in a file: one bit for each token of the stream, 1 if it is in the loss.

The bits of a byte go from the lowest to the highest, and the last byte is filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MASK = "loss-mask.bin"
BYTE = np.dtype(np.uint8)


class MaskPacker:
    """Packs a mask that comes in parts of any length; `write` gets the full bytes."""

    def __init__(self, write: Callable[[np.ndarray], None]) -> None:
        self.write = write
        self.held = np.empty(0, dtype=bool)
        """The last bits, fewer than a byte holds."""
        self.tokens = self.targets = 0
        """The number of bits, and of those that are 1."""

    def add(self, in_loss: np.ndarray) -> None:
        """Append bits (N,) bool."""
        self.tokens += len(in_loss)
        self.targets += int(np.count_nonzero(in_loss))
        bits = np.concatenate((self.held, in_loss))
        full = len(bits) // 8 * 8
        self.write(np.packbits(bits[:full], bitorder="little"))
        self.held = bits[full:]

    def end(self) -> None:
        """Write the last byte, if it is not full."""
        self.write(np.packbits(self.held, bitorder="little"))
        self.held = self.held[:0]


def read_bits(packed: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return bits start..stop-1 of packed bytes, (stop - start,) bool."""
    first = start // 8
    bits = np.unpackbits(packed[first : (stop + 7) // 8], bitorder="little")
    return bits[start - 8 * first : stop - 8 * first].astype(bool)
