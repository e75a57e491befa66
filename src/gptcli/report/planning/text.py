"""The plan as a table for people and as a JSON object for programs."""

from __future__ import annotations

from typing import Any

from gptcli.console import duration, size
from gptcli.models import estimate
from gptcli.report.planning.failures import RESTART_SECONDS
from gptcli.report.planning.run import BYTES_PER_TOKEN, TOKENS_PER_PARAMETER, TrainingPlan
from gptcli.train.planning.memory_estimate import checkpoint_bytes, trained_parameters

Lines = list[tuple[str, str]]
DAY = 86_400.0
LONG = 2 * DAY
HOPELESS = 0.99
"""Part of lost time from which on a training makes no progress."""
MEMORY_PARTS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "moments": "optimizer",
    "activations": "activations kept",
    "recomputed": "a block computed again",
    "weight_copies": "copies of weights for the products",
    "loss": "logits and loss",
    "tables": "tables of RoPE",
    "gathered": "blocks whole for a moment",
    "step": "the optimizer at work",
}


def as_text(plan: TrainingPlan) -> str:
    """Return the text that `gptcli plan` prints."""
    lines = [*model_lines(plan), *memory_lines(plan), *time_lines(plan), *traffic_lines(plan), *saving_lines(plan)]
    lines.append(("data", data_line(plan)))
    lines += [("assumed", "; ".join(assumptions(plan)))]
    return "\n".join(f"{label:<11} {text}" for label, text in lines)


def model_lines(plan: TrainingPlan) -> Lines:
    """Return the lines on parameters and operations."""
    model, exact = plan.model, plan.product_flops_per_token
    parts = estimate.parameters_by_part(model)
    named = ", ".join(f"{name} {size(count, '')}" for name, count in parts.items() if count)
    trained = trained_parameters(model, plan.config.adapter)
    formula = "4N + 6 A of the adapter + 12 L H D T" if plan.adapter_weights else "6N + 12 L H D T"
    return [
        ("parameters", f"{sum(parts.values()):,}: {named}"),
        *([("", f"{trained:,} of an adapter, which alone are trained")] if trained < sum(parts.values()) else []),
        ("", f"{estimate.non_embedding_parameters(model):,} without embeddings and head"),
        ("operations", f"{size(plan.flops_per_token, 'FLOP')} a token: {formula}, forward and backward"),
        ("", f"{size(exact, 'FLOP')} of them in products that the causal mask and windows leave"),
        ("", f"{plan.flops_per_token * plan.tokens:.3g} FLOP for {size(plan.tokens, '')} tokens"),
    ]


def memory_lines(plan: TrainingPlan) -> Lines:
    """Return the parts of one rank's memory, their peak, and what to change if that is too much."""
    memory = plan.memory._asdict()
    lines = [("layout", f"{plan.request.gpus:,} {plan.device.name}: {ranks_words(plan)}"), ("", batch_words(plan))]
    lines.append(("memory", f"{size(memory['total'])} of {size(plan.device.memory)} on each: {verdict(plan)}"))
    return lines + [("", f"{size(memory[part]):>8}  {words}") for part, words in MEMORY_PARTS.items() if memory[part]]


def verdict(plan: TrainingPlan) -> str:
    """Return whether the training fits the memory, in words."""
    if plan.fits:
        return "fits"
    from gptcli.report.planning.run import what_fits

    other = what_fits(plan)
    if other is None:
        return "does not fit, and neither would it with full sharding; choose a smaller model"
    return f"does not fit; with {changed_options(plan, other)} it would ({size(other.memory.total)})"


def changed_options(plan: TrainingPlan, other: TrainingPlan) -> str:
    """Return the options that turn one plan into the other."""
    names = ("gpus", "strategy", "tensor", "batch_size", "checkpointing")
    values = {name: getattr(other.request, name) for name in names if getattr(other.request, name) is not None}
    changed = {name: value for name, value in values.items() if getattr(plan.request, name) != value}
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())


def ranks_words(plan: TrainingPlan) -> str:
    """`fsdp, 8 replicas x 8 shards x 4 tensor`."""
    layout = plan.layout
    counts = {"replicas": layout.replicas, "shards": layout.shards, "tensor": layout.tensor}
    box = " x ".join(f"{count} {name}" for name, count in counts.items() if count > 1)
    return f"{plan.config.parallel.strategy}, {box}" if box else "by itself"


def batch_words(plan: TrainingPlan) -> str:
    """`steps of 524,288 tokens in 32 micro-batches of 8 x 2048 on each, bf16, full activation checkpointing`."""
    mode = plan.config.train.activation_checkpointing
    recomputed = "" if mode == "none" else f", {mode} activation checkpointing"
    cut = f"{plan.micro_batches} micro-batch{'es' * (plan.micro_batches > 1)}"
    return (
        f"steps of {plan.config.train.tokens_per_step:,} tokens in {cut} of {plan.batch.sequences} x "
        f"{plan.batch.seq_len} on each, {plan.precision}{recomputed}"
    )


def time_lines(plan: TrainingPlan) -> Lines:
    """Return the lines on time and communication."""
    rate = plan.config.train.tokens_per_step / plan.step_seconds
    of_peak = f"{100 * plan.request.mfu:g} % of {size(plan.device.peak_flops(plan.precision), 'FLOP/s')} each"
    lines = [("time", f"{plan.steps:,} steps of {short(plan.step_seconds)}, {rate:,.0f} tokens/s, at {of_peak}")]
    with_losses = f"{period(plan.wall_seconds)} with failures and checkpoints"
    if plan.saving.lost > HOPELESS:
        with_losses = "no end with failures that come faster than it saves and starts again"
    hours = plan.wall_seconds / 3600 * plan.request.gpus
    in_words = f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
    lines.append(("", f"{period(plan.train_seconds)} of training, {with_losses}: {in_words} device-hours"))
    if plan.cost is not None:
        lines.append(("cost", f"{plan.cost:,.0f} at {plan.request.price_per_hour:g} a device and hour"))
    return lines


