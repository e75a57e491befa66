"""The computed order is a permutation, and it looks like a random one."""

from __future__ import annotations

import numpy as np
import pytest

from gptcli.data.permutation import derive, mix, permute


def keys(seed: int, count: int) -> np.ndarray:
    return derive(np.full(count, seed, dtype=np.uint64), 7)


@pytest.mark.parametrize("size", [*range(1, 70), 97, 127, 128, 129, 255, 256, 257, 1000, 1009, 4096, 4097, 65537])
def test_permute_is_a_bijection_for_every_size(size: int) -> None:
    for seed in range(3):
        order = permute(np.arange(size, dtype=np.uint64), size, keys(seed, size))
        assert order.dtype == np.uint64
        assert np.array_equal(np.sort(order), np.arange(size))


def test_large_sizes_stay_within_bounds_and_distinct() -> None:
    size = 2**40 + 15
    indices = np.arange(2**40 - 5000, 2**40, dtype=np.uint64)
    order = permute(indices, size, keys(0, len(indices)))
    assert order.max() < size and len(np.unique(order)) == len(order)


def test_an_index_goes_where_it_goes_whatever_is_asked_beside_it() -> None:
    size = 1000
    whole = permute(np.arange(size, dtype=np.uint64), size, keys(3, size))
    for index in (0, 17, 999):
        assert permute(np.array([index], dtype=np.uint64), size, keys(3, 1))[0] == whole[index]


def test_keys_give_orders_that_have_no_more_in_common_than_chance() -> None:
    size = 5000
    orders = [permute(np.arange(size, dtype=np.uint64), size, keys(seed, size)) for seed in range(6)]
    identity = np.arange(size)
    for number, order in enumerate(orders):
        for other in [identity, *orders[:number]]:
            assert (order == other).sum() < 10  # Poisson of mean 1
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.06  # standard deviation 0.014
        neighbours = np.abs(np.diff(order.astype(np.int64)))
        assert abs(neighbours.mean() / size - 1 / 3) < 0.02


def test_every_order_of_three_occurs_about_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1200):
        order = tuple(permute(np.arange(3, dtype=np.uint64), 3, keys(seed, 3)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 130 and max(counts.values()) < 270  # 200 each, standard deviation 13


def test_mix_is_the_finalizer_of_splitmix64() -> None:
    """The first outputs of SplitMix64 from state 1234567 as published with Rosetta Code's task on it."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + gamma * step) % 2**64 for step in range(3)], dtype=np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
