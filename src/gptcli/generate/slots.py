"""Slots of the KV cache: which requests hold them, and what those that are free still hold.

The slots are in three groups: those of requests that decode, those of requests whose windows are being read, and free
ones. Decoding is over the first slots, so that the shapes of a recorded step depend on their number only; a request
that joins or leaves moves at most two others. A free slot keeps its tokens until a request needs it, least recently
used first: the prefix cache is all slots together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gptcli.generate.requests import Request
from gptcli.nn.cache import KVCache

WORTH_SHARING = 16
"""Shortest prefix, in tokens, that is taken from another slot; reading a shorter one again costs no time."""


class Slot:
    """What is known about one slot of a cache."""

    __slots__ = ("entered", "ids", "request", "used")

    def __init__(self) -> None:
        self.request: Request | None = None
        self.ids: list[int] = []
        """The tokens that a free slot holds."""
        self.used = 0
        """When a free slot was last used."""
        self.entered = 0
        """When its request came."""


class Prefix(NamedTuple):
    """The longest prefix of a window in any slot."""

    slot: int
    length: int
    is_being_read: bool
    """Whether a longer one will be there as soon as another request has been read further."""


NO_PREFIX = Prefix(-1, 0, False)


class Slots:
    """The slots of `cache`. A request that leaves keeps all but the last `spare` places of its slot."""

    def __init__(self, cache: KVCache, spare: int = 1) -> None:
        self.cache, self.spare = cache, spare
        self.table = [Slot() for _ in range(cache.slots)]
        self.decoding = 0
        """Number of slots whose requests decode, which are the first."""
        self.reading = 0
        """Number of slots whose requests are being read, which follow."""
        self.requests: list[Request] = []
        """The requests that hold slots, in the order of these."""
        self.clock = 0

    @property
    def used(self) -> int:
        """Number of slots that requests hold."""
        return self.decoding + self.reading

    @property
    def free(self) -> int:
        """Number of slots that no request holds."""
        return len(self.table) - self.used

    @property
    def longest(self) -> int:
        """Tokens of the longest slot that a request holds."""
        return max(self.cache.lengths[: self.used])

    def decoding_requests(self) -> list[Request]:
        """Return the requests that decode, in the order of their slots."""
        return self.requests[: self.decoding]

    def reading_requests(self) -> list[Request]:
        """Return the requests that are being read, in the order in which they came."""
        return self.in_order(self.decoding)

    def in_order(self, first: int = 0) -> list[Request]:
        """Return the requests in the slots from `first` on, in the order in which they came."""
        slots = sorted(self.table[first : self.used], key=lambda slot: slot.entered)
        return [slot.request for slot in slots if slot.request is not None]

    def number(self, request: Request) -> int:
        """Return the number of the request's slot."""
        return self.requests.index(request)

    def regroup(self, decoding: int, reading: int) -> None:
        """Set how many slots belong to each group, after their contents have been moved."""
        self.decoding, self.reading = decoding, reading
        self.requests = [slot.request for slot in self.table[: self.used] if slot.request is not None]

    def unread(self, request: Request) -> int:
        """Return the number of tokens at the end of the request's window that its slot does not hold yet."""
        return request.window_length - self.cache.lengths[self.number(request)]

    def held(self, number: int) -> list[int]:
        """Return the tokens whose keys and values a slot holds."""
        slot = self.table[number]
        if slot.request is None:
            return slot.ids
        start = slot.request.window_start
        return slot.request.ids[start : start + self.cache.lengths[number]]

    def longest_prefix(self, request: Request) -> Prefix:
        """Return the longest prefix of a request's window in any slot; at least one token is left to be read.

        Every token of a prompt that is to be scored is read.
        """
        if request.prompt_logprobs is not None and not request.count:
            return NO_PREFIX
        window, best, to_come = request.window[:-1], NO_PREFIX, 0
        for number, slot in enumerate(self.table):
            length = shared_length(self.held(number), window)
            if length > best.length:
                best = Prefix(number, length, False)
            if self.decoding <= number < self.used and slot.request is not None:
                is_same = slot.request.window == request.window  # worth it however short: no token is left to be read
                to_come = max(to_come, len(window) + 1 if is_same else shared_length(slot.request.window, window))
        if to_come > best.length:
            return best._replace(is_being_read=True)
        return best

    def enter(self, request: Request, prefix: Prefix) -> None:
        """Give the request a free slot that holds `prefix`, and begin to read the rest of its window.

        The prefix stays where it is if its slot is free and mostly consists of it, as that of a growing chat does;
        otherwise it is copied to the slot that was used least recently.
        """
        place = self.used
        source, length, _ = prefix
        oldest = min(range(place, len(self.table)), key=lambda number: self.table[number].used)
        is_free = source >= place
        if length and is_free and (source == oldest or 2 * length >= self.cache.lengths[source]):
            self.swap(place, source)
            self.cache.lengths[place] = length
        else:
            if oldest != place:  # what the first free slot holds is used later than what the oldest holds
                self.transfer(place, oldest)
            if length and source == place:
                self.cache.lengths[place] = length
            elif length:
                self.cache.copy(source, place, length)
            else:
                self.cache.lengths[place] = 0
        self.clock += 1
        slot = self.table[place] = Slot()
        slot.request, slot.entered = request, self.clock
        self.regroup(self.decoding, self.reading + 1)

    def join(self, request: Request) -> None:
        """Let the request decode after those that do."""
        self.swap(self.number(request), self.decoding)
        self.regroup(self.decoding + 1, self.reading - 1)

    def begin_again(self, request: Request) -> None:
        """Forget what the slot of a request that decodes holds, so that its window is read."""
        number = self.number(request)
        self.cache.lengths[number] = 0
        self.clock += 1
        self.table[number].entered = self.clock
        self.swap(number, self.decoding - 1)
        self.regroup(self.decoding - 1, self.reading + 1)

    def truncate(self) -> None:
        """Let every slot that decodes hold its window but for the last id, which is read next."""
        lengths = self.cache.lengths
        for number, request in enumerate(self.requests[: self.decoding]):
            lengths[number] = min(lengths[number], request.window_length - 1)

    def leave(self, request: Request, is_finite: bool = True) -> None:
        """Free the request's slot. It keeps its tokens, unless their keys and values may not be finite."""
        number = self.number(request)
        if is_finite:
            # In the place of the last id there may be a wrong draft of it.
            most = min(request.window_length - 1, self.cache.capacity - self.spare)
            kept = self.held(number)[: max(0, most)]
        else:
            kept = []
            self.cache.clear(number)
        self.cache.lengths[number] = len(kept)
        self.clock += 1
        slot = self.table[number] = Slot()
        slot.ids, slot.used = kept, self.clock
        if number < self.decoding:
            self.swap(number, self.decoding - 1)
            self.swap(self.decoding - 1, self.used - 1)
            self.regroup(self.decoding - 1, self.reading)
        else:
            self.swap(number, self.used - 1)
            self.regroup(self.decoding, self.reading - 1)

    def swap(self, one: int, other: int) -> None:
        """Exchange two slots."""
        if one != other:
            self.cache.swap(one, other)
            self.table[one], self.table[other] = self.table[other], self.table[one]

    def transfer(self, source: int, target: int) -> None:
        """Let `target`, a free slot, hold what `source` holds."""
        self.cache.copy(source, target, self.cache.lengths[source])
        self.table[target] = self.table[source]


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the longest common prefix, or 0 if it is not worth sharing."""
    if len(one) < WORTH_SHARING or one[:WORTH_SHARING] != other[:WORTH_SHARING]:
        return 0
    low, high = 0, min(len(one), len(other)) + 1  # all prefixes up to `low` are equal, and from `high` on none
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
