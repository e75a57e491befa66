"""The texts that a run prints: the first screen before anything happens, and the summary at the end."""

from __future__ import annotations

import textwrap
from functools import reduce
from typing import Any, assert_never

from gptcli.console import duration, quantity, rounded, say, shell_word, size
from gptcli.data.examples.statistics import example_lines
from gptcli.data.lost_text import lost_text_of, lost_text_warnings
from gptcli.data.overlap import overlap_warning, overlap_words
from gptcli.data.prompts import suggested_prompt, suggested_question
from gptcli.data.scan import CorpusScan, EncodedScan
from gptcli.evaluate.baseline import CompressionBaseline
from gptcli.evaluate.statistics import exponential
from gptcli.figures import figure, figure_with_interval, scaled
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.config import ModelConfig
from gptcli.objective.config import CrossEntropyConfig, DPOConfig
from gptcli.parallel.layout import Layout
from gptcli.train.config import RunConfig
from gptcli.train.ending import Ending
from gptcli.train.initial_checkpoint import InitialCheckpoint
from gptcli.train.planning.choice import Choice
from gptcli.train.planning.plan import Plan

TARGETS = {"all": "all matrices of the blocks", "attention": "those of attention", "mlp": "those of the MLPs"}
LABEL_WIDTH, SCREEN_WIDTH = 12, 80
"""Columns of the labels of the first screen, and of a usual terminal."""


def show_plan(plan: Plan, step_seconds: float | None) -> None:
    """Print the first screen: corpus, split, tokenizer, model, steps, epochs, estimated time and memory."""
    for label, text in plan_lines(plan, step_seconds):
        say(f"{label:<11} {text}")
    warnings = [overlap_warning(plan.data.report), *lost_text_warnings(plan.data.report)]
    for warning in filter(None, warnings):
        say(f"warning: {warning}")


def show_layout(plan: Plan, layout: Layout) -> None:
    """Print how the ranks share the work."""
    parallel = plan.config.parallel
    parts = {"replicas": layout.replicas, "shards": layout.shards, "tensor": layout.tensor}
    box = " x ".join(f"{count} {name}" for name, count in parts.items() if count > 1)
    own = plan.config.sequences_per_step // layout.data_ranks
    say(f"{'ranks':<11} {layout.size} ({parallel.strategy}: {box}), {own} sequences of each step per data rank")


def plan_lines(plan: Plan, step_seconds: float | None) -> list[tuple[str, str]]:
    """Return the first screen as (label, text) pairs."""
    config, data, train = plan.config, plan.data, plan.config.train
    tokens = plan.steps * train.tokens_per_step
    cut = f"(micro-batches of {train.batch_size} x {config.seq_len}) = {size(tokens, '')}, {epochs_words(plan.epochs)}"
    unit = "document" if config.data.kind == "text" else "example"
    lines = [("corpus", line) for line in corpus_lines(plan)]
    for report in data.report.get("mix", [data.report]):
        lines += [("examples", line) for line in example_lines(report["examples"])] if "examples" in report else []
    lines += [
        ("tokenizer", f"{data.tokenizer.name}, {data.tokenizer.vocab_size:,} entries"),
        ("tokens", f"{len(data.train):,} train, {len(data.val):,} validation" + (", from the cache" * data.from_cache)),
        ("overlap", overlap_words(data.report["ngram_overlap"], unit)),
        ("model", f"{size(plan.parameters, '')} parameters: {describe_model(config.model)}"),
        *adapter_lines(plan),
        *(start_lines(plan.start) if plan.start else []),
        ("device", f"{plan.device}, {plan.precision}, {compiling(plan)}"),
        ("optimizer", f"{config.optim.name}, lr {config.optim.lr:g}, {config.schedule.name} schedule"),
        ("steps", f"{'about ' * bool(plan.deadline)}{plan.steps:,} of {train.tokens_per_step:,} tokens {cut}"),
        ("memory", memory_words(plan)),
    ]
    clock = plan.clock
    if plan.deadline and clock:
        gone = f"{duration(clock.seconds)} in all, {duration(clock.spent())} of it used"
        lines.append(("time", f"{gone} ({plan.deadline.step_seconds * 1000:.0f} ms a step)"))
        if "train.max_steps" in plan.chosen and plan.steps == train.max_steps:
            lines.append(("", "not all of it is used: with more steps the text would be memorised"))
    elif step_seconds is not None:
        left = plan.steps - plan.first_step
        after = f" for the {left:,} steps that are left" if plan.first_step else ""
        lines.append(("time", f"about {duration(step_seconds * left)}{after} ({step_seconds * 1000:.0f} ms a step)"))
    if plan.choice:
        lines += choice_lines(plan.choice)
    return lines + chosen_lines(plan)


