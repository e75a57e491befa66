"""Conversations as prompts, for several requests at once, outside of the event loop."""

from __future__ import annotations

import threading
from typing import Any

from gptcli.data.example_forms import ChatExample
from gptcli.errors import DataError
from gptcli.session import Session

PROBE = ChatExample([{"role": "user", "content": "?"}], None)
"""A conversation by which a template's process shows that it still works."""
PLACE = "the conversation"


class ChatPrompts:
    """The chat template of a model. Its methods may take seconds, and are called on a thread of `TextPool`.

    Attributes:
        stop_ids: the tokens that end an answer.
    """

    def __init__(self, session: Session) -> None:
        """Start the template's process.

        Raises:
            DataError: the template cannot be compiled or rendered.
        """
        self.session, self.lock = session, threading.Lock()
        self.encoder = session.chat_encoder()
        self.stop_ids = self.encoder.stop_ids
        self.probe = self.encode(PROBE)

    def encode(self, conversation: ChatExample) -> list[int]:
        """Return the ids of a conversation by the process that runs now."""
        return self.session.chat_prompt(self.encoder, conversation, PLACE).ids

    def ids(self, messages: list[Any], tools: list[Any] | None = None) -> list[int]:
        """Return the ids of a conversation up to where the assistant is to write.

        Raises:
            DataError: the template fails on the conversation, or the tokenizer cannot represent it.
        """
        with self.lock:
            try:
                return self.encode(ChatExample(messages, tools))
            except DataError:
                self.repair()
                raise

    def repair(self) -> None:
        """Start another process if the one that runs has ended, or is still busy with what it did not do in time."""
        try:
            works = self.encode(PROBE) == self.probe
        except DataError:
            works = False
        if not works:
            self.encoder.close()
            self.encoder = self.session.chat_encoder()

    def close(self) -> None:
        """End the process."""
        self.encoder.close()
