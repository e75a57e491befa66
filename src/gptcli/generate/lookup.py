"""Draft tokens for a request, looked up in its earlier ids (prompt lookup decoding, Saxena 2023).

Code, lists and quotations repeat themselves. A draft costs only the time to check it: the engine reads all drafted ids
at once and keeps those that it draws itself, so drafts change how fast a text is generated, never the text.
"""

from __future__ import annotations

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""Numbers of last ids that must have occurred together before; the longest match counts, then the latest."""


class PromptLookup:
    """An index of a growing list of ids, which finds earlier occurrences of its last ids. Each id is indexed once."""

    def __init__(self, most: int) -> None:
        self.most = most
        """Most ids of one draft."""
        self.limit = most
        """Most ids of the next draft; it falls when drafts are wrong."""
        self.indexed = 0
        self.follows: dict[tuple[int, ...], int] = {}
        """The index of the id after the last occurrence of each run of ids."""

    def draft(self, ids: list[int], room: int) -> list[int]:
        """Return at most `room` ids that may follow `ids`, which begins with those of the last call."""
        self.index(ids)
        count = min(self.limit, room)
        for length in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
            place = self.follows.get(tuple(ids[-length:]))
            if place is not None:
                period = len(ids) - place  # a draft that reaches the end repeats
                return [ids[place + i % period] for i in range(count)]
        return []

    def index(self, ids: list[int]) -> None:
        """Add the runs that end before each new id."""
        for place in range(max(self.indexed, SHORTEST_MATCH), len(ids)):
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, place) + 1):
                self.follows[tuple(ids[place - length : place])] = place
        self.indexed = len(ids)

    def learn(self, drafted: int, right: int) -> None:
        """Limit the next draft: the last one had `drafted` ids, of which the first `right` were drawn."""
        if drafted:
            self.limit = self.most if right == drafted else min(self.most, right + 1)
