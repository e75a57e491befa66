"""`gptcli bench [limits | train | generate | data]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptcli.cli.options import MOST_TOKENS, AsJson, Assignments, Corpus
from gptcli.console import show

if TYPE_CHECKING:
    from gptcli.report.bench.decoding import DecodingRequest
    from gptcli.report.bench.everything import Bench
    from gptcli.report.bench.options import BenchOptions
    from gptcli.report.bench.report import Report

bench_app = typer.Typer(name="bench", invoke_without_command=True)

Rounds = Annotated[int, typer.Option(min=1, max=10_000, help="Number of rounds; medians are over the rounds.")]
Seconds = Annotated[float, typer.Option(min=0.01, max=86_400, help="Approximate duration of one round.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=10_000, help="Number of threads (default: all cores).", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]
Shape = Annotated[str, typer.Option(metavar="CONFIG", help="A TOML file with the shape, or the name of a shipped one.")]
BatchSize = Annotated[int, typer.Option(min=1, max=10**6, help="Sequences of a step.")]
SeqLen = Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a sequence.")]
CompileTraining = Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Number format of the computation; weights stay fp32.")
]
Model = Annotated[
    str, typer.Option(help="A model directory, or a TOML file or shipped name whose shape gets random weights.")
]
BatchSizes = Annotated[str, typer.Option(metavar="B,B", help="Numbers of prompts that are continued side by side.")]
Numbers = Annotated[str, typer.Option(metavar="N,N", help="Formats of the weights: fp32, bf16, int8.")]
PromptTokens = Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a prompt.")]
NewTokens = Annotated[int, typer.Option(min=2, max=MOST_TOKENS, help="Tokens generated for each prompt.")]
CompileDecoding = Annotated[bool, typer.Option("--compile", help="Also measure with the decoding step compiled.")]
Megabytes = Annotated[float, typer.Option(min=0.001, max=1e6, help="Size of the part of CORPUS that is read.")]
TokenizerOption = Annotated[
    str | None, typer.Option("--tokenizer", help="A run, a folder or a tokenizer.json (default: a BPE of the texts).")
]
VocabSize = Annotated[int, typer.Option(min=257, max=10**6, help="Entries of a tokenizer that is trained.")]


@bench_app.callback()
def bench(
    context: typer.Context,
    rounds: Rounds = 3,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure this machine's limits, and gptcli's speed against them.

    Without a COMMAND: all of them, in sizes that take a few minutes in all.
    """
    if context.invoked_subcommand is None:
        from gptcli.report.bench.everything import everything

        run(everything(), bench_options(rounds, 1.0, threads, device), as_markdown, as_json)
        return
    sources = map(context.get_parameter_source, context.params)
    if any(source and source.name == "COMMANDLINE" for source in sources):
        from gptcli.errors import UsageError

        raise UsageError(f"there are options before {context.invoked_subcommand}", "put them after it")


@bench_app.command()
def limits(
    rounds: Rounds = 5,
    seconds: Annotated[float, typer.Option(min=0.01, max=86_400, help="Duration of one figure in one round.")] = 0.2,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure matrix products, by number format and threads, and memory."""
    from gptcli.report.bench import limits

    run([limits.measure], bench_options(rounds, seconds, threads, device), as_markdown, as_json)


@bench_app.command()
def train(
    model: Shape = "gpt2-124m",
    assignments: Assignments = None,
    batch_size: BatchSize = 2,
    seq_len: SeqLen = 256,
    compile: CompileTraining = False,
    precision: Precision = "auto",
    rounds: Rounds = 5,
    seconds: Seconds = 5.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure training steps, in tokens a second and against the limit."""
    from functools import partial

    from gptcli.report.bench import training

    request = training.TrainingRequest(model, tuple(assignments or ()), batch_size, seq_len, compile, precision)
    options = bench_options(rounds, seconds, threads, device)
    run([partial(training.measure, request)], options, as_markdown, as_json)


@bench_app.command()
def generate(
    model: Model = "gpt2-124m",
    assignments: Assignments = None,
    batch_sizes: BatchSizes = "1,8",
    numbers: Numbers = "fp32,int8",
    prompt_tokens: PromptTokens = 16,
    new_tokens: NewTokens = 48,
    compile: CompileDecoding = False,
    rounds: Rounds = 5,
    seconds: Seconds = 2.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure generation, in tokens a second and against the memory's limit."""
    from functools import partial

    from gptcli.report.bench import decoding

    request = decoding_request(model, assignments, batch_sizes, numbers, prompt_tokens, new_tokens, compile)
    options = bench_options(rounds, seconds, threads, device)
    run([partial(decoding.measure, request)], options, as_markdown, as_json)


@bench_app.command()
def data(
    corpus: Corpus = None,
    megabytes: Megabytes = 8.0,
    tokenizer: TokenizerOption = None,
    vocab_size: VocabSize = 8192,
    rounds: Rounds = 5,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure the encoding of text in one thread (default: Python's library)."""
    from functools import partial

    from gptcli.report.bench import encoding

    request = encoding.EncodingRequest(tuple(corpus or ["python:stdlib"]), megabytes, tokenizer, vocab_size)
    run([partial(encoding.measure, request)], bench_options(rounds, 1.0, 1, "cpu"), as_markdown, as_json)


def decoding_request(
    model: str,
    assignments: list[str] | None,
    batch_sizes: str,
    numbers: str,
    prompt_tokens: int,
    new_tokens: int,
    compile: bool,
) -> DecodingRequest:
    """Return the request that the options of `generate` describe."""
    from gptcli.report.bench.decoding import DecodingRequest, number_format
    from gptcli.report.bench.options import parse_list, positive_int

    return DecodingRequest(
        model,
        tuple(assignments or ()),
        parse_list(batch_sizes, positive_int, "--batch-sizes"),
        parse_list(numbers, number_format, "--numbers"),
        prompt_tokens,
        new_tokens,
        compile,
    )


def bench_options(rounds: int, seconds: float, threads: int | None, device: str) -> BenchOptions:
    """Return the options that all benches share, with all cores if no number of threads is given."""
    from gptcli.report.bench.machine import available_cores
    from gptcli.report.bench.options import BenchOptions

    return BenchOptions(rounds, seconds, threads or available_cores(), device)


def run(benches: list[Bench], options: BenchOptions, as_markdown: bool, as_json: bool) -> None:
    """Run the benches and print their report."""
    from gptcli.report.bench.report import run_benches

    show_report(run_benches(options, benches), as_markdown, as_json)


def show_report(report: Report, as_markdown: bool, as_json: bool) -> None:
    """Print the report in the chosen form."""
    show(report.as_json() if as_json else report.as_markdown() if as_markdown else report.as_text())