def start_lines(start: InitialCheckpoint) -> list[tuple[str, str]]:
    """Return what training starts from, and the tokens that are new to it."""
    lines = [("start", f"the weights of {start.source}; a new optimizer")]
    if start.new_ids:
        names = ", ".join(map(start.tokenizer.token_text, start.new_ids))
        spare = f"; {start.spare:,} in rows that no token had" if start.spare else ""
        lines.append(("new tokens", f"{names}: each starts at the mean of the embeddings{spare}"))
    return lines


def adapter_lines(plan: Plan) -> list[tuple[str, str]]:
    """Return the adapter and its part of all weights; nothing if there is none."""
    adapter = plan.config.adapter
    if not isinstance(adapter, LoraConfig):
        return []
    kinds = "".join(f", {name}" for name in ("rslora", "dora") if getattr(adapter, name))
    form = f"rank {adapter.rank}, alpha {adapter.alpha:g}{kinds}, on {TARGETS[adapter.targets]}"
    part = f"trains {size(plan.trained, '')} of {size(plan.parameters + plan.trained, '')} weights"
    return [("adapter", f"{adapter.name}, {part}: {form}")]


def describe_model(config: ModelConfig) -> str:
    """Return the architecture in words: `4 layers, 128 wide, 4 heads of 32, rope, rmsnorm, swiglu, context 128`."""
    heads = f"{quantity(config.n_head, 'head')} of {config.head_width}"
    if config.kv_heads != config.n_head:
        heads += f" ({config.kv_heads} for keys and values)"
    parts: list[Any] = [quantity(config.n_layer, "layer"), f"{config.n_embd} wide", heads, config.norm, config.mlp]
    if config.position != "none":
        scaled = f" ({config.rope_scaling.name} x{config.rope_scaling.factor:g})" if config.rope_scaling else ""
        parts.append({"rope": f"rope{scaled}", "learned": "learned positions"}[config.position])
    return ", ".join([*parts, f"context {config.context_length}"])


def memory_words(plan: Plan) -> str:
    """Return the expected peak of the memory in words: of the training on a GPU, of the whole process elsewhere."""
    if not plan.process_bytes:
        return f"about {size(plan.memory_bytes)} of the GPU's to train"
    total = size(plan.process_bytes + plan.memory_bytes)
    return f"about {total}: {size(plan.memory_bytes)} to train, {size(plan.process_bytes)} for Python and PyTorch"


def chosen_lines(plan: Plan) -> list[tuple[str, str]]:
    """Return the values that a rule chose, by section of the configuration, each line no wider than the screen."""
    if not plan.chosen:
        return []
    by = "for that time" if plan.choice else "for this corpus and device"
    lines = [("chosen", f"{by}; --set SECTION.KEY=VALUE sets another:")]
    order = list(type(plan.config).model_fields)
    sections = {key.rpartition(".")[0] for key in plan.chosen}
    for section in sorted(sections, key=lambda section: order.index(section.split(".")[0])):
        keys = [key.rpartition(".")[2] for key in plan.chosen if key.rpartition(".")[0] == section]
        of_section = reduce(getattr, section.split("."), plan.config)
        values = ", ".join(f"{key}={value_words(getattr(of_section, key))}" for key in keys)
        wrapped = textwrap.wrap(f"{section}: {values}", SCREEN_WIDTH - LABEL_WIDTH, subsequent_indent="  ")
        lines += [("", line) for line in wrapped]
    return lines


