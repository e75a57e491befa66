"""`gptcli bench train`: tokens a second of whole training steps, ours and each peer's, in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gptcli.console import Progress, size
from gptcli.errors import UsageError
from gptcli.models.estimate import flops_per_token
from gptcli.nn.device import resolve_precision
from gptcli.report.bench.contest import alternate, ratios, spread
from gptcli.report.bench.crew import LIMIT, OURS, crew, rounds
from gptcli.report.bench.jobs import Task, TrainingJob
from gptcli.report.bench.models import named_shape
from gptcli.report.bench.peers import GPTCLI, Chosen
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table, figure, percent, shown, times
from gptcli.train.config import RunConfig


@dataclass(frozen=True)
class TrainingRequest:
    """One shape and one batch."""

    model: str = "gpt2-124m"
    assignments: tuple[str, ...] = ()
    batch_size: int = 2
    seq_len: int = 256
    compile: bool = False
    precision: str = "auto"


def measure(request: TrainingRequest, peers: Sequence[Chosen], setting: Setting) -> Outcome:
    """Steps of every contender in turn.

    Raises:
        ConfigError, UsageError: the shape cannot be trained so, or not by the others.
        BenchError: ours failed.
    """
    config = resolve(request)
    precision = resolve_precision(torch.device(setting.device), config.train.precision)
    if precision == "fp8":
        raise UsageError("the other programs do not train in fp8", "compare bf16")

    def task(module: str, path: str | None = None) -> Task:
        job = TrainingJob(config.model_dump(mode="json"), setting.device, precision, setting.seconds, path)
        return Task(module, "train", job)

    tasks = {peer.name: task(peer.module, path) for peer, path in (Chosen(GPTCLI), *peers)}
    tasks[LIMIT] = task("limit")
    with crew(tasks, setting.threads) as workers, Progress("train", setting.rounds, unit="rounds") as progress:
        players = {name: rounds(worker) for name, worker in workers.items()}
        played = alternate(players, setting.rounds, lambda _: progress.update())
        facts = {name: worker.facts for name, worker in workers.items()}
    flops = flops_per_token(config.model, config.seq_len)
    limit = [play["flops_per_second"] for play in played.pop(LIMIT)]
    ours = [play["tokens_per_second"] for play in played[OURS]]
    results = {
        "model": shown((request.model, *request.assignments)),
        "batch_size": request.batch_size,
        "seq_len": config.seq_len,
        "precision": precision,
        "compile": config.train.compile,
        "flops_per_token": flops,
        "limit": {"what": facts[LIMIT]["what"], "flops_per_second": spread(limit).report()},
        "contenders": {name: standing(facts[name], plays, ours, limit, flops) for name, plays in played.items()},
    }
    return Outcome("train", results, tables(results))


def resolve(request: TrainingRequest) -> RunConfig:
    """The whole configuration: one micro-batch a step, of the shape that is asked for."""
    train = {
        "batch_size": request.batch_size,
        "seq_len": request.seq_len,
        "tokens_per_step": request.batch_size * request.seq_len,
        "compile": request.compile,
        "precision": request.precision,
    }
    return named_shape(request.model, request.assignments, {"train": train})


def standing(
    facts: dict[str, Any], plays: list[dict[str, Any]], ours: list[float], limit: list[float], flops: int
) -> dict[str, Any]:
    """One contender's figures: its rate, that against the limit, and ours against it, round by round."""
    rates = [play["tokens_per_second"] for play in plays]
    return facts | {
        "tokens_per_second": spread(rates).report() | {"rounds": [round(rate, 2) for rate in rates]},
        "of_limit": ratios([rate * flops for rate in rates], limit).report(),
        "ours_over_this": ratios(ours, rates).report(),
        "loss": plays[-1]["loss"],
        "peak_memory_bytes": max(play["peak_memory_bytes"] for play in plays),
    }


def tables(results: dict[str, Any]) -> list[Table]:
    limit = results["limit"]
    compiled = ", compiled" if results["compile"] else ""
    heading = (
        f"Training step: {results['model']}, {results['batch_size']} x {results['seq_len']} tokens, "
        f"{results['precision']}{compiled}"
    )
    rows = [
        (
            f"{name} ({contender['note']})" if contender["note"] else name,
            figure(contender["tokens_per_second"]["median"]),
            percent(contender["of_limit"]["median"]),
            "" if name == OURS else times(contender["ours_over_this"]),
            size(contender["peak_memory_bytes"]),
            figure(contender["first_step_seconds"], "s"),
            size(contender["parameters"], ""),
        )
        for name, contender in results["contenders"].items()
    ]
    columns = ("", "tokens/s", "of the limit", f"{OURS} is", "peak memory", "first step", "parameters")
    notes = [
        f"Limit: {figure(limit['flops_per_second']['median'] / 1e9)} GFLOP/s in {limit['what']}, in the same rounds; "
        f"a token takes {figure(results['flops_per_token'] / 1e9)} GFLOP (6N + 12LHDT).",
        "A step is forward, backward, clipping and update on a batch in memory; medians over the rounds, ratios round "
        "by round.",
    ]
    return [Table(heading, columns, rows, notes)]
