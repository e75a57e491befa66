"""The training tokens of the corpora of a run, and the share of each; a single corpus is a mix of one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from gptcli import strict_json
from gptcli.data.shards import TokenShards

UNNAMED = ("",)
"""The names of a mix of one: `data.corpus` has no name, those of `data.mix` have one each."""


@dataclass(frozen=True)
class Mix:
    """One or several corpora in given proportions."""

    names: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def is_single(self) -> bool:
        """Whether this is the only corpus of a run, which is stored without names and weights."""
        return self.names == UNNAMED

    @property
    def shares(self) -> list[float]:
        """The part of the sequences that each corpus has."""
        return [weight / sum(self.weights) for weight in self.weights]


@dataclass(frozen=True)
class TokenMix(Mix):
    """The training tokens of one or several corpora; `len()` is the tokens of all."""

    parts: tuple[TokenShards, ...]

    @classmethod
    def of_one(cls, shards: TokenShards) -> Self:
        """Return the mix of a single corpus."""
        return cls(UNNAMED, (1.0,), (shards,))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens of all corpora and of their weights; for a single corpus, that of its tokens."""
        if self.is_single:
            return self.parts[0].fingerprint
        described = [list(self.weights), [part.fingerprint for part in self.parts]]
        return hashlib.sha256(strict_json.dumps(described).encode()).hexdigest()
