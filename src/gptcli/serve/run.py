"""The process that serves models, from its socket to its end."""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.console import say
from gptcli.serve.access import NO_KEYS, ApiKeys
from gptcli.serve.app import create_app
from gptcli.serve.listener import address, listening, raise_descriptor_limit, warn_of_openness
from gptcli.serve.loading import ModelLoader, ModelSource
from gptcli.serve.models import ModelTable
from gptcli.serve.server import Server
from gptcli.serve.settings import ServeSettings

SPARE_DESCRIPTORS = 256
"""Open files besides the connections."""


def serve(
    sources: Sequence[ModelSource], settings: ServeSettings, keys: ApiKeys = NO_KEYS, *, is_watching: bool = False
) -> None:
    """Serve models until a signal asks for the end, and then until the requests under way have ended.

    Args:
        is_watching: whether the newest checkpoints of runs that are still training are served.

    Raises:
        UsageError: the address cannot be listened at.
        GptcliError: a model cannot be loaded.
    """
    raise_descriptor_limit(settings.max_connections + SPARE_DESCRIPTORS)
    with listening(settings) as listener:
        table = ModelTable([source.name for source in sources])
        server = Server(create_app(table, settings, keys), settings)
        loader = ModelLoader(table, sources, settings, is_watching, server.stop)
        say(f"listening at {address(listener)}")
        warn_of_openness(listener, keys)
        loader.start()
        try:
            server.run([listener])
        finally:
            loader.stop()
            table.close()
    if loader.error is not None:
        raise loader.error
