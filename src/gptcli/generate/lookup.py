"""Draft tokens at what a row will say next, looked up in what it has said (prompt lookup decoding, Saxena 2023).

Code, lists and quotations repeat themselves. A draft costs nothing but the time to check it: the engine reads all
drafted ids at once and keeps those that it draws itself, so drafts decide how fast a text comes, never what it is.
Knows ids only.
"""

from __future__ import annotations

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""How many of the last ids must have stood together before; of several matches the longest, then the latest, counts."""


class PromptLookup:
    """Finds the last ids of a growing list earlier in it. Takes the ids once each, and one table entry per length."""

    def __init__(self, most: int) -> None:
        self.most = most
        """Ids of one draft at most."""
        self.limit = most
        """Ids of the next draft at most: falls when drafts prove wrong."""
        self.indexed = 0
        self.follows: dict[tuple[int, ...], int] = {}
        """Where each run of ids was last followed by another."""

    def draft(self, ids: list[int], room: int) -> list[int]:
        """At most `room` ids that may come after `ids`, which begins with those of the last call."""
        self.index(ids)
        count = min(self.limit, room)
        for length in range(min(LONGEST_MATCH, len(ids)), SHORTEST_MATCH - 1, -1):
            place = self.follows.get(tuple(ids[-length:]))
            if place is not None:
                period = len(ids) - place  # a draft that reaches the end goes round again
                return [ids[place + i % period] for i in range(count)]
        return []

    def index(self, ids: list[int]) -> None:
        """Enter the runs that end before each id that is new."""
        for place in range(max(self.indexed, SHORTEST_MATCH), len(ids)):
            for length in range(SHORTEST_MATCH, min(LONGEST_MATCH, place) + 1):
                self.follows[tuple(ids[place - length : place])] = place
        self.indexed = len(ids)

    def learn(self, drafted: int, right: int) -> None:
        """The last draft had `drafted` ids, of which the first `right` were drawn: so long may the next one be."""
        if drafted:
            self.limit = self.most if right == drafted else min(self.most, right + 1)
