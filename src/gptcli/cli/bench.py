"""`gptcli bench [limits | train | generate | data]`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptcli.cli.help_page import Command, CommandGroup
from gptcli.cli.options import (
    MOST_TOKENS,
    AsJson,
    Assignments,
    Corpus,
    Device,
    compute_option,
    data_option,
    model_option,
    output_option,
)
from gptcli.console import show

if TYPE_CHECKING:
    from gptcli.report.bench.decoding import DecodingRequest
    from gptcli.report.bench.everything import Bench
    from gptcli.report.bench.options import BenchOptions
    from gptcli.report.bench.report import Report

bench_app = typer.Typer(name="bench", invoke_without_command=True, cls=CommandGroup)
rounds_option = partial(typer.Option, rich_help_panel="Rounds")

Rounds = Annotated[int, rounds_option(min=1, max=10_000, help="Measure in this many rounds, and show the medians.")]
Seconds = Annotated[float, rounds_option(min=0.01, max=86_400, help="Measure for about this long in each round.")]
Threads = Annotated[int | None, compute_option(min=1, max=10_000, help="Use this many threads (default: all cores).")]
AsMarkdown = Annotated[bool, output_option("--markdown", help="Print the tables as Markdown.")]
Shape = Annotated[
    str, model_option(metavar="CONFIG", help="Train a model of this shape: a TOML file or a shipped name.")
]
BatchSize = Annotated[int, data_option(min=1, max=10**6, help="Train on this many sequences per step.")]
SeqLen = Annotated[int, data_option(min=1, max=MOST_TOKENS, help="Train on sequences of this many tokens.")]
CompileTraining = Annotated[bool, compute_option("--compile", help="Compile the model with torch.compile.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"], compute_option(help="Compute in this number format; weights stay fp32.")
]
ModelOrShape = Annotated[
    str, model_option(help="Use this model directory, or random weights of the shape of a TOML file or a shipped name.")
]
BatchSizes = Annotated[str, data_option(metavar="B,B", help="Continue these numbers of prompts at the same time.")]
Numbers = Annotated[str, model_option(metavar="N,N", help="Store the weights in these formats: fp32, bf16, int8.")]
PromptTokens = Annotated[int, data_option(min=1, max=MOST_TOKENS, help="Use prompts of this many tokens.")]
NewTokens = Annotated[int, data_option(min=2, max=MOST_TOKENS, help="Generate this many tokens for each prompt.")]
CompileDecoding = Annotated[bool, compute_option("--compile", help="Also measure with the decoding step compiled.")]
Megabytes = Annotated[float, data_option(min=0.001, max=1e6, help="Read this many megabytes of CORPUS.")]
TokenizerOption = Annotated[
    str | None,
    data_option(
        "--tokenizer", help="Encode with the tokenizer of a run, a folder or a file (default: a BPE of the texts)."
    ),
]
VocabSize = Annotated[int, data_option(min=257, max=10**6, help="Train a tokenizer of this many entries.")]


@bench_app.callback()
def bench(
    context: typer.Context,
    rounds: Rounds = 3,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure this machine's limits, and the speed of gptcli.

    Without a COMMAND, all of them are measured, in sizes that take a few minutes in all.

    Examples:
        gptcli bench
        gptcli bench --rounds 1 --markdown
        gptcli bench train --model gpt2-124m --batch-size 8
    """
    if context.invoked_subcommand is None:
        from gptcli.report.bench.everything import everything

        run(everything(), bench_options(rounds, 1.0, threads, device), as_markdown, as_json)
        return
    sources = map(context.get_parameter_source, context.params)
    if any(source and source.name == "COMMANDLINE" for source in sources):
        from gptcli.errors import UsageError

        raise UsageError(f"there are options before {context.invoked_subcommand}", "put them after it")


@bench_app.command(cls=Command)
def limits(
    rounds: Rounds = 5,
    seconds: Annotated[
        float, rounds_option(min=0.01, max=86_400, help="Measure each figure for this long in each round.")
    ] = 0.2,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure the rates of matrix products and of the memory.

    Matrix products are measured by number format and number of threads.

    Examples:
        gptcli bench limits
        gptcli bench limits --device cuda --rounds 2
    """
    from gptcli.report.bench import limits

    run([limits.measure], bench_options(rounds, seconds, threads, device), as_markdown, as_json)


@bench_app.command(cls=Command)
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
    """Measure the speed of training steps.

    It is shown in tokens per second, and as a share of the machine's rate of matrix products.

    Examples:
        gptcli bench train
        gptcli bench train --model fast-1m --batch-size 16 --seq-len 64
        gptcli bench train --device cuda --compile --batch-size 16 --seq-len 1024
    """
    from gptcli.report.bench import training

    request = training.TrainingRequest(model, tuple(assignments or ()), batch_size, seq_len, compile, precision)
    options = bench_options(rounds, seconds, threads, device)
    run([partial(training.measure, request)], options, as_markdown, as_json)


@bench_app.command(cls=Command)
def generate(
    model: ModelOrShape = "gpt2-124m",
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
    """Measure the speed of generation.

    It is shown in tokens per second, and as a share of the rate that the memory's bandwidth allows.

    Examples:
        gptcli bench generate
        gptcli bench generate --model runs/book --batch-sizes 1 --numbers int8
    """
    from gptcli.report.bench import decoding

    request = decoding_request(model, assignments, batch_sizes, numbers, prompt_tokens, new_tokens, compile)
    options = bench_options(rounds, seconds, threads, device)
    run([partial(decoding.measure, request)], options, as_markdown, as_json)


@bench_app.command(cls=Command)
def data(
    corpus: Corpus = None,
    megabytes: Megabytes = 8.0,
    tokenizer: TokenizerOption = None,
    vocab_size: VocabSize = 8192,
    rounds: Rounds = 5,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure the speed of encoding text in one thread.

    Without CORPUS, the source of Python's standard library is encoded.

    Examples:
        gptcli bench data
        gptcli bench data book.txt --tokenizer runs/book --megabytes 1
    """
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
    from gptcli.manifest import usable_cores
    from gptcli.report.bench.options import BenchOptions

    return BenchOptions(rounds, seconds, threads or usable_cores(), device)


def run(benches: list[Bench], options: BenchOptions, as_markdown: bool, as_json: bool) -> None:
    """Run the benches and print their report."""
    from gptcli.report.bench.report import run_benches

    show_report(run_benches(options, benches), as_markdown, as_json)


def show_report(report: Report, as_markdown: bool, as_json: bool) -> None:
    """Print the report in the chosen form."""
    show(report.as_json() if as_json else report.as_markdown() if as_markdown else report.as_text())