def traffic_lines(plan: TrainingPlan) -> Lines:
    """Return the traffic of a rank in a step, compared with the time that it computes."""
    lines = [
        ("", f"{size(transfer.bytes):>8}  {transfer.what}, {transfer.place}: {short(transfer.seconds)} by itself")
        for transfer in plan.transfers
    ]
    if not lines:
        return []
    total = sum(transfer.seconds for transfer in plan.transfers)
    share = total / plan.step_seconds
    words = ", so it decides the speed" if share > 1 else ""
    percent = f"{100 * share:.0f}" if share > 0.1 else f"{100 * share:.2g}"
    return [("traffic", f"each rank sends in a step, {percent} % of the time that it computes{words}:"), *lines]


def saving_lines(plan: TrainingPlan) -> Lines:
    """Return the lines on checkpoints and failures."""
    saving, request = plan.saving, plan.request
    written = checkpoint_bytes(plan.config)
    rate = size(written / saving.write_seconds, "B/s")
    steps = max(1, round(saving.interval / plan.step_seconds))
    return [
        ("checkpoint", f"{size(written)}, written in {short(saving.write_seconds)} at {rate}"),
        (
            "failures",
            f"{DAY / saving.failure_every_seconds:.2g} a day at one in {request.device_hours:,.0f} hours of a device",
        ),
        (
            "",
            f"least is lost with a checkpoint every {period(saving.interval)} ({steps:,} steps): "
            f"{100 * saving.lost:.2g} % of the time",
        ),
    ]


def data_line(plan: TrainingPlan) -> str:
    """Return the line on the size of the data."""
    return (
        f"{size(plan.tokens, '')} tokens: {size(plan.shard_bytes)} of shards, from about "
        f"{size(BYTES_PER_TOKEN * plan.tokens)} of text"
    )


def assumptions(plan: TrainingPlan) -> list[str]:
    """Return the assumptions of the plan."""
    best = TOKENS_PER_PARAMETER * estimate.parameter_count(plan.model)
    return [
        *plan.chosen,
        f"{plan.device.source}",
        f"{RESTART_SECONDS / 60:g} min to start again",
        f"compute-optimal by Chinchilla: about {TOKENS_PER_PARAMETER} tokens a parameter, {size(best, '')}",
    ]


def short(seconds: float) -> str:
    """A duration: `3.2 ms` below a second, then as everywhere."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.995 else duration(seconds)


def period(seconds: float) -> str:
    """A duration that may be months: `12 days`, `3.1 years`."""
    if seconds < LONG:
        return short(seconds)
    days = seconds / DAY
    return f"{days:,.3g} days" if days < 730 else f"{days / 365.25:,.3g} years"


def as_json(plan: TrainingPlan) -> dict[str, Any]:
    """The object that `gptcli plan --json` prints: bytes, seconds, operations."""
    model, seq_len, saving = plan.model, plan.config.seq_len, plan.saving
    counts = {
        "total": estimate.parameter_count(model),
        "without_embeddings": estimate.non_embedding_parameters(model),
        "trained": trained_parameters(model, plan.config.adapter),
    }
    return {
        "parameters": estimate.parameters_by_part(model) | counts,
        "flops_per_token": plan.flops_per_token,
        "product_flops_per_token": plan.product_flops_per_token,
        "product_flops_forward": estimate.product_flops(model, seq_len),
        "flops": plan.flops_per_token * plan.tokens,
        "tokens": plan.tokens,
        "chinchilla_tokens": TOKENS_PER_PARAMETER * estimate.parameter_count(model),
        "layout": {
            "gpus": plan.request.gpus,
            "hosts": plan.machine.hosts(plan.request.gpus),
            "replicas": plan.layout.replicas,
            "shards": plan.layout.shards,
            "tensor": plan.layout.tensor,
            "batch_size": plan.batch.sequences,
            "seq_len": seq_len,
            "micro_batches": plan.micro_batches,
            "tokens_per_step": plan.config.train.tokens_per_step,
            "precision": plan.precision,
            "activation_checkpointing": plan.config.train.activation_checkpointing,
        },
        "memory_bytes": plan.memory._asdict(),
        "device_memory_bytes": plan.device.memory,
        "usable_memory_bytes": plan.usable_memory,
        "fits": plan.fits,
        "verdict": verdict(plan),
        "talk": [transfer._asdict() for transfer in plan.transfers],
        "steps": plan.steps,
        "step_seconds": plan.step_seconds,
        "train_seconds": plan.train_seconds,
        "wall_seconds": plan.wall_seconds,
        "device_hours": plan.wall_seconds / 3600 * plan.request.gpus,
        "cost": plan.cost,
        "checkpoint_bytes": checkpoint_bytes(plan.config),
        "checkpoint_seconds": saving.write_seconds,
        "checkpoint_interval_seconds": saving.interval,
        "failures_per_day": DAY / saving.failure_every_seconds,
        "lost": saving.lost,
        "shard_bytes": plan.shard_bytes,
        "device": plan.device.name,
        "source": plan.device.source,
        "chosen": list(plan.chosen),
    }
