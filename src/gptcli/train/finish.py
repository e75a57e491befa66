"""The end of a run: the best weights are evaluated on the whole validation split and exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.checkpoint.run_directory import CheckpointInfo
from gptcli.console import say
from gptcli.data.lost_text import lost_text_of
from gptcli.errors import CheckpointError
from gptcli.evaluate.baseline import CompressionBaseline, baseline_of_shards
from gptcli.interop.adapted import ADAPTER_FILES, write_adapter
from gptcli.interop.huggingface import MODEL_FILES, write_huggingface
from gptcli.manifest import replacing
from gptcli.models.adapter_config import NoAdapter
from gptcli.models.gpt import GPT
from gptcli.nn.device import peak_memory_bytes
from gptcli.storage import write_atomic
from gptcli.train.divergence import require_finite_loss
from gptcli.train.ending import End, Ending, loss_interval
from gptcli.train.loop import Trainer
from gptcli.train.planning.plan import Plan
from gptcli.train.screen import show_summary
from gptcli.train.verdict import curve_of, judge

Find = Callable[[list[CheckpointError], Any], CheckpointInfo | None]
"""A function that finds a whole checkpoint, together with the ranks of a group, and adds errors of others to a list."""


def reason_without_text(plan: Plan) -> str:
    """Return why the validation loss is not that of a text, whose bytes it could be related to; empty if it is."""
    if plan.config.objective.name == "dpo":
        return "the loss is of pairs of answers, and not of a text"
    return "the loss is of some tokens of the examples, and not of all their text" if plan.data.val.is_masked else ""


def validation_baseline(plan: Plan) -> CompressionBaseline:
    """Return the baseline of the validation text: the size that a compressor needs for it."""
    if reason := reason_without_text(plan):
        return CompressionBaseline(None, reason=reason)
    if len(plan.data.corpora) > 1:
        return CompressionBaseline(None, reason="a mix of corpora has several validation texts")
    return baseline_of_shards(plan.data.tokenizer, plan.data.val)


def good_checkpoint(trainer: Trainer, find: Find) -> CheckpointInfo | None:
    """Return the checkpoint that `find` finds, on all ranks alike; print a warning for each damaged one."""

    def look() -> CheckpointInfo | None:
        damaged: list[CheckpointError] = []
        found = find(damaged, trainer.strategy.group)
        for error in damaged:
            say(f"warning: {error}")
        return found

    return trainer.world.first(look) if trainer.strategy.group is None else look()


def finish(trainer: Trainer, baseline: CompressionBaseline) -> dict[str, Any]:
    """Evaluate the best weights on the whole validation split, export them, and return the summary.

    All ranks call this; the first one writes, and only its summary is complete.

    Args:
        baseline: that of the validation text, on the first rank.
    """
    run, plan, state = trainer.run_directory, trainer.plan, trainer.state
    trainer.world.work = "the last evaluation"
    best = good_checkpoint(trainer, run.best_good)
    if best is not None and best.step != state.step:
        trainer.strategy.load_weights(trainer.load(best.path, ("model",)).tensors["model"])
    whole = trainer.validator.measure(trainer.model, plan.final_tokens)
    require_finite_loss(whole.loss, best.step if best else state.step, plan.config)
    model = trainer.strategy.whole_model()
    lost = lost_text_of(plan.data.report, "val")
    withheld = reason_without_text(plan) or (lost.words("the validation text") if lost.is_withheld else None)
    summary = {
        "run": str(run.path),
        "steps": state.step,
        "tokens": state.tokens,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "device": str(plan.device),
        "train_seconds": round(state.elapsed_seconds, 3),
        "tokens_per_second": round(state.tokens / max(state.elapsed_seconds, 1e-9), 1),
        "train_loss": trainer.logger.last_train_loss(),
        "val_loss": whole.loss,
        "val_loss_interval": loss_interval(whole.loss, whole.parts),
        "val_bits_per_byte": None if withheld else whole.bits_per_byte,
        "val_bits_per_byte_withheld": withheld,
        "val_lost_text": lost.as_json(),
        "val_part": whole.part,
        "peak_memory_bytes": peak_memory_bytes(plan.device),
        "xz_bits_per_byte": baseline.bits_per_byte,
    }
    summary |= {f"val_{name}": value for name, value in whole.figures.items()}
    if whole.by_corpus:
        epochs = plan.batches.epochs(state.step * plan.config.sequences_per_step)
        summary["mix"] = {name: {"val_loss": loss, "epochs": epochs[name]} for name, loss in whole.by_corpus.items()}
    if trainer.world.is_first:
        ending = ending_of(trainer, best.step if best else state.step)
        summary |= {
            "ended": ending.end,
            "best_step": ending.used_step,
            "verdict": ending.finding.verdict,
            "verdict_text": ending.sentence,
        }
        with replacing(run.path, (*MODEL_FILES, *ADAPTER_FILES, "summary.json")):
            say(write_final(model, plan, run.path))
            write_atomic(run.path / "summary.json", strict_json.dumps(summary, indent=2) + "\n")
        show_summary(summary, plan, ending, baseline)
    return summary


def write_final(model: GPT, plan: Plan, folder: Path) -> str:
    """Write the model as a Hugging Face directory, or its adapter for PEFT; return what opens it, in words."""
    tokenizer, adapter, start = plan.data.tokenizer, plan.config.adapter, plan.start
    stop_ids = start.stop_ids if start else frozenset()
    if start is None or isinstance(adapter, NoAdapter):
        return write_huggingface(model, tokenizer, folder, stop_ids=stop_ids)
    return write_adapter(model, adapter, start.base, tokenizer, folder, stop_ids=stop_ids)


def ending_of(trainer: Trainer, used_step: int) -> Ending:
    """Return the end of the run, with its reason and the finding on its curve."""
    plan, state, train = trainer.plan, trainer.state, trainer.train_config
    end: End = "max_steps"
    if state.is_out_of_patience(train.patience):
        end = "patience"
    elif plan.clock is not None and state.step != train.max_steps:
        end = "time"
    tokens = trainer.evaluated_tokens
    return Ending(
        run=trainer.run_directory.path,
        train=train,
        end=end,
        steps=state.step,
        planned=trainer.length.end,
        tokens=tokens,
        val_tokens=len(plan.data.val) - 1,
        used_step=used_step,
        finding=judge(curve_of(trainer.logger.metrics.read()), tokens),
    )
