"""`gptcli bench generate`: generated tokens a second by batch size and number format, and their part of the bound."""

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
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.jobs import GPTCLI, LIMIT, DecodingJob, Program, Task
from gptcli.report.bench.models import named_shape, read_config, write_random_model
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, percent, shown, times
from gptcli.report.bench.workers import rounds, started

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
PROMPT_SEED = 1


def number_format(text: str) -> str:
    """Read the name of a format of weights.

    Raises:
        ValueError: the text is something else.
    """
    if text not in BYTES:
        raise ValueError(f"{text!r} is none of {', '.join(BYTES)}")
    return text


@dataclass(frozen=True)
class DecodingRequest:
    """A model, and the number of tokens to generate with it."""

    model: str = "gpt2-124m"
    """A directory, or a config, whose shape is given random weights."""
    assignments: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (1, 8)
    numbers: tuple[str, ...] = ("fp32", "int8")
    prompt_tokens: int = 16
    new_tokens: int = 48
    compile: bool = False
    """Whether gptcli is measured compiled as well."""


def measure(request: DecodingRequest, options: BenchOptions, others: Sequence[Program] = ()) -> Outcome:
    """Measure the continuation of prompts by gptcli, and by other programs in turn with it.

    Raises:
        UsageError, CheckpointError: the model cannot be read, or has too short a context for so many tokens.
        BenchError: gptcli failed.
    """
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
            seconds=options.seconds,
            device=options.device,
            threads=options.threads,
        )
        with started(tasks(job, request.numbers, others, request.compile), options.threads) as workers:
            contenders = {
                (name, batch): rounds(worker, batch_size=batch)
                for batch in request.batch_sizes
                for name, worker in workers.items()
            }
            with Progress("generate", options.rounds, unit="rounds") as progress:
                measured = alternate(contenders, options.rounds, lambda _: progress.update())
            facts = {name: worker.facts for name, worker in workers.items()}
    weights = weights_per_token(config)
    batches = []
    for batch in request.batch_sizes:
        of_batch = {name: values for (name, size), values in measured.items() if size == batch}
        batches.append({"batch_size": batch} | batch_summary(of_batch, facts, batch, weights))
    results = {
        "model": shown((request.model, *request.assignments)),
        "prompt_tokens": request.prompt_tokens,
        "new_tokens": request.new_tokens,
        "weights_per_token": weights,
        "batches": batches,
    }
    return Outcome("generate", results, tables(results))


def model_directory(request: DecodingRequest, scratch: Path) -> Path:
    """Return the user's directory, or a new one at `scratch` with a model of the named shape and random weights.

    Raises:
        UsageError: settings are given for a directory.
    """
    if Path(request.model).is_dir():
        if request.assignments:
            raise UsageError(f"{request.model} is a model already", "leave out --set")
        return Path(request.model).resolve()
    config = named_shape(request.model, request.assignments).model
    write_random_model(config, scratch)
    return scratch


def check_length(request: DecodingRequest, config: ModelConfig) -> None:
    """Check that the prompt and the new tokens fit the context.

    Raises:
        UsageError: they do not.
    """
    needed = request.prompt_tokens + request.new_tokens
    if needed > config.context_length:
        raise UsageError(
            f"{request.prompt_tokens} tokens of prompt and {request.new_tokens} new ones are more than the model's "
            f"context of {config.context_length}",
            "ask for fewer: --new-tokens",
        )


def random_prompts(request: DecodingRequest, config: ModelConfig) -> list[list[int]]:
    """Return a prompt for each sequence of the largest batch, of uniformly drawn ids without the last, end of text."""
    draw = random.Random(PROMPT_SEED)
    ids = range(config.vocab_size - 1)
    return [draw.choices(ids, k=request.prompt_tokens) for _ in range(max(request.batch_sizes))]


def weights_per_token(config: ModelConfig) -> int:
    """Return the number of weights read for every token: the blocks and the head, not the embedding tables."""
    return non_embedding_parameters(config) + token_embedding_parameters(config)


def tasks(
    job: DecodingJob, numbers: Sequence[str], others: Sequence[Program] = (), compiled: bool = False
) -> dict[str, Task]:
    """Return a task for each program and each number format that it has, with a folder of its own."""
    found: dict[str, Task] = {}
    for number in numbers:
        for program in (GPTCLI, *others):
            name = f"{program.name} {number}"
            if number not in program.numbers:
                say(f"without {name}: it keeps weights in {' or '.join(program.numbers)}")
                continue
            scratch = f"{job.scratch}/{program.name}-{number}"
            own = replace(job, numbers=number, scratch=scratch, checkout=program.checkout)
            found[name] = Task(program, "generate", own)
            if compiled and program is GPTCLI:
                found[f"{program.name} compiled {number}"] = Task(program, "generate", replace(own, compile=True))
    return found | {LIMIT.name: Task(LIMIT, "generate", job)}


def batch_summary(
    measured: dict[str, list[dict[str, Any]]], facts: dict[str, dict[str, Any]], batch: int, weights: int
) -> dict[str, Any]:
    """Return every contender's figures for one batch size; the bound is one reading of the weights in each step."""
    bandwidth = [one["bytes_per_second"] for one in measured.pop(LIMIT.name)]
    rates = {name: [one["tokens_per_second"] for one in values] for name, values in measured.items()}
    ours = [name for name in measured if name.startswith(f"{GPTCLI.name} ")]
    contenders = {}
    for name, values in measured.items():
        numbers = name.rpartition(" ")[2]
        bound = [batch * one / (weights * BYTES[numbers]) for one in bandwidth]
        contenders[name] = facts[name] | {
            "tokens_per_second": spread(rates[name]).report() | {"rounds": [round(rate, 2) for rate in rates[name]]},
            "first_token_seconds": spread([value["first_token_seconds"] for value in values]).report(),
            "of_limit": ratios(rates[name], bound).report(),
            "ours_over_this": {mine: ratios(rates[mine], rates[name]).report() for mine in ours},
            "rows_as_ours": same_rows(values, measured[ours[0]]) if facts[name]["same_weights"] else None,
            "peak_memory_bytes": max(value["peak_memory_bytes"] for value in values),
        }
    return {"bytes_per_second": spread(bandwidth).report(), "contenders": contenders}


def same_rows(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> int:
    """Return the number of rows of the last round whose ids are those that gptcli gave."""
    return sum(row == our for row, our in zip(theirs[-1]["rows"], ours[-1]["rows"], strict=True))


def tables(results: dict[str, Any]) -> list[Table]:
    """Return one table for each batch size."""
    return [batch_table(results, batch) for batch in results["batches"]]


def batch_table(results: dict[str, Any], batch: dict[str, Any]) -> Table:
    """Return the table of one batch size."""
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
