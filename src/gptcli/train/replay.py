"""`gptcli replay`: repeats a step of a run to show what went wrong in it, without writing into the run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import CheckpointInfo, RunDirectory
from gptcli.config import read_toml
from gptcli.console import Progress, say
from gptcli.data.batch import Batch
from gptcli.errors import UsageError
from gptcli.evaluate.scoring import evaluation_mode
from gptcli.manifest import require_unchanged
from gptcli.models.gpt import GPT
from gptcli.nn.device import allow_tf32, autocast
from gptcli.nn.finite import bad_values
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.optim.clip import gradient_norm
from gptcli.parallel.layout import Layout
from gptcli.parallel.world import World
from gptcli.train.bad_steps import texts_of
from gptcli.train.initial_checkpoint import open_initial_checkpoint
from gptcli.train.loop import Trainer
from gptcli.train.planning.plan import make_plan
from gptcli.train.rank_setup import build_strategy
from gptcli.train.reference import with_reference
from gptcli.train.resume import History
from gptcli.train.signals import StopRequest
from gptcli.train.step import Stepper, step_seed

SHOWN_CHARACTERS = 200


def replay(path: Path, step: int, cache_dir: Path, top: int = 5) -> dict[str, Any]:
    """Repeat the steps of the run at `path` from its newest checkpoint before `step`, and examine `step`.

    Args:
        step: counted from 1, as in the metrics.
        top: the number of parameters and sequences to report.

    Returns:
        step, checkpoint (the step of the checkpoint), loss, grad_norm, lr, bad_weights and bad_gradients (the names of
        tensors with NaN or infinity before the step and in its gradient), gradients (name -> norm, largest first),
        sequences (number, loss and text, highest loss first).

    Raises:
        UsageError: the run does not have that step.
        DataError, CheckpointError, StorageError: the run's text or its checkpoint cannot be read.
    """
    run = RunDirectory.open(path)
    require_unchanged(run.path, run.config_path.name)
    settings = read_toml(run.config_path)
    initial = open_initial_checkpoint(settings, run)
    plan = make_plan(settings, cache_dir, time.monotonic(), history=History.of(run), start=initial)
    if not 1 <= step <= plan.steps:
        raise UsageError(f"{path} has no step {step}", f"its steps are 1 to {plan.steps}")
    train = plan.config.train.model_copy(update={"trackers": ()})
    plan = replace(plan, config=plan.config.model_copy(update={"train": train}))
    allow_tf32(train.tf32)
    strategy = build_strategy(plan, World(), Layout(), plan.new_model)
    trainer = Trainer(with_reference(plan, strategy), strategy, run, StopRequest())
    model = trainer.model.train()
    begin = newest_before(run, step)
    if begin is not None:
        trainer.restore(load_checkpoint(begin.path, parts=("model", "optimizer")))
    first = trainer.state.step
    say(f"from {'the initial weights' if begin is None else f'the checkpoint of step {first:,}'} to step {step:,}")
    with Progress("replay", step - 1, unit="steps", initial=first) as progress:
        for index in range(first, step - 1):
            trainer.set_rate(index)
            trainer.stepper.run(trainer.prefetcher.make(index), step_seed(plan.config.seed, index))
            progress.update(1)
    trainer.set_rate(step - 1)
    seed = step_seed(plan.config.seed, step - 1)
    found = examine(model, trainer.stepper, trainer.prefetcher.make(step - 1), seed, top)
    for sequence, text in zip(found["sequences"], texts_of(found.pop("rows"), plan.data.tokenizer), strict=True):
        sequence["text"] = text
    return {"step": step, "checkpoint": first, "lr": trainer.optimizer.param_groups[0]["lr"], **found}


def newest_before(run: RunDirectory, step: int) -> CheckpointInfo | None:
    """Return the newest whole checkpoint before `step`; None if there is none."""
    earlier = [info for info in run.checkpoints() if info.step < step]
    return next((info for info in reversed(earlier) if info.damage() is None), None)


def examine(model: GPT, stepper: Stepper, batches: list[Batch], seed: int, top: int) -> dict[str, Any]:
    """Examine a step without its update; `rows` of the result are the batches of the reported sequences, in order."""
    bad_weights = [bad.name for bad in bad_values(dict(model.named_parameters()))]
    means, _ = stepper.backpropagate(batches, seed)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    norms = {name: float(torch.linalg.vector_norm(gradient.float())) for name, gradient in gradients.items()}
    rows = [row for batch in batches for row in batch.split(1)]
    losses = [sequence_loss(model, stepper, row) for row in rows]
    worst = sorted(range(len(rows)), key=lambda row: nan_first(losses[row]), reverse=True)[:top]
    return {
        "loss": float(means[0]),
        "grad_norm": float(gradient_norm(stepper.parameters)),
        "bad_weights": bad_weights,
        "bad_gradients": [bad.name for bad in bad_values(gradients)],
        "gradients": dict(sorted(norms.items(), key=lambda item: nan_first(item[1]), reverse=True)[:top]),
        "sequences": [{"number": row, "loss": losses[row]} for row in worst],
        "rows": [rows[row] for row in worst],
    }


def nan_first(number: float) -> float:
    """Return a sort key that makes NaN the largest number."""
    return math.inf if math.isnan(number) else number


def sequence_loss(model: GPT, stepper: Stepper, row: Batch) -> float:
    """Return the mean loss of one sequence in nats per target token, without dropout."""
    input_ids, targets, segment_ids = row.to(stepper.device).model_inputs
    with evaluation_mode(model), autocast(stepper.device, stepper.precision):
        return float(model.loss_sum(input_ids, targets, segment_ids)) / max(1, int((targets != IGNORE_INDEX).sum()))


def report(found: Mapping[str, Any]) -> str:
    """Return the result of `replay` as text."""
    figures = f"loss {found['loss']:.6g}, gradient norm {found['grad_norm']:.6g}, lr {found['lr']:.3g}"
    lines = [f"step {found['step']:,}: {figures}"]
    for what, key in (("weights before it", "bad_weights"), ("gradient", "bad_gradients")):
        lines.append(f"not finite in the {what}: {', '.join(found[key]) or 'nothing'}")
    lines.append("largest gradients:")
    lines += [f"  {norm:<12.6g} {name}" for name, norm in found["gradients"].items()]
    lines.append("sequences of the highest loss:")
    for sequence in found["sequences"]:
        text = sequence["text"]
        shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
        lines.append(f"  {sequence['loss']:<12.6g} number {sequence['number']}: {shown!r}")
    return "\n".join(lines)
