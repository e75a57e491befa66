"""NaN and infinity in weights and moments: in files that every verb is given, and in the middle of a training.

Each file is whole, with manifests that are true: only what it holds is wrong. No command ends with 0, none prints JSON
that is not strict, and no checkpoint of such weights is kept.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from faults.ends import parse_strict, wrong_json
from faults.nursery import Command, Nursery
from faults.victim import make_corpus, train_command
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import save_checkpoint
from gptcli.errors import GptcliError
from gptcli.manifest import record

STEPS = 12
LONGEST_LINE = 1000
SETTINGS = {"train__max_steps": STEPS, "train__fingerprints": "false", "train__keep_last": 5}
TENSORS = ("embedding.weight", "blocks.0.attention.qkv.weight", "blocks.0.mlp.down.weight", "final_norm.weight")
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass
class BadWeights:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    failures: list[str] = field(default_factory=list)


class Case(NamedTuple):
    """A command that is given bad weights, the exit code that it must end with, and what its message must name."""

    name: str
    arguments: list[Any]
    code: int
    named: str
    hook: str | None = None


def poison_state(argument: str) -> None:
    """Put a value into a weight or a moment once a step has been made: `weights nan 6` or `moments inf 6`."""
    from gptcli.train.loop import Trainer

    where, value, wanted = argument.split()
    made = Trainer.step

    def step(trainer: Trainer) -> None:
        made(trainer)
        if trainer.state.step == int(wanted):
            parameter = trainer.stepper.parameters[-1]
            tensor = parameter if where == "weights" else trainer.optimizer.state[parameter]["exp_avg"]
            with torch.no_grad():
                tensor.view(-1)[0] = float(value)

    Trainer.step = step


def enlarge(argument: str) -> None:
    """Multiply the weights of the last norm once a step has been made, so that losses are thousands of nats: `6`."""
    from gptcli.train.loop import Trainer

    made = Trainer.step

    def step(trainer: Trainer) -> None:
        made(trainer)
        if trainer.state.step >= int(argument):
            with torch.no_grad():
                trainer.model.final_norm.weight.fill_(1e6)

    Trainer.step = step


def weight_campaign(
    nursery: Nursery, folder: Path, tensors: tuple[str, ...] = TENSORS, values: tuple[str, ...] = tuple(VALUES)
) -> BadWeights:
    """Bad values in files of a run, of a model directory and of a run without checkpoints, and in the training."""
    counts, corpus, run = BadWeights(), make_corpus(folder), folder / "run"
    assert nursery.run(train_command(corpus, run, **SETTINGS), folder).code == 0
    for case in itertools.chain(
        file_cases(folder, corpus, run, tensors, values), training_cases(folder, corpus, values)
    ):
        command = nursery.run(case.arguments, folder, hook=case.hook, ends_at_once=True)
        counts.trials += 1
        counts.failures += [f"{case.name}: {wrong}" for wrong in wrong_after(command, case)]
    counts.failures += wrong_checkpoints(folder)
    counts.failures += large_losses(nursery, folder, corpus, counts)
    return counts


def file_cases(
    folder: Path, corpus: Path, run: Path, tensors: tuple[str, ...], values: tuple[str, ...]
) -> Iterator[Case]:
    """Every verb with a value in one tensor of what it loads."""
    for number, (tensor, said) in enumerate(itertools.product(tensors, values)):
        place, value, name = folder / f"bad-{number}", VALUES[said], f"{said} in {tensor}"
        names = ("run", "model", "alone", "moments")
        of_run, of_model, alone, moments = (Path(shutil.copytree(run, place / one)) for one in names)
        poison_checkpoint(of_run, "model", tensor, value)
        poison_checkpoint(moments, "optimizer", None, value)
        poison_model(of_model, tensor, value, as_run=False)
        poison_model(alone, tensor, value, as_run=True)
        for of, what in ((of_run, "a run"), (of_model, "a model directory"), (alone, "a run without checkpoints")):
            yield Case(f"generate with {name} of {what}", ["generate", of, "line", "--max-new-tokens", "3"], 4, "holds")
            yield Case(f"eval with {name} of {what}", ["eval", of, corpus, "--json"], 4, "holds")
        out, more = ["--out", place / "out"], ["--set", "train.max_steps=20"]
        yield Case(f"export with {name}", ["export", of_run, "--to", "hf", *out], 4, "holds")
        yield Case(f"export to gguf with {name}", ["export", of_model, "--to", "gguf", *out], 4, "holds")
        yield Case(f"import with {name}", ["import", of_model, *out], 4, "holds")
        yield Case(f"train from {name}", ["train", corpus, "--init-from", of_model, *more, *out], 4, "holds")
        yield Case(f"resume with {name}", ["train", "--resume", "--out", of_run, *more], 4, "rm -r")
        yield Case(f"resume with {said} in moments", ["train", "--resume", "--out", moments, *more], 4, "rm -r")
        shutil.rmtree(place)


def poison_checkpoint(run: Path, part: str, tensor: str | None, value: float) -> None:
    """Save the newest checkpoint of a run again with one value changed, and remove the others."""
    directory = RunDirectory(run)
    *others, newest = directory.checkpoints()
    found = load_checkpoint(newest.path, ("model", "optimizer"))
    named = found.tensors[part]
    name = tensor or next(name for name, one in named.items() if one.numel() > 1)
    named[name].view(-1)[1] = value
    save_checkpoint(directory, found.step, found.tensors, found.state)
    for other in others:
        shutil.rmtree(other.path)


def poison_model(run: Path, tensor: str, value: float, *, as_run: bool) -> None:
    """Leave of a run the model directory that every run is, or the run without its checkpoints, one value changed."""
    shutil.rmtree(run / "checkpoints")
    if not as_run:
        for name in ("run.toml", "gptcli-manifest.json"):
            (run / name).unlink()
    weights = load_file(run / "model.safetensors")
    theirs = {"embedding": "embed_tokens", "attention": "q_proj", "mlp": "down_proj", "final_norm": "model.norm"}
    wanted = next(word for part, word in theirs.items() if part in tensor)
    name = next(name for name in weights if wanted in name)
    weights[name].view(-1)[1] = value
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    if as_run:
        record(run, ["model.safetensors"])


def training_cases(folder: Path, corpus: Path, values: tuple[str, ...]) -> Iterator[Case]:
    """A value that gets into weights or moments in a step with a save, with an evaluation as well, and the last one."""
    for where, value, step in itertools.product(("weights", "moments"), values, (5, 7, 10, STEPS)):
        run = folder / f"training-{where}-{value}-{step}"
        settings = SETTINGS | {"train__checkpoint_every_steps": 1 if step == 7 else 5}
        hook = f"faults.bad_weights:poison_state {where} {value} {step}"
        name = f"{value} in the {where} after step {step}"
        yield Case(name, [*train_command(corpus, run, **settings), "--json"], 6, "diverged", hook)


def wrong_checkpoints(folder: Path) -> Iterator[str]:
    """Checkpoints of these trainings that hold what is not finite, and those that are missing."""
    for run in folder.glob("training-*"):
        found = RunDirectory(run).checkpoints()
        yield from (f"{info.path} was kept" for info in found if not all_finite(info.path))
        if not found and not run.name.endswith("-5"):
            yield f"{run} has lost its checkpoints"


def all_finite(checkpoint: Path) -> bool:
    try:
        tensors = load_checkpoint(checkpoint, ("model", "optimizer")).tensors
    except GptcliError:
        return False
    return all(bool(tensor.isfinite().all()) for part in tensors.values() for tensor in part.values())


def large_losses(nursery: Nursery, folder: Path, corpus: Path, counts: BadWeights) -> Iterator[str]:
    """Losses whose exponential no number holds are figures like others; a perplexity that does not exist is null."""
    run = folder / "large"
    settings = SETTINGS | {"train__eval_every_steps": STEPS, "train__checkpoint_every_steps": STEPS}
    trained = [*train_command(corpus, run, **settings), "--json"]
    hook = f"faults.bad_weights:enlarge {STEPS}"
    verbs = {
        "train": (trained, hook),
        "eval": (["eval", run, "--json"], None),
        "eval of a text": (["eval", run, corpus, "--json", "--worst", 3], None),
        "eval for people": (["eval", run, corpus], None),
        "generate": (["generate", run, "line", "--max-new-tokens", 3, "--json"], None),
        "export": (["export", run, "--to", "hf", "--out", folder / "large-out", "--json"], None),
        "verify": (["checkpoint", "verify", run, "--json"], None),
    }
    for name, (arguments, fault) in verbs.items():
        command = nursery.run(arguments, folder, hook=fault, ends_at_once=True)
        counts.trials += 1
        yield from (
            f"large losses, {name}: {wrong}" for wrong in wrong_after(command, Case(name, arguments, 0, "", fault))
        )
        if name == "eval" and not json.loads(command.stdout_path.read_text())["loss"] > 709:
            yield "the loss is not above 709"
    figures = parse_strict((run / "summary.json").read_text())
    if not figures["val_loss"] > 709:
        yield f"the training's loss is {figures['val_loss']}"


def wrong_after(command: Command, case: Case) -> Iterator[str]:
    """Everything that a command did wrong."""
    if command.code != case.code:
        yield f"exit {command.code} instead of {case.code}: {command.last_line[:300]}"
    if "Traceback" in command.said or (case.code and len(command.last_line) > LONGEST_LINE):
        yield f"not one line: {command.last_line[:300]}"
    if case.named not in command.said:
        yield f"it does not say {case.named!r}: {command.last_line[:300]}"
    printed = command.stdout_path.read_text(errors="replace")
    if "--json" in case.arguments and printed:
        yield from wrong_json(printed)
