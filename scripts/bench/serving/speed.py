"""`serve speed`: tokens a second, times to the first token and between tokens, of servers with the same weights."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.gaps import quantile
from bench.serving.model import prepare_model
from bench.serving.servers import OURS, Program, Server, serving
from bench.serving.speed_parts import CHAT, READING, Part, Reading, Speed, SpeedRequest, Turns, parts
from gptcli.console import Progress, size
from gptcli.report.bench.comparison import alternate, ratios, spread
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure, percent, times
from gptcli.report.bench.workers import SETTLE_SECONDS, unless_it_fails

Measured = Mapping[tuple[str, str], Sequence[Any]]
"""By server and part, what was measured in each round."""


def measure(request: SpeedRequest, options: BenchOptions, programs: Sequence[Program]) -> Outcome:
    """Measure gptcli's server, and the others in turn with it.

    Raises:
        UsageError: the model cannot be read, or its context is too short.
        BenchError: gptcli failed.
    """
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        model = prepare_model(request.choice, request.needed, Path(scratch) / "model")
        with serving(programs, model, options) as servers:
            contenders = {
                (name, what): contender(server, part)
                for what, part in parts(request, model).items()
                for name, server in servers.items()
            }
            with Progress("serve speed", options.rounds, unit="rounds") as progress:
                measured = alternate(contenders, options.rounds, lambda _: progress.update())
    names = [name for name in servers if all((name, what) in measured for what in parts(request, model))]
    results = {
        "model": request.choice.name,
        "parameters": model.model.parameter_count(),
        "context": model.context,
        "clients": request.clients,
        "prompt_tokens": request.prompt_tokens,
        "new_tokens": request.new_tokens,
        "beside": request.beside,
        "long_tokens": request.long_tokens,
        "chat_tokens": request.chat_tokens,
        "contenders": {name: summary(request, name, measured) for name in names},
    }
    return Outcome("serve speed", results, [table(results)])


def contender(server: Server, part: Part) -> Callable[[], Any]:
    """Return a function that measures a server in the next round; it returns None if a peer fails, with one line."""
    rounds = itertools.count()

    def run() -> Any:
        time.sleep(SETTLE_SECONDS)  # threads of the server before may spin
        number = next(rounds)
        return unless_it_fails(server.program.name == OURS, lambda: asyncio.run(part(server, number)))

    return run


def summary(request: SpeedRequest, name: str, measured: Measured) -> dict[str, Any]:
    """Return one server's figures: rates are medians over the rounds, times are those of all rounds together."""
    readings: Sequence[Reading] = measured[name, READING]
    turns: Sequence[Turns] = measured[name, CHAT]
    pooled = {
        which: [value for reading in readings for value in getattr(reading, which)]
        for which in ("alone", "beside", "long_first", "short_first")
    }
    return {
        "clients": {str(clients): speed_summary(name, str(clients), measured) for clients in request.clients},
        "reading": {which: times_summary(values) for which, values in pooled.items()},
        "chat": {
            "first": spread([one.first for one in turns]).report(),
            "second": spread([one.second for one in turns]).report(),
            "second_over_first": ratios([one.second for one in turns], [one.first for one in turns]).report(),
        },
    }


def speed_summary(name: str, clients: str, measured: Measured) -> dict[str, Any]:
    """Return a server's figures for a number of clients."""
    theirs: Sequence[Speed] = measured[name, clients]
    ours: Sequence[Speed] = measured[OURS, clients]
    pairs = [
        pair for mine, their in zip(ours, theirs, strict=True) for pair in zip(mine.texts, their.texts, strict=True)
    ]
    rates = [one.tokens_per_second for one in theirs]
    return {
        "tokens_per_second": spread(rates).report(),
        "ours_over_this": ratios([one.tokens_per_second for one in ours], rates).report(),
        "first_seconds": times_summary([seconds for one in theirs for seconds in one.first_seconds]),
        "same_texts": sum(mine == their for mine, their in pairs),
        "texts": len(pairs),
    }


def times_summary(values: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile of times, and how many there are; NaN of none."""
    return {"median": quantile(values, 0.5), "p95": quantile(values, 0.95), "count": len(values)}


def table(results: dict[str, Any]) -> Table:
    """Return the table of the results: a column for each server, and one for each comparison with it."""
    contenders = results["contenders"]
    others = [name for name in contenders if name != OURS]
    rows: list[list[str]] = []
    for clients in map(str, results["clients"]):
        found = {name: one["clients"][clients] for name, one in contenders.items()}
        who = f"{clients} client{'s' * (clients != '1')}"
        rates = [figure(one["tokens_per_second"]["median"]) for one in found.values()]
        rows.append([f"{who}: tokens/s", *rates, *(times(found[name]["ours_over_this"]) for name in others)])
        rows.append(
            [f"{who}: first token", *(pair(one["first_seconds"]) for one in found.values()), *[""] * len(others)]
        )
    reading = {name: one["reading"] for name, one in contenders.items()}
    for what, which in (
        ("between tokens, alone", "alone"),
        ("between tokens, beside a long prompt", "beside"),
        ("first token of a long prompt", "long_first"),
        ("first token of a short prompt beside it", "short_first"),
    ):
        rows.append([what, *(pair(one[which]) for one in reading.values()), *[""] * len(others)])
    shares = [f"{one['beside']['p95'] / one['alone']['p95']:.2f}x" for one in reading.values()]
    rows.append(["95th percentile beside over alone", *shares, *[""] * len(others)])
    chats = {name: one["chat"] for name, one in contenders.items()}
    for turn in ("first", "second"):
        values = [figure(one[turn]["median"], "s") for one in chats.values()]
        rows.append([f"first token of a chat, {turn} turn", *values, *[""] * len(others)])
    shares = [percent(one["second_over_first"]["median"]) for one in chats.values()]
    rows.append(["second turn over first", *shares, *[""] * len(others)])
    heading = (
        f"Servers: {results['model']} ({size(results['parameters'], '')} parameters, context {results['context']:,})"
    )
    return Table(heading, ("", *contenders, *(f"{OURS} over {name}" for name in others)), rows, notes(results))


def pair(values: dict[str, float]) -> str:
    """Return median and 95th percentile of times in milliseconds."""
    return f"{figure(1000 * values['median'])} / {figure(1000 * values['p95'], 'ms')}"


def notes(results: dict[str, Any]) -> list[str]:
    """Return what the figures are."""
    same = []
    for name, one in results["contenders"].items():
        texts, equal = (sum(found[what] for found in one["clients"].values()) for what in ("texts", "same_texts"))
        if name != OURS:
            same.append(f"{equal} of {texts} texts of {name} are those of {OURS}.")
    return [
        f"Greedy completions in streams, {results['prompt_tokens']} tokens of prompt and {results['new_tokens']} new "
        "ones, every prompt another text; fp32. Times are median / 95th percentile over all rounds, rates medians over "
        f"the rounds, ratios round by round. Beside: {results['beside']} clients read answers while a prompt of "
        f"{results['long_tokens']} tokens comes, together with a short one. Chat: {results['chat_tokens']:,} tokens of "
        "text, then the same with the answer and a question.",
        *same,
    ]
