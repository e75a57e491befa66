"""Loading of models in the background, while the server already answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gptcli.console import quantity, say, shell_word
from gptcli.errors import GptcliError, UsageError
from gptcli.generate.config import EngineConfig
from gptcli.generate.engine import Engine
from gptcli.interop.base_reference import HUB_PREFIX
from gptcli.interop.load import is_model
from gptcli.interruptible import CallThread
from gptcli.nn.device import machine_memory_bytes, resolve_device
from gptcli.serve.chat_prompts import ChatPrompts
from gptcli.serve.models import ModelTable, ServedModel
from gptcli.serve.pool import TextPool
from gptcli.serve.settings import ServeSettings
from gptcli.serve.sharing import share_weights, shares_its_base
from gptcli.serve.watching import WatchedRun
from gptcli.serve.worker import EngineWorker, WorkerLimits
from gptcli.session import ModelRequest, Session, open_session

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}")
NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._/:@+-]+")


class ModelSource(NamedTuple):
    """A model to serve: its name in the API, and where it is."""

    name: str
    request: ModelRequest


def read_source(argument: str, request: ModelRequest) -> ModelSource:
    """Return the source of an argument, NAME=RUN or RUN; it is opened as `request` says.

    Raises:
        UsageError: the name cannot be one.
    """
    name, equals, path = argument.partition("=")
    if not equals or is_directory(argument):
        path = argument
        name = NOT_IN_A_NAME.sub("-", default_name(argument)).strip("-./") or "model"
    if not NAME.fullmatch(name) or not path:
        raise UsageError(
            f"{argument!r} does not name a model", "write RUN or NAME=RUN, with letters, digits and ._/:@+- in the name"
        )
    return ModelSource(name, replace(request, path=path))


def is_directory(path: str) -> bool:
    """Return whether there is a model at a path, which may be no path at all."""
    try:
        return is_model(Path(path))
    except OSError:
        return False


def default_name(path: str) -> str:
    """Return the name of a model that was given none: that of its directory or on the hub."""
    return path.removeprefix(HUB_PREFIX) if path.startswith(HUB_PREFIX) else Path(path).absolute().resolve().name


def read_sources(arguments: Sequence[str], request: ModelRequest) -> list[ModelSource]:
    """Return the sources of the arguments.

    Raises:
        UsageError: a name cannot be one, or two models have the same.
    """
    sources = [read_source(argument, request) for argument in arguments]
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        path = shell_word(sources[names.index(twice)].request.path)
        raise UsageError(f"two models have the name {twice}", f"give one another name: OTHER={path}")
    return sources


class ModelLoader:
    """Opens models one after the other on a thread of its own, and puts them into the table.

    Args:
        is_watching: whether newer checkpoints of the runs are looked for from then on.
        on_failure: what to do when a model cannot be loaded.
    """

    def __init__(
        self,
        table: ModelTable,
        sources: Sequence[ModelSource],
        settings: ServeSettings,
        is_watching: bool,
        on_failure: Callable[[], None],
    ) -> None:
        self.table, self.sources, self.settings, self.on_failure = table, sources, settings, on_failure
        self.watched = [(source.name, WatchedRun(source.request)) for source in sources] if is_watching else []
        self.pool = TextPool()
        self.error: BaseException | None = None
        self.is_stopped = threading.Event()

    def start(self) -> None:
        """Begin to load."""
        CallThread(self.run)

    def stop(self) -> None:
        """Load no further model."""
        self.is_stopped.set()
        self.pool.close()

    def run(self) -> None:
        """Load every model, and then newer ones; what the thread does."""
        try:
            if self.watched:
                self.watch()
            else:
                for source in self.sources:
                    if not self.is_stopped.is_set():
                        self.put(source.name, self.session_of(source))
        except BaseException as error:
            self.error = error
            self.on_failure()

    def session_of(self, source: ModelSource) -> Session:
        """Open a model; of adapters over one base, the weights of the base are in memory once, in fp32 on a CPU."""
        request, others = source.request, [other.request.path for other in self.sources if other is not source]
        is_plain = request.precision == "fp32" and not request.quantize and not request.compile
        is_plain = is_plain and resolve_device(request.device).type == "cpu"
        if not is_plain or not shares_its_base(request.path, others):
            return open_session(request)
        session = open_session(replace(request, device="cpu", merge=False))
        share_weights(session.model, [served.session.model for served in self.table.served()])
        return session

    def watch(self) -> None:
        """Look for newer checkpoints until the server stops."""
        while True:
            for name, run in self.watched:
                try:
                    session = run.newer()
                    if session is not None:
                        self.put(name, session)
                except GptcliError as error:
                    if name not in self.table.ready:
                        raise
                    say(f"warning: {error}; {name} stays at the checkpoint before")
            if self.is_stopped.wait(self.settings.watch_seconds):
                return

    def put(self, name: str, session: Session) -> None:
        """Serve a model with an engine and its chat template from now on."""
        settings = self.settings
        memory = machine_memory_bytes(session.model.embedding.weight.device) // 2 // len(self.sources)
        engine = session.engine(EngineConfig(rows=settings.slots, cache_bytes=memory, context=settings.context))
        chat = None if session.tokenizer.chat_template is None else ChatPrompts(session)
        limits = WorkerLimits(engine.statistics.slots, settings.queue, settings.request_seconds)
        self.table.put(ServedModel(name, session, EngineWorker(engine, limits), chat, self.pool))
        say(f"ready: {name}{few_slots(engine, settings)}")


def few_slots(engine: Engine, settings: ServeSettings) -> str:
    """Return how many samples fit in memory, if these are fewer than are allowed."""
    slots = engine.statistics.slots
    if slots >= settings.slots:
        return ""
    fit = quantity(slots, "sample")
    return f" ({fit} of {engine.context_length:,} tokens at a time: more fit in memory with a smaller --context)"
