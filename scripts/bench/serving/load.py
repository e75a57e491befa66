"""`serve load`: many clients at once, some of which read slowly or leave, and what is left of them afterwards."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.serving.client import HOST, PROMPT, Answer, Manner, ask
from bench.serving.model import ModelChoice, ServedModel, prepare_model
from bench.serving.servers import OURS, PROGRAMS, Server, serving
from gptcli.console import Progress, say, size
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure
from gptcli.report.bench.workers import BenchError
from gptcli.serve.listener import raise_descriptor_limit

SPARE_DESCRIPTORS = 256
MOST_TRIES = 100
"""Requests of one client that may be answered with 429 before it gives up."""
MOST_READS = 200
"""Readings of the memory that are reported."""
READ_SECONDS = 0.5
RELEASE_SECONDS = 10.0
"""Time in which slots must be free after their clients have gone."""
ABANDONED, ABANDONED_TOKENS = 32, 10_000
MOST_NEW_TOKENS = 48


@dataclass(frozen=True)
class LoadRequest:
    """A model and its clients.

    A wave of clients, all of which connect at once, is repeated until `minutes` have passed, at least once.
    """

    choice: ModelChoice
    clients: int = 1000
    leaving: int = 200
    slow: int = 100
    different: int = 200
    """Different requests, each of which is asked alone beforehand."""
    shortest: int = 8
    longest: int = 900
    """Tokens of the prompts, at most what the context of a directory allows."""
    minutes: float = 1.0


class Client(NamedTuple):
    """One client of a wave: its request's number, how it reads, and whether it asks for a stream."""

    number: int
    manner: Manner
    is_streamed: bool


@dataclass
class Counts:
    """What became of the requests of all waves."""

    answered: int = 0
    compared_wrong: int = 0
    """Answers that are not those of the same requests alone."""
    left: int = 0
    refused: int = 0
    """Answers of 429; the client asks again after the time that it was told."""
    gave_up: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def measure(request: LoadRequest, options: BenchOptions) -> Outcome:
    """Load a server, and report what it answered, its memory over time, and what it holds afterwards.

    Raises:
        UsageError: the model cannot be read or is too small.
        BenchError: the server does not start, or ends.
    """
    raise_descriptor_limit(request.clients + SPARE_DESCRIPTORS)
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        folder = Path(scratch)
        is_own = Path(request.choice.model).is_dir()
        model = prepare_model(request.choice, 2 * MOST_NEW_TOKENS if is_own else needed(request), folder / "model")
        bodies = make_bodies(request, model)
        with serving([PROGRAMS[OURS]], model, options) as servers:
            server = servers[OURS]
            alone = asyncio.run(ask_alone(server, bodies))
            found = asyncio.run(load(request, server, bodies, alone))
            found["release_seconds"] = asyncio.run(abandon(server, model))
            found["after"] = metrics(server)
            found["status"] = server.stop()
    results = {
        "model": request.choice.name,
        "parameters": model.model.parameter_count(),
        "context": model.context,
        "clients": request.clients,
        "leaving": request.leaving,
        "slow": request.slow,
        "prompt_characters": [min(map(prompt_length, bodies)), max(map(prompt_length, bodies))],
    } | found
    return Outcome("serve load", results, [table(results)])


def needed(request: LoadRequest) -> int:
    """Return the context that the requests need."""
    return request.longest + 2 * MOST_NEW_TOKENS


def prompt_length(body: dict[str, Any]) -> int:
    """Return the characters of a request's prompt."""
    return len(body["prompt"])


def make_bodies(request: LoadRequest, model: ServedModel) -> list[dict[str, Any]]:
    """Return the different requests: lengths of prompts and answers, temperatures and seeds are mixed."""
    draw = random.Random(1)
    longest = min(request.longest, model.context - 2 * MOST_NEW_TOKENS)
    return [
        {
            "prompt": model.text(draw.randint(min(request.shortest, longest), longest), number),
            "max_tokens": draw.randint(1, MOST_NEW_TOKENS),
            "temperature": draw.choice((0.0, 0.8, 1.0)),
            "top_p": draw.choice((1.0, 0.9)),
            "seed": number,
        }
        for number in range(request.different)
    ]


async def ask_alone(server: Server, bodies: Sequence[dict[str, Any]]) -> list[Answer]:
    """Return the answers of the requests, asked one after the other."""
    say(f"asking {len(bodies)} requests alone")
    return [await ask(server.port, body) for body in bodies]


