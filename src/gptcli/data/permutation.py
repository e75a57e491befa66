"""A random order that is computed, not stored: the place of index i depends on (i, size, key) alone.

A balanced Feistel network is a bijection on 2^(2h) numbers whatever its round function; cycle walking (apply it again
until the result is below `size`) restricts it to any size: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
2002. The mixing function is the finalizer of SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
Generators", 2014. The order is good for shuffling, not for secrets.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64 of the same shape: a bijection in which every input bit changes every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def derive(key: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Return a key for each `number`; the keys differ from `key` and from each other."""
    return mix(mix(key) ^ np.asarray(number, dtype=np.uint64))


def permute(indices: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """indices (N,) uint64 below `size`, keys (N,) uint64 -> (N,) uint64 below `size`; for each key a bijection."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    round_keys = [derive(keys, number) for number in range(ROUNDS)]
    result = feistel(indices, half, round_keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = feistel(result[outside], half, [key[outside] for key in round_keys])
        outside = outside[result[outside] >= size]
    return result


def feistel(values: np.ndarray, half: np.uint64, round_keys: list[np.ndarray]) -> np.ndarray:
    """values (N,) of 2 * half bits -> (N,), a bijection for each column of `round_keys`, ROUNDS arrays (N,)."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in round_keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half) | right
