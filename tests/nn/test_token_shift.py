"""What a token takes from the one before it."""

from __future__ import annotations

import torch

from gptcli.nn.layers import Embedding
from gptcli.nn.token_shift import NO_TOKEN, BigramEmbedding, Smear, previous_ids


def test_the_previous_id_of_each_token_is_found() -> None:
    ids = torch.tensor([[5, 6, 7], [1, 2, 3]])
    assert previous_ids(ids).tolist() == [[NO_TOKEN, 5, 6], [NO_TOKEN, 1, 2]]
    assert previous_ids(ids, before=torch.tensor([[9], [8]])).tolist() == [[9, 5, 6], [8, 1, 2]]


def test_nothing_is_left_of_where_a_row_or_a_document_begins() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    starts = torch.tensor([[True, True, False, False]])
    assert previous_ids(ids, starts=starts).tolist() == [[NO_TOKEN, NO_TOKEN, 6, 7]]
    segments = torch.tensor([[3, 3, 4, 4]])
    assert previous_ids(ids, segment_ids=segments).tolist() == [[NO_TOKEN, 5, NO_TOKEN, 7]]


def test_every_pair_has_its_own_row_where_there_are_enough() -> None:
    V = 11
    table = BigramEmbedding((V + 1) * V, V, 2)
    previous, ids = torch.meshgrid(torch.arange(-1, V), torch.arange(V), indexing="ij")
    rows = table.rows(previous, ids)
    assert rows.unique().numel() == (V + 1) * V
    assert int(rows.max()) < (V + 1) * V and int(rows.min()) == 0


def test_hashed_pairs_spread_evenly_over_the_rows() -> None:
    V, buckets = 50257, 4096
    generator = torch.Generator().manual_seed(0)
    previous, ids = (
        torch.randint(-1, V, (200_000,), generator=generator),
        torch.randint(V, (200_000,), generator=generator),
    )
    for pairs in ((previous, ids), (previous, ids % 16), (previous % 16, ids)):  # adjacent numbers must not collide
        distinct = torch.stack(pairs).unique(dim=1)
        rows = BigramEmbedding(buckets, V, 2).rows(*distinct)
        counts = torch.bincount(rows, minlength=buckets).double()
        assert rows.min() >= 0 and len(counts) == buckets
        # Of a fair hash the variance of a row's count is about its mean; 1.3 is many standard errors off.
        assert counts.var() / counts.mean() < 1.3


def test_smear_adds_a_share_of_the_vector_before() -> None:
    embedding, smear = Embedding(4, 3), Smear(3)
    torch.nn.init.normal_(embedding.weight)
    smear.weight.data = torch.tensor([0.5, 0.0, -1.0])
    ids = torch.tensor([[2, 1]])
    x = smear(embedding(ids), previous_ids(ids), embedding)
    table = embedding.weight
    torch.testing.assert_close(x[0], torch.stack((table[2], table[1] + smear.weight * table[2])))
