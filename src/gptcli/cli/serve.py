"""`gptcli serve`."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli.cli.options import Checkpoint, Device, Quantize, compute_option, model_option

server_option = partial(typer.Option, rich_help_panel="Server")
access_option = partial(typer.Option, rich_help_panel="Access")
limit_option = partial(typer.Option, rich_help_panel="Limits")


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Runs, Hugging Face model directories or hf:NAME; NAME=RUN gives one another name."
        ),
    ],
    host: Annotated[str, server_option(help="Listen at this address; 0.0.0.0 is every one of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, server_option(help="Listen at this port; 0 takes one that is free.")] = 8000,
    unix_socket: Annotated[
        str | None, server_option(metavar="PATH", help="Listen at this Unix socket instead of a port.")
    ] = None,
    log: Annotated[
        Literal["none", "requests", "prompts"],
        server_option(help="Write a line for each request to stderr, or the line and the body, or nothing."),
    ] = "requests",
    api_key_file: Annotated[
        Path | None,
        access_option(metavar="FILE", help="Require one of the API keys in FILE, one a line (or $GPTCLI_API_KEY)."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        access_option(metavar="NAME", help="Answer to this name too; needed for names if there is no API key."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        access_option(metavar="ORIGIN", help="Let web pages of this origin call the server; * is every page."),
    ] = None,
    slots: Annotated[int, limit_option(help="Generate at most this many samples of a model side by side.")] = 32,
    queue: Annotated[int, limit_option(help="Let at most this many samples of a model wait.")] = 256,
    context: Annotated[
        int | None, limit_option(help="Read at most this many tokens at once; with fewer, more samples fit in memory.")
    ] = None,
    request_seconds: Annotated[float, limit_option(help="End a request that takes longer than this.")] = 600,
    drain_seconds: Annotated[
        float, limit_option(help="Give requests under way this long to end after SIGTERM or Ctrl-C.")
    ] = 30,
    checkpoint: Checkpoint = "best",
    watch: Annotated[
        bool, model_option("--watch", help="Serve the newest checkpoint of runs that are still training.")
    ] = False,
    quantize: Quantize = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], compute_option(help="Compute in this number format; bf16 is faster on a GPU.")
    ] = "fp32",
    compile: Annotated[
        bool, compute_option("--compile", help="Compile the models first, which takes about a minute each.")
    ] = False,
) -> None:
    """Serve models over HTTP by OpenAI's API, with a page.

    The server listens at http://127.0.0.1:8000 and answers programs of this machine only, unless --host says otherwise.

    Examples:
        gptcli serve runs/book
        gptcli serve runs/answers small=runs/small --port 9000
        gptcli serve runs/answers --host 0.0.0.0 --api-key-file keys.txt
    """
    from gptcli.config import RawConfig, validate
    from gptcli.errors import UsageError, missing_extra
    from gptcli.serve.settings import ServeSettings

    settings = validate(
        ServeSettings,
        RawConfig(
            {
                "host": host,
                "port": port,
                "unix_socket": unix_socket,
                "log": log,
                "allowed_hosts": allow_host or [],
                "cors_origins": cors or [],
                "slots": slots,
                "queue": queue,
                "context": context,
                "request_seconds": request_seconds,
                "drain_seconds": drain_seconds,
            }
        ),
    )
    if watch and checkpoint != "best":
        raise UsageError("--watch serves the newest checkpoint", "leave out --checkpoint, or --watch")
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise missing_extra(package, "serve", "gptcli serve")
    from gptcli.serve.access import read_keys

    keys = read_keys(api_key_file)

    from gptcli.serve.loading import read_sources
    from gptcli.serve.run import serve as serve_models
    from gptcli.session import ModelRequest

    sources = read_sources(runs, ModelRequest("", checkpoint, device, precision, quantize, compile))
    serve_models(sources, settings, keys, is_watching=watch)
