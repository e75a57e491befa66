"""The cache against rows that are kept each on its own."""

from __future__ import annotations

import pytest
import torch

from gptcli.nn.cache import KVCache


def test_only_filled_slots_come_back() -> None:
    cache = KVCache(2, 3, 8, 2, 4)
    first, second = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 2, 4)
    cache.extend(5).layer(0).update(first, -first)
    keys, values = cache.extend(2).layer(0).update(second, -second)
    assert torch.equal(keys, torch.cat([first, second], dim=2))
    assert torch.equal(values, -keys)
    assert cache.lengths == [7, 7, 7]


def test_more_than_it_holds_is_refused() -> None:
    cache = KVCache(1, 1, 4, 1, 2)
    cache.extend(3)
    with pytest.raises(ValueError, match="holds 4 tokens and was given 5"):
        cache.extend(2)
    assert cache.lengths == [3]


@pytest.mark.parametrize("static", [False, True])
def test_each_row_goes_on_where_it_ends_and_takes_tokens_back(static: bool) -> None:
    """A row's tokens are random numbers, so that each is recognised by its value."""
    cache = KVCache(1, 3, 12, 2, 1)
    rows: list[list[float]] = [[], [], []]
    generator = torch.Generator().manual_seed(0)
    for count in (4, 1, 3, 1, 2):
        cache.truncate([length // 2 + row for row, length in enumerate(cache.lengths)])
        rows = [values[:length] for values, length in zip(rows, cache.lengths, strict=True)]
        new = torch.rand(3, count, generator=generator)
        view = cache.extend(count, static=static)
        assert view.slots == (12 if static else cache.length)
        tokens = new[:, None, :, None].expand(3, 2, count, 1)
        keys, values = view.layer(0).update(tokens, -tokens)
        rows = [old + added for old, added in zip(rows, new.tolist(), strict=True)]
        assert cache.lengths == [len(row) for row in rows]
        assert keys.shape[2] == view.slots and torch.equal(values, -keys)
        for row, expected in enumerate(rows):
            assert keys[row, :, : len(expected), 0].tolist() == [expected] * 2


def test_padding_is_not_counted_and_is_overwritten() -> None:
    cache = KVCache(1, 2, 8, 1, 1)
    padded = torch.tensor([[1.0, 2, 3], [4, 0, 0]])[:, None, :, None]
    cache.extend(3, [3, 1]).layer(0).update(padded, padded)
    assert cache.lengths == [3, 1]
    new = torch.tensor([[7.0], [8.0]])[:, None, :, None]
    keys, _ = cache.extend(1).layer(0).update(new, new)
    assert keys[:, 0, :, 0].tolist() == [[1, 2, 3, 7], [4, 8, 0, 0]]


def test_ids_to_the_left_are_those_of_the_row() -> None:
    cache = KVCache(1, 2, 8, 1, 1)
    assert cache.extend(3).write_ids(torch.tensor([[1, 2, 3], [4, 5, 6]])) is None
    assert cache.extend(1).write_ids(torch.tensor([[7], [8]])).tolist() == [[3], [6]]
    cache.truncate([4, 2])
    assert cache.extend(2).write_ids(torch.tensor([[9, 9], [8, 8]])).tolist() == [[7], [5]]
    assert cache.ids[:, :6].tolist() == [[1, 2, 3, 7, 9, 9], [4, 5, 8, 8, 0, 0]]


def test_selected_rows_come_in_order_and_as_often_as_asked_for() -> None:
    cache = KVCache(1, 3, 4, 1, 2)
    k = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 4, 2)
    cache.extend(4, [1, 2, 4]).layer(0).update(k, k)
    cache.select([2, 0, 2])
    assert cache.batch_size == 3 and cache.lengths == [4, 1, 4] and cache.length == 4
    assert cache.keys[0][:, 0, 0, 0].tolist() == [2.0, 0.0, 2.0]
