"""Receivers of samples while they are generated. Free of torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType


class Listener(AbstractContextManager["Listener", None]):
    """Receives samples as they grow, within a `with` block. This class ignores them."""

    def on_text(self, number: int, piece: str) -> None:
        """Take in the whole characters that sample `number` has grown by."""

    def on_end(self, number: int) -> None:
        """Take in that sample `number` has ended."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the generation, with its error if it failed."""


SILENT = Listener()
