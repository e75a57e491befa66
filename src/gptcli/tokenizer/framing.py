"""The framing of documents in training: the token before a text and the token after it.

All code that reads or writes documents uses such an object, so that a model is evaluated and prompted with the tokens
that its training has shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DocumentFraming:
    """The ids around the text of every document in a stream of tokens.

    Attributes:
        begin_id: the token before the text of each document, or None.
        end_id: the token after the text, or None where the next document's `begin_id` also ends the text before it, as
            GPT-2's <|endoftext|> does. Never equal to `begin_id`, and None where `begin_id` is None.
    """

    begin_id: int | None
    end_id: int | None = None

    @classmethod
    def of(cls, bos_id: int | None, eos_id: int | None) -> DocumentFraming:
        """Return the framing for a tokenizer with these special tokens.

        Two different tokens give `bos text eos`. A single token, or one that is both, is written before every document.
        Without either, nothing marks the boundary between documents.
        """
        begin = eos_id if bos_id is None else bos_id
        return cls(begin, None if eos_id == begin else eos_id)

    @property
    def stop_id(self) -> int | None:
        """The token that a model writes where a text ends, or None."""
        return self.begin_id if self.end_id is None else self.end_id

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens by which a model ends a text: `stop_id`, or none."""
        return frozenset() if self.stop_id is None else frozenset((self.stop_id,))

    @property
    def before(self) -> list[int]:
        """The ids before the text of a document: one or none."""
        return [] if self.begin_id is None else [self.begin_id]

    @property
    def after(self) -> list[int]:
        """The ids after the text of a document: one or none."""
        return [] if self.end_id is None else [self.end_id]

    @property
    def overhead(self) -> int:
        """The number of tokens that are added to each document."""
        return len(self.before) + len(self.after)
