"""`gptcli bench generate`: generated tokens a second by batch size and number format, ours and each peer's, in turn."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptcli.console import Progress, say, size
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import non_embedding_parameters, token_embedding_parameters
from gptcli.report.bench.contest import alternate, ratios, spread
from gptcli.report.bench.crew import LIMIT, OURS, crew, rounds
from gptcli.report.bench.jobs import DecodingJob, Task
from gptcli.report.bench.models import named_shape, read_config, write_random_model
from gptcli.report.bench.peers import GPTCLI, Chosen
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table, figure, percent, shown, times

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
PROMPT_SEED = 1


def number_format(text: str) -> str:
    if text not in BYTES:
        raise ValueError(f"{text!r} is none of {', '.join(BYTES)}")
    return text


@dataclass(frozen=True)
class DecodingRequest:
    """A model and how much is generated with it."""

    model: str = "gpt2-124m"
    """A directory, or a config whose shape is given random weights."""
    assignments: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (1, 8)
    numbers: tuple[str, ...] = ("fp32", "int8")
    prompt_tokens: int = 16
    new_tokens: int = 48
    compile: bool = False
    """Have ours take part compiled as well."""


def measure(request: DecodingRequest, peers: Sequence[Chosen], setting: Setting) -> Outcome:
    """Every contender continues the same prompts, in turn.

    Raises:
        UsageError, CheckpointError: the model cannot be read, or has too short a context for so many tokens.
        BenchError: ours failed.
    """
    if not set(request.numbers) & set(GPTCLI.numbers):
        formats = " or ".join(GPTCLI.numbers)
        raise UsageError(f"gptcli keeps weights in {formats}", "add one of them to --numbers")
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        directory = model_directory(request, Path(scratch) / "model")
        config = read_config(str(directory))
        check_length(request, config)
        job = DecodingJob(
            directory=str(directory),
            scratch=scratch,
            numbers="",
            prompts=random_prompts(request, config),
            new_tokens=request.new_tokens,
            seconds=setting.seconds,
            device=setting.device,
            threads=setting.threads,
        )
        with crew(tasks(job, request.numbers, peers, request.compile), setting.threads) as workers:
            players = {
                (name, batch): rounds(worker, batch_size=batch)
                for batch in request.batch_sizes
                for name, worker in workers.items()
            }
            with Progress("generate", setting.rounds, unit="rounds") as progress:
                played = alternate(players, setting.rounds, lambda _: progress.update())
            facts = {name: worker.facts for name, worker in workers.items()}
    weights = weights_per_token(config)
    batches = []
    for batch in request.batch_sizes:
        plays = {name: values for (name, size), values in played.items() if size == batch}
        batches.append({"batch_size": batch} | standings(plays, facts, batch, weights))
    results = {
        "model": shown((request.model, *request.assignments)),
        "prompt_tokens": request.prompt_tokens,
        "new_tokens": request.new_tokens,
        "weights_per_token": weights,
        "batches": batches,
    }
    return Outcome("generate", results, tables(results))


def model_directory(request: DecodingRequest, scratch: Path) -> Path:
    """The user's directory, or a new one at `scratch` with a model of the named shape and random weights."""
    if Path(request.model).is_dir():
        if request.assignments:
            raise UsageError(f"{request.model} is a model already", "leave out --set")
        return Path(request.model).resolve()
    config = named_shape(request.model, request.assignments).model
    write_random_model(config, scratch)
    return scratch


def check_length(request: DecodingRequest, config: ModelConfig) -> None:
    needed = request.prompt_tokens + request.new_tokens
    if needed > config.context_length:
        raise UsageError(
            f"{request.prompt_tokens} tokens of prompt and {request.new_tokens} new ones are more than the model's "
            f"context of {config.context_length}",
            "ask for fewer: --new-tokens",
        )


def random_prompts(request: DecodingRequest, config: ModelConfig) -> list[list[int]]:
    """As many different prompts as the largest batch has, of uniformly drawn ids (the last, end of text, left out)."""
    draw = random.Random(PROMPT_SEED)
    ids = range(config.vocab_size - 1)
    return [draw.choices(ids, k=request.prompt_tokens) for _ in range(max(request.batch_sizes))]


