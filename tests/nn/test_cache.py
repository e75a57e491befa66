"""The cache against rows that are kept each on its own."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.nn.cache import KVCache, KVCacheView, best_parts
from gptcli.nn.device import resident_memory_bytes
from gptcli.nn.state import ForwardState


def written(view: KVCacheView, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write k and values of -k through a view of one part; return what attention sees."""
    return view.layer(0, [None]).update(k, -k)


def test_only_filled_slots_come_back() -> None:
    cache = KVCache(2, 3, 8, 2, 4)
    first, second = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 2, 4)
    written(cache.extend(5), first)
    keys, values = written(cache.extend(2), second)
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
        view = cache.extend(count, static_end=12 if static else None)
        assert view.end == (12 if static else cache.length)
        keys, values = written(view, new[:, None, :, None].expand(3, 2, count, 1))
        rows = [old + added for old, added in zip(rows, new.tolist(), strict=True)]
        assert cache.lengths == [len(row) for row in rows]
        assert keys.shape[2] == view.end and torch.equal(values, -keys)
        for row, expected in enumerate(rows):
            assert keys[row, :, : len(expected), 0].tolist() == [expected] * 2


def test_padding_is_not_counted_and_is_overwritten() -> None:
    cache = KVCache(1, 2, 8, 1, 1)
    padded = torch.tensor([[1.0, 2, 3], [4, 0, 0]])[:, None, :, None]
    written(cache.extend(3, [3, 1]), padded)
    assert cache.lengths == [3, 1]
    new = torch.tensor([[7.0], [8.0]])[:, None, :, None]
    keys, _ = written(cache.extend(1), new)
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
    written(cache.extend(4, [1, 2, 4]), k)
    cache.select([2, 0, 2])
    assert cache.slots == 3 and cache.lengths == [4, 1, 4] and cache.length == 4
    assert cache.keys[0][:, 0, 0, 0].tolist() == [2.0, 0.0, 2.0]


def test_slots_are_copied_exchanged_and_emptied() -> None:
    cache = KVCache(2, 3, 6, 1, 2)
    k = torch.rand(3, 1, 5, 2)
    view = cache.extend(5, [5, 3, 0])
    view.write_ids(torch.arange(15).view(3, 5))
    for layer in range(2):
        view.layer(layer, [None]).update(k, -k)
    cache.swap(0, 1)
    cache.copy(1, 2, 2)
    assert cache.lengths == [3, 5, 2]
    for memory, sign in ((cache.keys[1], 1), (cache.values[0], -1)):
        assert torch.equal(memory[0, :, :3], sign * k[1, :, :3])
        assert torch.equal(memory[1, :, :5], sign * k[0])
        assert torch.equal(memory[2, :, :2], sign * k[0, :, :2])
    assert cache.ids[:, :2].tolist() == [[5, 6], [0, 1], [0, 1]]
    cache.keys[0][1].fill_(torch.nan)
    cache.clear(1)
    assert cache.lengths == [3, 0, 2] and not cache.keys[0][1].any()
    cache.swap(0, 1)
    assert cache.lengths == [0, 3, 2] and torch.equal(cache.keys[0][1, :, :3], k[1, :, :3])


def test_rows_are_read_together_where_that_takes_less_time() -> None:
    """Compared with the best of all ways to divide them."""
    generator = random.Random(0)
    for _ in range(60):
        count, overhead = generator.randint(1, 7), generator.choice([1, 20, 300])
        slots = sorted(generator.sample(range(9), count))
        lengths = [generator.choice([0, 5, 40, 41, 200]) for _ in slots]

        def cost(parts: list[slice], lengths: list[int] = lengths, overhead: int = overhead) -> int:
            return sum(overhead + max(lengths[part]) * len(lengths[part]) for part in parts)

        ways = []
        for cuts in itertools.product((False, True), repeat=count - 1):
            ends = [0, *[place + 1 for place, cut in enumerate(cuts) if cut], count]
            parts = [slice(*pair) for pair in itertools.pairwise(ends)]
            if all(slots[part] == list(range(slots[part][0], slots[part][-1] + 1)) for part in parts):
                ways.append(cost(parts))
        found = best_parts(slots, lengths, overhead)
        assert [row for part in found for row in range(count)[part]] == list(range(count))
        assert cost(found) == min(ways)


@pytest.mark.parametrize("window", [0, 6])
def test_parts_are_attended_to_as_all_rows_at_once(window: int) -> None:
    """Slots in any order, of very different lengths, one or several tokens at a time."""
    model = build_model(
        ModelConfig(vocab_size=31, context_length=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, smear=True,
                    bigram_buckets=50, window_pattern=(window, 0) if window else ()),
        dtype=torch.float64,
    ).eval()  # fmt: skip
    ids = torch.randint(31, (5, 40), generator=torch.Generator().manual_seed(0))
    caches = [model.new_cache(7, 64), model.new_cache(7, 64)]
    caches[1].part_places = 1
    slots, starts = [4, 1, 2, 6, 3], [30, 3, 9, 17, 0]
    for cache in caches:
        with torch.no_grad():
            for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
                if start:
                    model.hidden_states(ForwardState(ids[row : row + 1, :start], cache.extend(start, slots=[slot])))
    for count in (1, 4, 1):
        new = torch.stack([row[start : start + count] for row, start in zip(ids, starts, strict=True)])
        views = [cache.extend(count, slots=slots) for cache in caches]
        assert len(views[1].parts) > len(views[0].parts) > 1
        with torch.no_grad():
            found = [model.hidden_states(ForwardState(new, view)) for view in views]
            starts = [start + count for start in starts]
            alone = [model.hidden_states(ForwardState(ids[row : row + 1, :end])) for row, end in enumerate(starts)]
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
        for row, whole in enumerate(alone):
            torch.testing.assert_close(found[0][row], whole[0, -count:], rtol=0, atol=1e-12)


def test_memory_of_a_large_cache_is_taken_as_it_fills() -> None:
    """A cache of 4 GB, of which one slot is used."""
    before = resident_memory_bytes(torch.device("cpu"))
    cache = KVCache(2, 64, 2**17, 1, 64 // 2)
    assert sum(memory.nbytes for memory in (*cache.keys, *cache.values)) == 2**32
    k = torch.ones(1, 1, 1000, 32)
    view = cache.extend(1000, slots=[63])
    keys, _ = view.layer(1, [None]).update(k, k)
    assert float(keys.sum()) == 32000 and not cache.keys[1][0, 0, :1000].any()
    assert resident_memory_bytes(torch.device("cpu")) - before < 2**28
