"""What is measured of each server in a round: its speed, the reading of long prompts, and a chat's second turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from bench.serving.client import Answer, ask
from bench.serving.gaps import Window, gaps
from bench.serving.model import ModelChoice, ServedModel
from bench.serving.servers import Server
from gptcli.report.bench.workers import BenchError

SHORT_TOKENS, QUESTION_TOKENS, ANSWER_TOKENS = 16, 16, 16
SPARE_TOKENS = 64
"""Tokens by which a text may be longer than asked for, since it is cut in the middle of words."""
BESIDE_PIECES = 16
"""Pieces that the first of the others has got before a long prompt comes."""
PAUSE_SECONDS = 0.1
READING, CHAT = "reading", "chat"


@dataclass(frozen=True)
class SpeedRequest:
    """A model, and the requests to measure with."""

    choice: ModelChoice
    clients: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 64
    new_tokens: int = 48
    least_requests: int = 8
    """Requests of each measurement of the speed; clients that are fewer ask several, one after the other."""
    beside: int = 4
    """Clients that read answers while long prompts come."""
    beside_tokens: int = 240
    long_prompts: int = 3
    long_tokens: int = 900
    chat_tokens: int = 2000

    @property
    def needed(self) -> int:
        """The context that the requests need."""
        chat = self.chat_tokens + ANSWER_TOKENS + QUESTION_TOKENS
        beside = self.prompt_tokens + max(self.beside_tokens, self.new_tokens)
        return max(self.long_tokens, chat, beside) + ANSWER_TOKENS + SPARE_TOKENS


class Speed(NamedTuple):
    """Tokens a second, the seconds to the first piece of each answer, and the texts."""

    tokens_per_second: float
    first_seconds: list[float]
    texts: list[str]


@dataclass
class Reading:
    """Times while long prompts are read beside other answers, in seconds.

    Attributes:
        alone: between two pieces of the others before and after.
        beside: the same while a long prompt is read.
        long_first: to the first piece after a long prompt.
        short_first: to the first piece after a short prompt that comes together with a long one.
    """

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    long_first: list[float] = field(default_factory=list)
    short_first: list[float] = field(default_factory=list)


class Turns(NamedTuple):
    """Seconds to the first piece of the first and of the second answer of a chat."""

    first: float
    second: float


Part = Callable[[Server, int], Coroutine[Any, Any, Any]]


def parts(request: SpeedRequest, model: ServedModel) -> dict[str, Part]:
    """Return what is measured by name: functions of the server and the number of the round, which sets the texts."""
    speeds = {str(clients): partial(measure_speed, request, model, clients) for clients in request.clients}
    reading, turns = partial(measure_reading, request, model), partial(measure_turns, request, model)
    return speeds | {READING: reading, CHAT: turns}


async def measure_speed(request: SpeedRequest, model: ServedModel, clients: int, server: Server, number: int) -> Speed:
    """Let so many clients ask for greedy completions at the same time, each of a text of its own."""
    each = -(-request.least_requests // clients)
    prompts = [model.text(request.prompt_tokens, 1000 * number + place) for place in range(clients * each)]

    async def client(place: int) -> list[Answer]:
        mine = prompts[place * each : (place + 1) * each]
        return [await whole(server, prompt, request.new_tokens) for prompt in mine]

    began = time.perf_counter()
    answers = [answer for found in await asyncio.gather(*map(client, range(clients))) for answer in found]
    seconds = time.perf_counter() - began
    tokens = sum(answer.tokens for answer in answers)
    return Speed(tokens / seconds, [answer.first_seconds for answer in answers], [answer.text for answer in answers])


async def measure_reading(request: SpeedRequest, model: ServedModel, server: Server, number: int) -> Reading:
    """Send long prompts, each with a short one, while other answers are generated."""
    seed = 1000 * number + 500
    others, found, windows = [Answer() for _ in range(request.beside)], Reading(), list[Window]()
    tasks = [
        asyncio.create_task(whole(server, model.text(request.prompt_tokens, seed + i), request.beside_tokens, other))
        for i, other in enumerate(others)
    ]
    while max(len(other.times) for other in others) < BESIDE_PIECES and not all(task.done() for task in tasks):
        await asyncio.sleep(0.001)
    for place in range(request.long_prompts):
        if all(task.done() for task in tasks):
            break
        long, short = model.text(request.long_tokens, seed + 100 + place), model.text(SHORT_TOKENS, seed + 200 + place)
        began = time.perf_counter()
        first, beside = await asyncio.gather(whole(server, long, 1), whole(server, short, 1))
        windows.append(Window(began, first.times[0]))
        found.long_first.append(first.first_seconds)
        found.short_first.append(beside.first_seconds)
        await asyncio.sleep(PAUSE_SECONDS)
    await asyncio.gather(*tasks)
    for other in others:
        outside, inside = gaps(other.times, windows)
        found.alone += outside
        found.beside += inside
    return found


async def measure_turns(request: SpeedRequest, model: ServedModel, server: Server, number: int) -> Turns:
    """Answer a long text, and then the same with its answer and a question."""
    seed = 1000 * number + 900
    text = model.text(request.chat_tokens, seed)
    first = await whole(server, text, ANSWER_TOKENS)
    second = await whole(server, text + first.text + model.text(QUESTION_TOKENS, seed + 1), ANSWER_TOKENS)
    return Turns(first.first_seconds, second.first_seconds)


async def whole(server: Server, prompt: str, max_tokens: int, answer: Answer | None = None) -> Answer:
    """Return the answer to a prompt.

    Args:
        answer: an empty one to fill, for whoever watches it grow.

    Raises:
        BenchError: there was an error, or no text.
    """
    found = await ask(server.port, server.body(prompt, max_tokens), answer=answer)
    if not found.is_whole or not found.times:
        raise BenchError(f"{server.program.name} failed: {found.error or f'status {found.status}, no text'}")
    return found