def weights_per_token(config: ModelConfig) -> int:
    """Weights that are read for every token: the blocks and the head, not the tables that are only looked up."""
    return non_embedding_parameters(config) + token_embedding_parameters(config)


def tasks(job: DecodingJob, numbers: Sequence[str], peers: Sequence[Chosen], compiled: bool = False) -> dict[str, Task]:
    """A contender for each program and each number format that it has, with a folder of its own."""
    found: dict[str, Task] = {}
    for number in numbers:
        for peer, path in (Chosen(GPTCLI), *peers):
            name = f"{peer.name} {number}"
            if number not in peer.numbers:
                say(f"without {name}: it keeps weights in {' or '.join(peer.numbers)}")
                continue
            own = replace(job, numbers=number, scratch=f"{job.scratch}/{peer.name}-{number}", checkout=path)
            found[name] = Task(peer.module, "generate", own)
            if compiled and peer is GPTCLI:
                found[f"{peer.name} compiled {number}"] = Task(peer.module, "generate", replace(own, compile=True))
    return found | {LIMIT: Task("limit", "generate", job)}


def standings(
    plays: dict[str, list[dict[str, Any]]], facts: dict[str, dict[str, Any]], batch: int, weights: int
) -> dict[str, Any]:
    """Every contender's figures for one batch size; the bound is one reading of the weights for every step."""
    bandwidth = [play["bytes_per_second"] for play in plays.pop(LIMIT)]
    rates = {name: [play["tokens_per_second"] for play in values] for name, values in plays.items()}
    ours = [name for name in plays if name.startswith(f"{OURS} ")]
    contenders = {}
    for name, values in plays.items():
        numbers = name.rpartition(" ")[2]
        bound = [batch * one / (weights * BYTES[numbers]) for one in bandwidth]
        contenders[name] = facts[name] | {
            "tokens_per_second": spread(rates[name]).report() | {"rounds": [round(rate, 2) for rate in rates[name]]},
            "first_token_seconds": spread([value["first_token_seconds"] for value in values]).report(),
            "of_limit": ratios(rates[name], bound).report(),
            "ours_over_this": {mine: ratios(rates[mine], rates[name]).report() for mine in ours},
            "rows_as_ours": same_rows(values, plays[ours[0]]) if facts[name]["same_weights"] else None,
            "peak_memory_bytes": max(value["peak_memory_bytes"] for value in values),
        }
    return {"bytes_per_second": spread(bandwidth).report(), "contenders": contenders}


def same_rows(plays: list[dict[str, Any]], ours: list[dict[str, Any]]) -> int:
    """How many rows of the last round have the very ids that ours gave."""
    return sum(row == our for row, our in zip(plays[-1]["rows"], ours[-1]["rows"], strict=True))


def tables(results: dict[str, Any]) -> list[Table]:
    return [batch_table(results, batch) for batch in results["batches"]]


def batch_table(results: dict[str, Any], batch: dict[str, Any]) -> Table:
    contenders, rows = batch["contenders"], batch["batch_size"]
    ours = list(next(iter(contenders.values()))["ours_over_this"])
    lines = [
        (
            name,
            figure(one["tokens_per_second"]["median"]),
            percent(one["of_limit"]["median"]),
            figure(one["first_token_seconds"]["median"], "s"),
            *("" if name == mine else times(one["ours_over_this"][mine]) for mine in ours),
            "-" if one["rows_as_ours"] is None else f"{one['rows_as_ours']} of {rows}",
            size(one["peak_memory_bytes"]),
        )
        for name, one in contenders.items()
    ]
    heading = (
        f"Generation: {results['model']}, batch {rows}, {results['prompt_tokens']} tokens of prompt, "
        f"{results['new_tokens']} new ones, greedy"
    )
    columns = (
        "", "tokens/s", "of the bound", "first token", *(f"{mine} is" for mine in ours), "same text", "peak memory"
    )  # fmt: skip
    notes = [
        f"Bound: every step reads {size(results['weights_per_token'], '')} weights once, at "
        f"{figure(batch['bytes_per_second']['median'] / 1e9)} GB/s as measured in the same rounds; with larger batches "
        "arithmetic binds before memory does.",
        "Tokens a second with the reading of the prompts; medians over the rounds, ratios round by round.",
    ]
    return Table(heading, columns, lines, notes)
