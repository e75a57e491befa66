"""The models of a server, by name."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from gptcli.interruptible import CallThread
from gptcli.nn.device import resident_memory_bytes
from gptcli.serve.chat_prompts import ChatPrompts
from gptcli.serve.metrics import Histogram, Metric, MetricKind, line
from gptcli.serve.model_facts import facts_of
from gptcli.serve.openai.errors import ApiError, model_not_found
from gptcli.serve.pool import TextPool
from gptcli.serve.worker import EngineWorker, Unavailable
from gptcli.session import Session

VALUES: tuple[tuple[MetricKind, str, str, Callable[[EngineWorker], int]], ...] = (
    (
        "counter",
        "gptcli_tokens_drawn_total",
        "Tokens that were generated.",
        lambda worker: worker.statistics.tokens_drawn,
    ),
    (
        "counter",
        "gptcli_tokens_read_total",
        "Tokens of prompts that were read.",
        lambda worker: worker.statistics.tokens_read,
    ),
    (
        "counter",
        "gptcli_tokens_cached_total",
        "Tokens of prompts that were not read, since the cache held them.",
        lambda worker: worker.statistics.tokens_cached,
    ),
    ("gauge", "gptcli_model_up", "Whether the engine of the model works.", lambda worker: int(worker.is_alive)),
    ("gauge", "gptcli_samples_under_way", "Samples that are generated or wait.", lambda worker: worker.under_way),
    ("gauge", "gptcli_samples_waiting", "Samples that wait for a slot.", lambda worker: worker.waiting),
    ("gauge", "gptcli_slots", "Samples that can be generated side by side.", lambda worker: worker.statistics.slots),
    ("gauge", "gptcli_slots_used", "Slots of samples that are generated.", lambda worker: worker.statistics.slots_used),
    ("gauge", "gptcli_cache_bytes", "Memory of all slots.", lambda worker: worker.statistics.cache_bytes),
)
HISTOGRAMS: tuple[tuple[str, str, Callable[[EngineWorker], Histogram]], ...] = (
    (
        "gptcli_time_to_first_token_seconds",
        "Time from the arrival of a sample to its first token.",
        lambda worker: worker.first_token_seconds,
    ),
    ("gptcli_inter_token_seconds", "Time between two tokens of a sample.", lambda worker: worker.token_seconds),
)
ENGINE_STOP_SECONDS = 5.0
"""Time in which an engine's step should end when the server stops."""


class ServedModel:
    """A model that is ready to answer.

    Whoever answers a request holds it until the end: a model that has been replaced is freed when the last has let go.

    Attributes:
        name: its name in the API.
        session: the model and its tokenizer.
        worker: its engine.
        chat: its chat template; None if it has none, and so answers no messages.
        pool: threads for work on texts.
        facts: what the model is, for the page.
        created: seconds since 1970 at which it was loaded.
    """

    def __init__(
        self, name: str, session: Session, worker: EngineWorker, chat: ChatPrompts | None, pool: TextPool
    ) -> None:
        self.name, self.session, self.worker, self.chat, self.pool = name, session, worker, chat, pool
        self.facts = facts_of(session, self.stop_ids).model_copy(update={"context": self.context})
        self.created = int(time.time())
        weakref.finalize(self, release, worker, chat)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text or an answer."""
        return self.session.stop_ids if self.chat is None else self.chat.stop_ids

    @property
    def context(self) -> int:
        """Most tokens of a sample that are read at once."""
        return self.worker.engine.context_length

    async def chat_ids(self, messages: list[Any], tools: list[Any] | None = None) -> list[int]:
        """Return the ids of a conversation up to where the assistant is to write.

        Raises:
            ApiError: the model has no chat template, or too many conversations wait.
            DataError: the template fails on the conversation, or the tokenizer cannot represent it.
        """
        chat = self.chat
        if chat is None:
            raise ApiError(400, f"the model {self.name} has no chat template, so it answers no messages", param="model")
        return await self.pool.run(lambda: chat.ids(messages, tools))


def release(worker: EngineWorker, chat: ChatPrompts | None) -> None:
    """Let the engine of a model end with its last request."""
    worker.retire()
    if chat is not None:
        chat.close()


class ModelTable:
    """The models of a server by name, in the order in which they were given. A model may still be loading.

    Attributes:
        names: the names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.ready: dict[str, ServedModel] = {}

    def get(self, name: str) -> ServedModel:
        """Return the model of this name.

        Raises:
            ApiError: there is none (404), or it is still loading (503).
        """
        if name not in self.names:
            raise model_not_found(name, self.names)
        served = self.ready.get(name)
        if served is None:
            raise Unavailable(f"the model {name} is loading")
        return served

    def put(self, served: ServedModel) -> None:
        """Serve a model from the next request on, in place of the one that had its name."""
        self.ready[served.name] = served

    def served(self) -> list[ServedModel]:
        """Return the models that are ready."""
        return [self.ready[name] for name in self.names if name in self.ready]

    def states(self) -> dict[str, str]:
        """Return the state of each model: `loading`, `ready` or `failed`."""
        return {name: self.state(name) for name in self.names}

    def state(self, name: str) -> str:
        """Return the state of a model."""
        if name in self.ready:
            return "ready" if self.ready[name].worker.is_alive else "failed"
        return "loading"

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the engines and of the process."""
        name = "process_resident_memory_bytes"
        resident = resident_memory_bytes(torch.device("cpu"))
        yield Metric(name, "gauge", "Memory of the process.", [line(name, {}, resident)])
        labelled = [({"model": served.name}, served.worker) for served in self.served()]
        for kind, name, text, value in VALUES:
            yield Metric(name, kind, text, [line(name, labels, value(worker)) for labels, worker in labelled])
        for name, text, histogram in HISTOGRAMS:
            found = [shown for labels, worker in labelled for shown in histogram(worker).lines(name, labels)]
            yield Metric(name, "histogram", text, found)

    def close(self) -> None:
        """End all engines. A step that does not end soon is left to the end of the process, which is then at once."""
        for served in self.served():
            served.worker.close()
        for served in self.served():
            if not served.worker.has_ended.wait(ENGINE_STOP_SECONDS):
                CallThread(served.worker.has_ended.wait)  # for which no end of the process waits (`exit_process`)
            if served.chat is not None:
                served.chat.close()