async def load(
    request: LoadRequest, server: Server, bodies: Sequence[dict[str, Any]], alone: Sequence[Answer]
) -> dict[str, Any]:
    """Send waves of clients until the time is over, and return the counts and the memory."""
    draw, counts, memory, began = random.Random(2), Counts(), list[tuple[float, int]](), time.perf_counter()
    reading = asyncio.create_task(read_memory(server, memory, began))
    at_first, waves, still_used = server.resident_bytes(), list[dict[str, float]](), 0
    with Progress("serve load", unit="waves") as progress:
        while not waves or time.perf_counter() - began < 60 * request.minutes:
            start = time.perf_counter()
            await asyncio.gather(
                *(follow(client, server, bodies, alone, counts) for client in clients_of(request, draw))
            )
            seconds = time.perf_counter() - start
            waves.append({"seconds": round(seconds, 2), "resident_bytes": server.resident_bytes()})
            still_used += await release(server) is None
            progress.update(1, answered=f"{counts.answered:,}")
    reading.cancel()
    step = max(1, len(memory) // MOST_READS)
    return {
        "waves": waves,
        "seconds": round(time.perf_counter() - began, 1),
        "requests": request.clients * len(waves),
        "answered": counts.answered,
        "different_answers": counts.compared_wrong,
        "left": counts.left,
        "answers_429": counts.refused,
        "gave_up": counts.gave_up,
        "errors": dict(counts.errors),
        "alone_failed": sum(not answer.is_whole for answer in alone),
        "waves_with_slots_in_use": still_used,
        "resident_bytes": {
            "before": at_first,
            "after_first_wave": waves[0]["resident_bytes"],
            "after_last_wave": waves[-1]["resident_bytes"],
            "peak": max(bytes_read for _, bytes_read in memory),
            "series": [[round(at, 1), bytes_read] for at, bytes_read in memory[::step]],
        },
    }


def clients_of(request: LoadRequest, draw: random.Random) -> list[Client]:
    """Return the clients of a wave in a random order: those that leave, those that are slow, and the others."""
    leaving = [Manner(leaves_after=draw.choice((0, 0, 1, 2, 5))) for _ in range(request.leaving)]
    slow = [Manner(pause=draw.uniform(0.02, 0.2)) for _ in range(request.slow)]
    manners = [*leaving, *slow, *[PROMPT] * max(0, request.clients - len(leaving) - len(slow))][: request.clients]
    draw.shuffle(manners)
    return [
        Client(draw.randrange(request.different), manner, manner is not PROMPT or draw.random() < 0.5)
        for manner in manners
    ]


async def follow(
    client: Client, server: Server, bodies: Sequence[dict[str, Any]], alone: Sequence[Answer], counts: Counts
) -> None:
    """Send a client's request, again after each 429, and count what became of it."""
    body = bodies[client.number] | {"stream": client.is_streamed}
    for _ in range(MOST_TRIES):
        answer = await ask(server.port, body, client.manner)
        if answer.status != 429:
            break
        counts.refused += 1
        await asyncio.sleep(answer.retry_after * random.uniform(0.5, 1.5))
    expected = alone[client.number]
    if answer.status == 429:
        counts.gave_up += 1
    elif answer.has_left:
        counts.left += 1
    elif not answer.is_whole:
        counts.errors[f"{answer.status}: {answer.error or 'no end'}"] += 1
    else:
        counts.answered += 1
        is_same = (answer.text, answer.finish_reason) == (expected.text, expected.finish_reason)
        counts.compared_wrong += not is_same


async def read_memory(server: Server, memory: list[tuple[float, int]], began: float) -> None:
    """Read the memory of a server again and again."""
    while True:
        memory.append((time.perf_counter() - began, server.resident_bytes()))
        await asyncio.sleep(READ_SECONDS)


async def abandon(server: Server, model: ServedModel) -> float | None:
    """Return the seconds until slots are free whose clients all leave at once in the middle of long answers."""
    ends = {} if model.tokenizer.eos_id is None else {model.tokenizer.eos_id: -100}
    fields = {"overflow": "slide", "temperature": 1.0, "logit_bias": ends}
    bodies = [
        server.body(model.text(16, number), ABANDONED_TOKENS, seed=number, **fields) for number in range(ABANDONED)
    ]
    answers = [Answer() for _ in bodies]
    tasks = [
        asyncio.create_task(ask(server.port, body, answer=answer)) for body, answer in zip(bodies, answers, strict=True)
    ]
    while any(not answer.times for answer in answers) and not all(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return await release(server)


async def release(server: Server) -> float | None:
    """Return the seconds until no sample is under way and no slot in use, or None if that does not come."""
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < RELEASE_SECONDS:
        if not any((await asyncio.to_thread(metrics, server)).values()):
            return seconds
        await asyncio.sleep(0.005)
    return None


def metrics(server: Server) -> dict[str, float]:
    """Return what a server says that it holds for requests.

    Raises:
        BenchError: it does not answer.
    """
    try:
        with urllib.request.urlopen(f"http://{HOST}:{server.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        raise BenchError(f"{OURS} does not answer any more: {error}; {server.said()}") from None
    names = ("gptcli_samples_under_way", "gptcli_samples_waiting", "gptcli_slots_used")
    values = {line.partition("{")[0]: float(line.split()[-1]) for line in lines if line.startswith(names)}
    return {name: values[name] for name in names}


def table(results: dict[str, Any]) -> Table:
    """Return the table of the results."""
    memory, seconds = results["resident_bytes"], results["release_seconds"]
    errors = "; ".join(f"{count} x {text}" for text, count in results["errors"].items()) or "none"
    rows = [
        ("requests", f"{results['requests']:,} in {len(results['waves'])} waves, {results['seconds']:.0f} s"),
        ("answered whole", f"{results['answered']:,}"),
        ("of these, other texts than alone", f"{results['different_answers']:,}"),
        ("left by their clients", f"{results['left']:,}"),
        ("answers of 429, asked again", f"{results['answers_429']:,}"),
        ("given up after 429", f"{results['gave_up']:,}"),
        ("errors", errors),
        ("waves after which a slot stayed in use", f"{results['waves_with_slots_in_use']}"),
        (f"{ABANDONED} answers abandoned at once: free after", figure(seconds, "s")),
        ("memory before", size(memory["before"])),
        ("after the first wave", size(memory["after_first_wave"])),
        ("after the last wave", size(memory["after_last_wave"])),
        ("highest", size(memory["peak"])),
        ("exit code after SIGTERM", f"{results['status']}"),
    ]
    heading = (
        f"Load: {results['model']} ({size(results['parameters'], '')} parameters), {results['clients']:,} clients at "
        f"once, of which {results['leaving']} leave and {results['slow']} read slowly"
    )
    low, high = results["prompt_characters"]
    notes = [
        f"Prompts of {low:,} to {high:,} characters, answers of 1 to {MOST_NEW_TOKENS} tokens, greedy and drawn by "
        "seed, half of them in a stream. Memory: RSS of the server."
    ]
    return Table(heading, ("", OURS), rows, notes)
