"""Renderings of the beginnings of a conversation, kept for the time when it goes on.

The places of all answers are found by rendering each beginning of a conversation. In a chat, all but the last of these
beginnings were rendered a turn before, and a template writes the same text for the same messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rendered = dict[str, Any]
"""{"text"}, {"error"}, or {"length"} of the whole text's beginning."""


Key = tuple[int, bool, str | None]


def key_of(wanted: dict[str, Any]) -> Key:
    """Return what is to be rendered, as the key of a table."""
    return wanted["stop"], bool(wanted.get("asks")), wanted.get("answer")


class KnownRenderings:
    """The renderings of the last conversation, of which `whole` is the text.

    A rendering {"length"} is the beginning of that text.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.tools: Any = None
        self.found: dict[Key, Rendered] = {}
        self.whole = ""

    def keep(self, messages: list[Any], tools: Any, found: dict[Key, Rendered], whole: str) -> None:
        """Keep the renderings of a conversation in place of the last one's."""
        self.messages, self.tools, self.found, self.whole = messages, tools, found, whole

    def select(self, messages: list[Any], tools: Any, wanted: Sequence[dict[str, Any]]) -> list[Rendered | None]:
        """Return the renderings that are known among those that are wanted, and None for each other one."""
        pairs = zip(messages, self.messages, strict=False)
        different = next((number for number, (new, old) in enumerate(pairs) if new != old), None)
        same = min(len(messages), len(self.messages)) if different is None else different
        if tools != self.tools:
            same = -1
        return [self.found.get(key_of(one)) if one["stop"] <= same else None for one in wanted]

    def merge(self, known: Sequence[Rendered | None], new: Sequence[Rendered], whole: str) -> list[Rendered]:
        """Return all renderings as the template's process gives them beside the text `whole`: those that are known, and
        new ones in place of each None.
        """
        shared, rest = shared_length(self.whole, whole), iter(new)
        return [next(rest) if one is None else self.beside(one, whole, shared) for one in known]

    def beside(self, rendered: Rendered, whole: str, shared: int) -> Rendered:
        """Return a known rendering as it is given beside another text that has `shared` characters in common."""
        if rendered.get("length", shared + 1) <= shared or "error" in rendered:
            return rendered
        text = rendered["text"] if "text" in rendered else self.whole[: rendered["length"]]
        return {"length": len(text)} if whole.startswith(text) else {"text": text}


def shared_length(one: str, other: str) -> int:
    """Return the number of characters that two texts begin with in common."""
    different = next((number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(len(one), len(other)) if different is None else different
