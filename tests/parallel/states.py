"""What a rank does in the tests of how ranks keep the state of a training: load it, as pieces, and save it again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed

from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.shards import save_shards
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model, initial_weights
from gptcli.optim.build import build_optimizer
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.distributed import Sharded
from gptcli.parallel.layout import Layout
from gptcli.parallel.sharded import build_sharded
from gptcli.parallel.world import World

PARTS = ("model", "optimizer")


def load_and_save(rank: int, folder: Path, config: ModelConfig, optim: object, layout: tuple[int, int, int]) -> float:
    """Load step 1 into a model of other weights, save it as step 2; returns how much of the numbers this rank holds."""
    run, group = RunDirectory(folder), distributed.group.WORLD
    place = Layout(rank, *layout)
    weights = initial_weights(build_model(config, device="meta"), seed=7)
    model = build_sharded(config, weights, place, ParallelConfig(strategy="fsdp"), torch.device("cpu"), "fp32")
    strategy = Sharded(model, World(rank, place.size), place)
    optimizer = build_optimizer(strategy.infos, optim)
    loaded = load_checkpoint(run.checkpoint_path(1), PARTS, allocate=strategy.allocate, group=group)
    strategy.load_weights(loaded.tensors["model"])
    strategy.load_optimizer_state(optimizer, loaded.tensors["optimizer"], loaded.state["optimizer"])
    moments, rest = strategy.optimizer_state(optimizer)
    save_shards(run, 2, {"model": strategy.weights(), "optimizer": moments}, {"optimizer": rest}, group)
    held = sum(info.tensor.numel() for info in strategy.infos)
    return held / sum(tensor.numel() for tensor in strategy.weights().values())
