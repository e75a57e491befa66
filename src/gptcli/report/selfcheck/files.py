"""Checks of what a training writes and reads: checkpoints, and a resume after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gptcli.checkpoint.flatten import flatten_state
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.strategy import Alone
from gptcli.report.selfcheck.results import Measurement
from gptcli.report.selfcheck.subject import batch_on, model_on
from gptcli.storage import write_file
from gptcli.train.step import Stepper
from gptcli.train.verify_resume import Trial, verify_resume

STEPS, KILLS = 6, 1
TINY = {
    "data.tokenizer.name": "byte",
    "model.n_layer": 1,
    "model.n_head": 2,
    "model.n_embd": 32,
    "model.context_length": 32,
    "train.batch_size": 4,
    "train.tokens_per_step": 128,
    "train.compile": "false",
}
"""The settings of a training that takes a second."""


def saving(device: torch.device, folder: Path) -> Measurement:
    """Count the tensors of weights and moments that differ after they were saved and loaded."""
    model = model_on(device)
    strategy = Alone(model)
    optimizer = build_optimizer(strategy.infos, AdamWConfig(lr=1e-3))
    stepper = Stepper(strategy, optimizer, device=device, precision="fp32", grad_clip=1.0)
    for step in range(2):
        stepper.run([batch_on(device)], step)
    run = RunDirectory.create(folder / "run")
    written: dict[str, Mapping[str, Tensor]] = {"model": strategy.weights(), "optimizer": flatten_state(optimizer)[0]}
    path = save_checkpoint(run, 2, written, {"val_loss": None})
    read = load_checkpoint(path, tuple(written), device).tensors
    different = sum(
        name not in read[part] or not torch.equal(tensor, read[part][name])
        for part, tensors in written.items()
        for name, tensor in tensors.items()
    )
    return Measurement(different, 0)


def resuming(device: torch.device, folder: Path) -> Measurement:
    """Compare, in processes of their own, a training that is killed and resumed with one that is not; 1 if it differs.

    Raises:
        GptcliError: a training fails; the message is that of the command.
    """
    corpus = folder / "corpus.txt"
    write_file(corpus, "\n\n".join(f"{number} times {number} makes {number * number}." for number in range(400)))
    assignments = tuple(f"{key}={value}" for key, value in (TINY | {"device": str(device)}).items())
    trial = Trial((str(corpus),), (), assignments, STEPS, KILLS, cache_dir=folder / "cache")
    return Measurement(int(verify_resume(trial).difference is not None), 0)
