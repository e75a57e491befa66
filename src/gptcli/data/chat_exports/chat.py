"""A chat as its export has it: who wrote what, and when."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import NamedTuple


class ChatMessage(NamedTuple):
    """A message that a person wrote."""

    time: datetime.datetime
    sender: str
    text: str


class Chat(NamedTuple):
    """The messages of one chat in the order of the export, and what was left out, by its kind in words."""

    name: str
    messages: list[ChatMessage]
    left_out: Counter[str]
    is_thread: bool = False
    """Whether the messages answer each other, however long that took, as e-mails do."""
