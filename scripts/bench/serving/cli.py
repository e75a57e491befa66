"""The commands of `python scripts/bench serve`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from bench.serving import load as loading
from bench.serving import speed as speeds
from bench.serving.model import ModelChoice
from bench.serving.servers import OURS, choose_programs
from bench.serving.speed_parts import SpeedRequest
from gptcli.cli.bench import AsMarkdown, Rounds, Threads, bench_options, show_report
from gptcli.cli.options import AsJson, Assignments, Device
from gptcli.report.bench.options import BenchOptions, parse_list, positive_int
from gptcli.report.bench.report import Outcome, run_benches

PROGRAM = "python scripts/bench"

serve_app = typer.Typer(
    name="serve",
    help="Load the server with many clients, or compare its speed with that of others.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="A run or a Hugging Face directory, or a shape (a TOML file or a shipped name), which gets random weights "
        "and the context that is needed.",
    ),
]


@serve_app.command()
def load(
    model: Model = "demo",
    assignments: Assignments = None,
    clients: Annotated[int, typer.Option(min=1, max=20_000, help="Clients that connect at once.")] = 1000,
    leaving: Annotated[int, typer.Option(min=0, help="Clients that close the connection before the end.")] = 200,
    slow: Annotated[int, typer.Option(min=0, help="Clients that read slowly.")] = 100,
    longest: Annotated[int, typer.Option(min=8, help="Tokens of the longest prompts; the shortest have 8.")] = 900,
    minutes: Annotated[float, typer.Option(min=0, max=1440, help="Repeat it for so long, at least once.")] = 1.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Load the server with clients of all kinds, and see what it answers and what it holds afterwards."""
    request = loading.LoadRequest(
        ModelChoice(model, tuple(assignments or ())), clients, leaving, slow, longest=longest, minutes=minutes
    )
    options = bench_options(1, 0.0, threads, device)
    show_report(run_benches(options, [partial(loading.measure, request)], program=PROGRAM), as_markdown, as_json)


@serve_app.command()
def speed(
    model: Model = "demo",
    assignments: Assignments = None,
    clients: Annotated[str, typer.Option(metavar="C,C", help="Numbers of clients at the same time.")] = "1,8,32",
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompts.")] = 64,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of the answers.")] = 48,
    long_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt that is read beside answers.")] = 900,
    chat_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a chat before its second turn.")] = 2000,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=PYTHON]",
            help="transformers, transformers-batching or llama-cpp, and the Python that has it (default: this one); "
            "may be given several times.",
            show_default=False,
        ),
    ] = None,
    rounds: Rounds = 5,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare the server's speed, and the waits of its clients, with those of other servers."""
    request = SpeedRequest(
        choice=ModelChoice(model, tuple(assignments or ())),
        clients=parse_list(clients, positive_int, "--clients"),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        long_tokens=long_tokens,
        chat_tokens=chat_tokens,
    )
    programs = choose_programs(peer or ())
    versions = {name: program.version() for name, program in programs.items() if name != OURS}
    measure: Callable[[BenchOptions], Outcome] = partial(speeds.measure, request, programs=list(programs.values()))
    options = bench_options(rounds, 0.0, threads, device)
    show_report(run_benches(options, [measure], versions, PROGRAM), as_markdown, as_json)
