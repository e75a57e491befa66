"""Weights cut up among ranks come together again, and Muon steps as if they were whole. Real ranks, in one start."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from gptcli.nn.parameters import ParameterInfo
from gptcli.nn.sharding import Cut, Sharding, from_owners, owned_by, to_owners
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import MuonConfig

RANKS = 4


def test_a_cut_divides_as_torch_chunk_does() -> None:
    for length in range(1, 12):
        chunks = [len(chunk) for chunk in torch.arange(length).chunk(RANKS)]
        assert Cut(0, RANKS, 0, None).extents(length) == chunks + [0] * (RANKS - len(chunks))


def test_every_weight_has_one_owner() -> None:
    assert [sum(owned_by(count, RANKS)) for count in range(9)] == list(range(9))


def whole_matrices(shape: tuple[int, int], count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def shardings(rank: int, rows: int, columns: int) -> list[Sharding]:
    """Cut by one group of all ranks, and by two groups of two, along rows twice or along columns and rows."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shards", "tensor"))
    inner, outer = mesh.get_group("shards"), mesh.get_group("tensor")
    by_all = Cut(0, RANKS, rank, torch.distributed.group.WORLD)
    shape = torch.Size((rows, columns))
    return [
        Sharding(shape, (by_all,)),
        Sharding(shape, (Cut(0, 2, rank % 2, outer), Cut(0, 2, rank // 2, inner))),
        Sharding(shape, (Cut(1, 2, rank % 2, outer), Cut(0, 2, rank // 2, inner))),
    ]


def check_exchange(rank: int) -> None:
    for sharding in shardings(rank, 7, 6):
        for count in (1, 3, 5):
            wholes = whole_matrices((7, 6), count)
            pieces = [sharding.take(whole) for whole in wholes]
            for whole, piece in zip(wholes, pieces, strict=True):
                assert torch.equal(sharding.gather(piece), whole)
            owned = to_owners(pieces, sharding)
            total = torch.tensor(len(owned))
            torch.distributed.all_reduce(total)
            assert total == count, "each is with one rank"
            assert all(any(torch.equal(own, whole) for whole in wholes) for own in owned)
            back = from_owners(owned, sharding, pieces)
            assert all(torch.equal(piece, again) for piece, again in zip(pieces, back, strict=True))


def check_muon(rank: int) -> None:
    """Three steps on matrices that are whole, and on pieces of the same ones."""
    for sharding in shardings(rank, 10, 6):
        wholes = [nn.Parameter(matrix) for matrix in whole_matrices((10, 6), 3)]
        pieces = [nn.Parameter(sharding.take(whole.detach()).clone()) for whole in wholes]
        config = MuonConfig(ns_precision="fp32")
        expected = build_optimizer([ParameterInfo(str(n), p, "matrix") for n, p in enumerate(wholes)], config)
        infos = [ParameterInfo(str(n), p, "matrix", (), sharding) for n, p in enumerate(pieces)]
        found = build_optimizer(infos, config)
        for step in range(3):
            gradients = whole_matrices((10, 6), 3 + step)
            for whole, piece, gradient in zip(wholes, pieces, gradients, strict=False):
                whole.grad, piece.grad = gradient.clone(), sharding.take(gradient).clone()
            expected.step()
            found.step()
        for whole, piece in zip(wholes, pieces, strict=True):
            torch.testing.assert_close(piece, sharding.take(whole), rtol=1e-5, atol=1e-6)


def check_all(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), RANKS)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    check_exchange(rank)
    check_muon(rank)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_pieces_are_exchanged_for_whole_matrices_and_back() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(check_all, (folder,), nprocs=RANKS)
