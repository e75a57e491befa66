"""`gptcli train` by one process or several, each forked from one that has imported all that ranks need.

The ranks find one another through their environment and a store, as those that torchrun starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.distributed import TCPStore

from faults.nursery import Command, Nursery
from parallel.ranks import train_arguments

IMPORTED = ("torch.distributed.fsdp", "torch.distributed.tensor.parallel", "gptcli.checkpoint.shards")


def rank_nursery(cache: Path) -> Nursery:
    """What forks into ranks that keep their prepared data in `cache`."""
    return Nursery({"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}, IMPORTED)


def run_training(nursery: Nursery, corpus: Path | None, run: Path, ranks: int = 1, **settings: object) -> list[Command]:
    """`run_ranks` with the small model and settings of `parallel.ranks`."""
    return run_ranks(nursery, train_arguments(corpus, run, **settings), run.parent, ranks)


def run_ranks(nursery: Nursery, arguments: Sequence[str], folder: Path, ranks: int) -> list[Command]:
    """`gptcli ARGUMENTS` to its end in every rank; they all have ended with 0.

    Raises:
        AssertionError: one has not; holds what it said.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    job = {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # none of the ranks makes the store
    }
    commands = [
        nursery.start(arguments, folder, environment={**job, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(ranks)
    ]
    for rank, command in enumerate(commands):
        assert command.wait(300) == 0, f"rank {rank} of {ranks}:\n{command.said}"
    return commands