def value_words(value: Any) -> str:
    """Return a value of the configuration as --set reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def compiling(plan: Plan) -> str:
    """Return whether the loss is compiled, in words, with the reason if that was left open."""
    answer = "compiled" if plan.config.train.compile else "not compiled"
    return f"{answer} ({plan.compile_reason})" if plan.compile_reason else answer


def choice_lines(choice: Choice) -> list[tuple[str, str]]:
    """Return the choice of the rule for a deadline, and the runners-up."""
    best, *others = choice.ranked
    lines = [("choice", f"{best.candidate}: predicted best of {choice.candidates:,}")]
    for other in others:
        more = f"{other.bits - best.bits:.3f} bits per byte more, predicted"
        lines.append(("", f"{other.candidate}, {epochs_words(other.epochs)}: {more}"))
    return lines + [("subset", choice.subset)] * bool(choice.subset)


def corpus_lines(plan: Plan) -> list[str]:
    """Return what was read, dropped and split, in two lines for each corpus."""
    if plan.scan is None:
        return []
    sources = plan.config.data.corpus
    epochs = plan.batches.epochs(plan.steps * plan.config.sequences_per_step)
    lines = []
    for name, share, scan in zip(plan.scan.names, plan.scan.shares, plan.scan.scans, strict=True):
        title = f"{share:.3g} of {name}" if name else ", ".join(sources[:3]) + " ..." * (len(sources) > 3)
        again = f" ({epochs_words(epochs[name])})" if name else ""
        lines += [
            f"{title}: {kept_words(scan)}",
            f"{size(scan.train.bytes)} to train on{again}, {size(scan.val.bytes)} to validate: {scan.split_rule}",
        ]
    return lines


def kept_words(scan: CorpusScan | EncodedScan) -> str:
    """Return what was kept and dropped of a corpus, in words."""
    documents = scan.train.documents + scan.val.documents - (scan.cut_at > 0)
    thing = "document" if scan.config.kind == "text" else "example"
    kept = f"{quantity(documents, thing)}, {size(scan.train.bytes + scan.val.bytes)}"
    if scan.duplicates:
        kept += f", {quantity(scan.duplicates, 'exact duplicate')} ({size(scan.duplicate_bytes)}) dropped"
    if scan.replaced:
        kept += f", {quantity(scan.replaced, 'character')} replaced by U+FFFD"
    if scan.left_out:
        kept += f", {quantity(len(scan.left_out), 'file')} left out"
    if scan.grouped:
        kept += f", {quantity(scan.grouped, thing)} kept on the side of the split where others like them are"
    return kept


def epochs_words(epochs: float) -> str:
    """Return the number of epochs in words."""
    words = rounded(epochs)
    return f"{words} epoch{'s' * (words != '1')}"


def measured_on(summary: dict[str, Any]) -> str:
    """Return the text on which the loss of the summary was measured, in words."""
    if summary["val_part"] == 1:
        return "whole validation split"
    return (
        f"{100 * summary['val_part']:.2g} % of the validation split, for want of time; gptcli eval measures all of it"
    )


def loss_words(summary: dict[str, Any], config: RunConfig) -> str:
    """Return the loss of the summary, and what it means for the objective, in words."""
    loss, interval = summary["val_loss"], summary["val_loss_interval"]
    match config.objective:
        case CrossEntropyConfig():
            perplexity = interval and tuple(map(exponential, interval))
            return (
                f"{figure_with_interval(loss, interval)} nats/token, perplexity "
                f"{figure_with_interval(exponential(loss), perplexity)}"
            )
        case DPOConfig():
            return (
                f"{figure_with_interval(loss, interval)} nats/pair, {100 * summary['val_reward_accuracy']:.1f} % of "
                f"the pairs ranked as in the data, reward margin {summary['val_reward_margin']:.3f}, divergence from "
                f"the reference {summary['val_kl']:.3f} nats/answer"
            )
        case _ as unreachable:
            assert_never(unreachable)


def show_summary(summary: dict[str, Any], plan: Plan, ending: Ending, baseline: CompressionBaseline) -> None:
    """Print the quality of the model, what its curve shows, the time and memory of the run, and the next commands."""
    loss, interval, bits = summary["val_loss"], summary["val_loss_interval"], summary["val_bits_per_byte"]
    say("")
    say(f"validation loss {loss_words(summary, plan.config)}: step {ending.used_step:,}, {measured_on(summary)}")
    beside = f"; xz -9 needs {baseline.bits_per_byte:.2f} for {baseline.text}" if baseline.bits_per_byte else ""
    if bits is None:
        say(f"bits per byte are not shown: {summary['val_bits_per_byte_withheld']}")
    else:
        say(f"{figure(bits, scaled(interval, bits / loss if loss else 0.0))} bits per byte{beside}")
        if lost := lost_text_of(plan.data.report, "val").words("the validation text"):
            say(f"warning: {lost}")
    for sentence in (ending.reason, ending.sentence):
        if sentence:
            say(sentence)
    peak_of = "tensors on the GPU" if plan.device.type == "cuda" else "the whole process"
    counted = " in the loss" * plan.data.val.is_masked
    say(
        f"{quantity(summary['steps'], 'step')}, {size(summary['tokens'], '')} tokens{counted} "
        f"in {duration(summary['train_seconds'])}, {summary['tokens_per_second']:,.0f} tokens/s, "
        f"peak memory {size(summary['peak_memory_bytes'])} ({peak_of})"
    )
    for name, figures in summary.get("mix", {}).items():
        say(f"  {name}: validation loss {figures['val_loss']:.4f}, {epochs_words(figures['epochs'])}")
    say(f"run directory {ending.run}")
    say("")
    say("next:")
    is_chat = plan.config.data.kind != "text"
    prompt = (suggested_question if is_chat else suggested_prompt)(plan.data.val, plan.data.tokenizer)
    words = " --chat" * is_chat + (f" {shell_word(prompt)}" if prompt else "")
    say(f"  gptcli generate {shell_word(ending.run)}{words}")
    say(f"  gptcli chat {shell_word(ending.run)}")
    say(f"  gptcli eval {shell_word(ending.run)}")
