"""Several ranks of one job on this machine, each a process of its own, forked from one that has loaded torch."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PRELOADED = ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "gptcli.checkpoint.shards", __name__]


def run_ranks(ranks: int, function: Callable[..., Any], *arguments: Any, seconds: float = 120) -> list[Any]:
    """Call `function(rank, *arguments)`, a module's own, in as many processes, which are a gloo group; what each gave.

    Raises:
        AssertionError: a rank raised; holds its traceback.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="gptcli-ranks-") as folder:
        ends, processes = [], []
        for rank in range(ranks):
            ours, theirs = context.Pipe(duplex=False)
            given = (theirs, rank, ranks, Path(folder) / "store", function, arguments)
            processes.append(context.Process(target=be_rank, args=given, daemon=True))
            processes[-1].start()
            theirs.close()
            ends.append(ours)
        try:
            answers = [heard(end, seconds) for end in ends]
        finally:
            for process in processes:
                process.kill()
                process.join()
    for rank, (told, _) in enumerate(answers):
        assert not told, f"rank {rank} of {ranks}:\n{told}"
    return [result for _, result in answers]


def heard(end: Connection, seconds: float) -> tuple[str, Any]:
    """What a rank sent: the traceback of its error, if any, and what its function returned."""
    if not wait([end], seconds):
        return f"nothing heard in {seconds} s", None
    try:
        return end.recv()
    except EOFError:
        return "it ended without a word", None


def be_rank(
    end: Connection, rank: int, ranks: int, store: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """In a process of its own: join the group, call, tell."""
    import torch
    from torch import distributed

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    try:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        result = function(rank, *arguments)
        distributed.destroy_process_group()
    except BaseException:
        end.send((traceback.format_exc(), None))
    else:
        end.send(("", result))
