"""Batches made ahead are those that would be made in time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gptcli.data.batch import Batch
from gptcli.train.fingerprints import hash_tokens
from gptcli.train.prefetcher import Prefetcher
from gptcli.train.step import DataShare


class Counted:
    """Batches of which sequence i is the number i; notes what was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def sequences(self, indices: range) -> Batch:
        self.asked.append(list(indices))
        ids = torch.tensor([[index] for index in indices])
        return Batch(ids, ids + 1, None)


def numbers(batches: list[Batch]) -> list[list[int]]:
    return [batch.input_ids.flatten().tolist() for batch in batches]


def test_on_a_cpu_batches_are_made_when_they_are_asked_for() -> None:
    source = Counted()
    fetcher = Prefetcher(source, 5, 2, torch.device("cpu"))
    assert numbers(fetcher.take(3)) == [[15, 16], [17, 18], [19]]
    assert source.asked == [[15, 16], [17, 18], [19]]


def test_the_shares_of_a_step_are_its_sequences_whatever_their_number() -> None:
    whole = [row for batch in numbers(Prefetcher(Counted(), 12, 5, torch.device("cpu")).make(4)) for row in batch]
    for count in (1, 2, 3, 4):
        shares = [DataShare(number, count) for number in range(count)]
        fetchers = [Prefetcher(Counted(), 12, 5, torch.device("cpu"), share) for share in shares]
        assert [row for fetcher in fetchers for batch in numbers(fetcher.make(4)) for row in batch] == whole
        assert all(numbers(fetcher.whole(4)) == numbers(fetchers[0].whole(4)) for fetcher in fetchers)


def test_the_hashes_of_shares_add_up_to_that_of_the_step() -> None:
    def total(step: int, count: int, batch_size: int) -> int:
        shares = [Prefetcher(Counted(), 12, batch_size, torch.device("cpu"), DataShare(n, count)) for n in range(count)]
        return sum(fetcher.hash_of(step) for fetcher in shares) % 2**48

    assert len({total(4, count, size) for count in (1, 2, 3) for size in (1, 5)}) == 1
    assert total(4, 1, 5) != total(5, 1, 5)


def test_the_hash_of_a_step_knows_the_order_of_its_sequences() -> None:
    ids = torch.arange(8).view(4, 2)
    orders = [Batch(ids, ids, None), Batch(ids.flip(0), ids.flip(0), None)]
    assert len({hash_tokens([batch]) for batch in orders}) == 2


def test_for_a_gpu_the_next_step_is_made_ahead_and_any_other_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: batch)
    source = Counted()
    fetcher = Prefetcher(source, 2, 2, SimpleNamespace(type="cuda"))
    steps = [0, 1, 2, 7, 8, 3]
    assert [numbers(fetcher.take(step)) for step in steps] == [[[2 * step, 2 * step + 1]] for step in steps]
    fetcher.worker.shutdown(wait=True)
    assert source.asked.count([2, 3]) == 1, "step 1 was made once, ahead"


@pytest.mark.gpu
def test_batches_for_a_gpu_lie_in_pinned_memory() -> None:
    batch = Prefetcher(Counted(), 2, 2, torch.device("cuda")).take(0)[0]
    assert batch.input_ids.is_pinned() and batch.targets.is_pinned()
