"""`gptcli bench train`: tokens a second of whole training steps, and their part of the machine's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gptcli.console import Progress, size
from gptcli.models.adapter_config import AdapterConfig, NoAdapter
from gptcli.models.estimate import adapted_flops_per_token, adapter_shape
from gptcli.nn.device import resolve_precision
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.jobs import GPTCLI, LIMIT, Program, Task, TrainingJob
from gptcli.report.bench.models import named_shape
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, percent, shown, times
from gptcli.report.bench.workers import rounds, started
from gptcli.train.config import RunConfig

NO_ADAPTER = NoAdapter()


@dataclass(frozen=True)
class TrainingRequest:
    """One shape and one batch."""

    model: str = "gpt2-124m"
    assignments: tuple[str, ...] = ()
    batch_size: int = 2
    seq_len: int = 256
    compile: bool = False
    precision: str = "auto"
    adapter: AdapterConfig = NO_ADAPTER
    """The adapter that is trained beside random weights; its base, for the configuration, is the shape itself."""


def measure(request: TrainingRequest, options: BenchOptions, others: Sequence[Program] = ()) -> Outcome:
    """Measure training steps of gptcli, and of other programs in turn with it.

    Raises:
        ConfigError, UsageError: the shape cannot be trained so.
        BenchError: gptcli failed.
    """
    config = resolve(request)
    precision = resolve_precision(torch.device(options.device), config.train.precision)

    def task(program: Program) -> Task:
        values = config.model_dump(mode="json")
        job = TrainingJob(values, options.device, precision, options.seconds, program.checkout)
        return Task(program, "train", job)

    tasks = {program.name: task(program) for program in (GPTCLI, *others, LIMIT)}
    with started(tasks, options.threads) as workers, Progress("train", options.rounds, unit="rounds") as progress:
        contenders = {name: rounds(worker) for name, worker in workers.items()}
        measured = alternate(contenders, options.rounds, lambda _: progress.update())
        facts = {name: worker.facts for name, worker in workers.items()}
    flops = training_flops(config)
    limit = [one["flops_per_second"] for one in measured.pop(LIMIT.name)]
    ours = [one["tokens_per_second"] for one in measured[GPTCLI.name]]
    results = {
        "model": shown((request.model, *request.assignments)),
        "batch_size": request.batch_size,
        "seq_len": config.seq_len,
        "precision": precision,
        "compile": config.train.compile,
        "adapter": config.adapter.model_dump(mode="json"),
        "flops_per_token": flops,
        "limit": {"what": facts[LIMIT.name]["what"], "flops_per_second": spread(limit).report()},
        "contenders": {name: summary(facts[name], values, ours, limit, flops) for name, values in measured.items()},
    }
    return Outcome("train", results, tables(results))


def training_flops(config: RunConfig) -> int:
    """Return the floating-point operations of a token; frozen matrices have no gradient."""
    trained = adapter_shape(config.model, config.adapter).weights
    return adapted_flops_per_token(config.model, config.seq_len, trained)


def resolve(request: TrainingRequest) -> RunConfig:
    """Return the whole configuration: one micro-batch a step, of the requested shape."""
    train = {
        "batch_size": request.batch_size,
        "seq_len": request.seq_len,
        "tokens_per_step": request.batch_size * request.seq_len,
        "compile": request.compile,
        "precision": request.precision,
    }
    if isinstance(request.adapter, NoAdapter):
        return named_shape(request.model, request.assignments, {"train": train})
    options = {"train": train | {"init_from": request.model}, "adapter": request.adapter.model_dump(mode="json")}
    return named_shape(request.model, request.assignments, options)


def summary(
    facts: dict[str, Any], measured: list[dict[str, Any]], ours: list[float], limit: list[float], flops: int
) -> dict[str, Any]:
    """Return one contender's figures: its rate, that over the limit, and gptcli's over it, round by round."""
    rates = [one["tokens_per_second"] for one in measured]
    return facts | {
        "tokens_per_second": spread(rates).report() | {"rounds": [round(rate, 2) for rate in rates]},
        "of_limit": ratios([rate * flops for rate in rates], limit).report(),
        "ours_over_this": ratios(ours, rates).report(),
        "loss": measured[-1]["loss"],
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in measured),
    }


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the table of the results."""
    limit, is_race = results["limit"], len(results["contenders"]) > 1
    compiled, adapter = ", compiled" if results["compile"] else "", results["adapter"]
    is_adapted = adapter["name"] != "none"
    trained = f"LoRA of rank {adapter['rank']} on {adapter['targets']} matrices, " if is_adapted else ""
    heading = (
        f"Training step: {results['model']}, {trained}{results['batch_size']} x {results['seq_len']} tokens, "
        f"{results['precision']}{compiled}"
    )
    formula = "4N + 6A + 12LHDT, A of the adapter" if is_adapted else "6N + 12LHDT"
    rows = [
        (
            f"{name} ({contender['note']})" if contender["note"] else name,
            figure(contender["tokens_per_second"]["median"]),
            percent(contender["of_limit"]["median"]),
            *(["" if name == GPTCLI.name else times(contender["ours_over_this"])] * is_race),
            size(contender["peak_memory_bytes"]),
            figure(contender["first_step_seconds"], "s"),
            size(contender["parameters"], ""),
        )
        for name, contender in results["contenders"].items()
    ]
    compared = [f"{GPTCLI.name} is"] * is_race
    columns = ("", "tokens/s", "of the limit", *compared, "peak memory", "first step", "parameters")
    notes = [
        f"Limit: {figure(limit['flops_per_second']['median'] / 1e9)} GFLOP/s in {limit['what']}, in the same rounds; "
        f"a token takes {figure(results['flops_per_token'] / 1e9)} GFLOP ({formula}).",
        "A step is forward, backward, clipping and update on a batch in memory; medians over the rounds, ratios round "
        "by round.",
    ]
    return [Table(heading, columns, rows, notes)]
