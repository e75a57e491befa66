"""From logits to the next ids: pure functions on tensors.

The filters return new logits in which a token that may not be drawn has -inf. They equal `transformers`' logits
processors on the same logits, ties included, and are applied in its order: repetition penalty, temperature, top-k,
top-p, min-p. A setting is one number, or a tensor (..., 1) with a number for each row.
Shapes: B rows, V vocab; leading dimensions may be more than one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptcli.nn.device import send

UINT64 = 2**64 - 1
"""The largest number of 64 bits."""
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's increment: 2^64 over the golden ratio, odd."""


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Divide seen tokens' logits by `penalty` if positive, else multiply: logits (B, V), seen (B, V) bool -> (B, V).

    Source: Keskar et al. 2019 (CTRL), section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def occurrence_penalties(logits: Tensor, counts: Tensor, presence: float | Tensor, frequency: float | Tensor) -> Tensor:
    """Subtract `presence` from tokens that occur and `frequency` for each time: logits (B, V), counts (B, V) -> (B, V).

    Source: OpenAI's API reference, "frequency and presence penalties".
    """
    return logits - counts * frequency - (counts > 0).to(logits.dtype) * presence


def top_k(logits: Tensor, k: int, of_rows: Tensor | None = None) -> Tensor:
    """Remove all logits (B, V) below the k-th largest; tokens that tie with the k-th stay.

    `of_rows` (B, 1) int64 holds the number of each row, from 1 to `k`; otherwise `k` is that of all.
    Source: Fan et al. 2018, section 5.
    """
    k = min(k, logits.size(-1))
    largest = logits.topk(k).values
    if of_rows is None:
        smallest_kept = largest[..., -1:]
    else:
        places = (of_rows - 1).clamp_max(k - 1).expand(*logits.shape[:-1], 1)
        smallest_kept = largest.gather(-1, places)  # (B, 1)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def top_p(logits: Tensor, tail: float | Tensor) -> Tensor:
    """Keep only the logits (B, V) of the smallest set of most likely tokens whose probability reaches 1 - `tail`.

    The most likely token always stays. Source: Holtzman et al. 2020 (nucleus sampling).
    """
    # Summed from the least likely up: a token is removed while the tail that ends with it weighs at most `tail`.
    ascending, order = logits.sort()
    outside = ascending.softmax(-1).cumsum(-1) <= tail
    outside[..., -1] = False
    return logits.masked_fill(torch.empty_like(outside).scatter_(-1, order, outside), -torch.inf)


def min_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Remove from logits (B, V) the tokens less likely than p times the most likely one.

    Source: Nguyen et al. 2024 (min-p sampling).
    """
    probabilities = logits.softmax(-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -torch.inf)


def greedy(logits: Tensor) -> Tensor:
    """Return the most likely id of each row: logits (B, V) -> (B,)."""
    return logits.argmax(-1)


def sample(logits: Tensor, draws: Tensor) -> Tensor:
    """Draw ids (B,) from logits (B, V) by inverting the cumulative distribution at `draws` (B,), float64 in [0, 1).

    A row's id depends on its own logits and draw only, and never has probability zero.
    """
    if logits.device.type == "mps":  # has no float64
        logits = logits.cpu()
    cumulative = logits.double().softmax(-1).cumsum(-1)  # (B, V)
    # The total is 1 only up to rounding; scaling the draw by it keeps the draw inside.
    thresholds = send(draws, cumulative.device)[:, None] * cumulative[:, -1:]  # (B, 1)
    ids = torch.searchsorted(cumulative, thresholds, right=True)[:, 0]
    return ids.clamp_(max=logits.size(-1) - 1)  # beyond the end only if the logits are NaN


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability in nats of each row's id: logits (B, V), ids (B,) -> (B,)."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


def most_likely(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` most likely ids of each row and their log-probabilities: logits (B, V) -> (B, count) each."""
    values, ids = logits.topk(min(count, logits.size(-1)))
    return ids, values - logits.logsumexp(-1, keepdim=True)


def uniform_draws(seeds: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Return the number at `positions[i]` of the stream of `seeds[i]`: float64 (B,), uniform in [0, 1).

    A pure function, so a draw can be repeated, and skipping one costs nothing: token n of a sample does not depend on
    other samples, nor on the number of draft tokens. SplitMix64 (Steele, Lea and Flood 2014) whose starting state is
    the mixed seed, so that adjacent seeds have unrelated streams.
    """
    state = splitmix64(np.array([seed & UINT64 for seed in seeds], dtype=np.uint64))
    state += (np.array(positions, dtype=np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
    return torch.from_numpy((splitmix64(state) >> np.uint64(11)) * 2.0**-53)


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's output function, a bijection that scatters adjacent numbers: (B,) uint64 -> (B,) uint64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
