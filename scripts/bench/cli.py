"""The commands of `python scripts/bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench import deadline as deadlines
from bench import learning, preparing
from bench import startup as starting
from bench.peers import choose_peers, versions_of
from bench.picture import check_picture
from bench.serving.cli import serve_app
from gptcli.cli.bench import (
    AsMarkdown,
    BatchSize,
    BatchSizes,
    CompileDecoding,
    CompileTraining,
    Megabytes,
    ModelOrShape,
    NewTokens,
    Numbers,
    Precision,
    PromptTokens,
    Rounds,
    Seconds,
    SeqLen,
    Shape,
    Threads,
    TokenizerOption,
    VocabSize,
    bench_options,
    decoding_request,
    show_report,
)
from gptcli.cli.options import MOST, AsJson, Assignments, Corpus, Device
from gptcli.models.adapter_config import LoraConfig
from gptcli.report.bench import decoding, encoding, training
from gptcli.report.bench.options import BenchOptions, parse_list, positive_int, positive_number
from gptcli.report.bench.report import Outcome, Report, run_benches

PROGRAM = "python scripts/bench"

app = typer.Typer(
    name=PROGRAM,
    help="Compare gptcli with other programs, in turn and in one run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(serve_app)

Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="NAME[=PATH]",
        help="transformers, peft, litgpt, nanogpt=CHECKOUT, ctranslate2, llama-cpp, tokenizers or tiktoken; may be "
        "given several times (default: those installed).",
        show_default=False,
    ),
]
Seeds = Annotated[str, typer.Option(metavar="S,S", help="Each contender runs once for each seed.")]


@app.command()
def train(
    model: Shape = "gpt2-124m",
    assignments: Assignments = None,
    batch_size: BatchSize = 2,
    seq_len: SeqLen = 256,
    compile: CompileTraining = False,
    precision: Precision = "auto",
    peer: Peers = None,
    rounds: Rounds = 5,
    seconds: Seconds = 5.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare training steps, in tokens a second."""
    request = training.TrainingRequest(model, tuple(assignments or ()), batch_size, seq_len, compile, precision)
    options = bench_options(rounds, seconds, threads, device)
    show_report(race("train", partial(training.measure, request), options, peer), as_markdown, as_json)


@app.command()
def finetune(
    model: Shape = "llama-42m",
    assignments: Assignments = None,
    rank: Annotated[int, typer.Option(min=1, max=4096, help="The rank of the adapters of all matrices.")] = 16,
    batch_size: BatchSize = 4,
    seq_len: SeqLen = 512,
    precision: Precision = "auto",
    peer: Peers = None,
    rounds: Rounds = 5,
    seconds: Seconds = 5.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare training steps of LoRA on a base with random weights, in tokens a second."""
    shape, adapter = tuple(assignments or ()), LoraConfig(rank=rank, alpha=2.0 * rank)
    request = training.TrainingRequest(model, shape, batch_size, seq_len, precision=precision, adapter=adapter)
    options = bench_options(rounds, seconds, threads, device)
    show_report(race("finetune", partial(training.measure, request), options, peer), as_markdown, as_json)


@app.command()
def generate(
    model: ModelOrShape = "gpt2-124m",
    assignments: Assignments = None,
    batch_sizes: BatchSizes = "1,8",
    numbers: Numbers = "fp32,int8",
    prompt_tokens: PromptTokens = 16,
    new_tokens: NewTokens = 48,
    compile: CompileDecoding = False,
    peer: Peers = None,
    rounds: Rounds = 5,
    seconds: Seconds = 2.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare generation, in tokens a second."""
    request = decoding_request(model, assignments, batch_sizes, numbers, prompt_tokens, new_tokens, compile)
    options = bench_options(rounds, seconds, threads, device)
    show_report(race("generate", partial(decoding.measure, request), options, peer), as_markdown, as_json)


@app.command()
def data(
    corpus: Corpus = None,
    megabytes: Megabytes = 8.0,
    tokenizer: TokenizerOption = None,
    vocab_size: VocabSize = 8192,
    peer: Peers = None,
    rounds: Rounds = 5,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare the encoding of text in one thread, and check that the ids are equal (default: Python's library)."""
    request = encoding.EncodingRequest(tuple(corpus or ["python:stdlib"]), megabytes, tokenizer, vocab_size)
    options = bench_options(rounds, 1.0, 1, "cpu")
    show_report(race("data", partial(encoding.measure, request), options, peer), as_markdown, as_json)


@app.command()
def learn(
    corpus: Corpus = None,
    ours: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]CONFIG",
            help="How gptcli trains: a TOML file or a shipped name; may be given several times (default: the "
            "zero-config rule).",
        ),
    ] = None,
    assignments: Assignments = None,
    peer: Peers = None,
    nanogpt_args: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]ARGS",
            help="Arguments of nanoGPT's train.py; may be given several times (default: its README's for this kind "
            "of device).",
        ),
    ] = None,
    targets: Annotated[str, typer.Option(metavar="L,L", help="Losses in nats a character.")] = "1.88,1.70,1.61",
    seeds: Seeds = "1,2,3",
    eval_every: Annotated[
        int,
        typer.Option(min=1, max=MOST, help="Steps between two measurements, unless a contender sets them."),
    ] = 100,
    picture: Annotated[
        Path | None, typer.Option(help="Draw loss against seconds into this .svg or .png.", show_default=False)
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare the seconds until given validation losses, over characters, on the corpus's last tenth."""
    if picture:
        check_picture(picture)
    request = learning.LearningRequest(
        corpus=tuple(corpus or ()),
        ours=tuple(map(learning.parse_ours, ours or ())) or (("gptcli", ()),),
        assignments=tuple(assignments or ()),
        nanogpt=tuple(map(learning.parse_arguments, nanogpt_args or ())),
        targets=parse_list(targets, positive_number, "--targets"),
        seeds=parse_list(seeds, positive_int, "--seeds"),
        eval_every=eval_every,
        picture=picture,
    )
    options = bench_options(len(request.seeds), 0.0, threads, device)
    show_report(race("learn", partial(learning.measure, request), options, peer), as_markdown, as_json)


@app.command()
def deadline(
    corpus: Corpus = None,
    minutes: Annotated[str, typer.Option(metavar="M,M", help="Time of each whole run.")] = "1,5,15",
    peer: Peers = None,
    nanogpt_args: Annotated[
        str | None,
        typer.Option(
            metavar="ARGS",
            help="Arguments of nanoGPT's train.py (default: its README's for this kind of device).",
            show_default=False,
        ),
    ] = None,
    gpt2_vocab: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder with GPT-2's vocab.json and merges.txt: nanoGPT is measured with these tokens as well.",
            show_default=False,
        ),
    ] = None,
    without_characters: Annotated[
        bool, typer.Option("--without-characters", help="Measure nanoGPT with GPT-2's tokens alone.")
    ] = False,
    seeds: Seeds = "1",
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare bits per byte on each corpus's last tenth after so many minutes: gptcli, nanoGPT and xz."""
    request = deadlines.DeadlineRequest(
        corpora=tuple(corpus or ()),
        minutes=parse_list(minutes, positive_number, "--minutes"),
        seeds=parse_list(seeds, positive_int, "--seeds"),
        gpt2_vocab=gpt2_vocab,
        without_characters=without_characters,
        nanogpt=nanogpt_args,
    )
    options = bench_options(len(request.seeds), 0.0, threads, device)
    show_report(race("deadline", partial(deadlines.measure, request), options, peer), as_markdown, as_json)


@app.command()
def prepare(
    corpus: Corpus = None,
    gigabytes: Annotated[float, typer.Option(min=0.001, max=1e6, help="Size of the corpus that is made.")] = 2.0,
    megabytes: Megabytes = 10.0,
    rounds: Rounds = 3,
    threads: Threads = None,
    without_kill: Annotated[bool, typer.Option("--without-kill", help="Kill and resume no preparation.")] = False,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare the preparation of a large corpus with `tokenizers` alone, and measure its memory.

    The corpus is made of CORPUS (default: Python's library), with other words in each copy.
    """
    texts = tuple(corpus or ["python:stdlib"])
    request = preparing.PreparingRequest(texts, gigabytes, megabytes, is_killed=not without_kill)
    options = bench_options(rounds, 0.0, threads, "cpu")
    report = run_benches(options, [partial(preparing.measure, request)], program=PROGRAM)
    show_report(report, as_markdown, as_json)


@app.command()
def startup(
    rounds: Rounds = 10, device: Device = "auto", as_markdown: AsMarkdown = False, as_json: AsJson = False
) -> None:
    """Compare the seconds until the help, and until generated text, with importing torch."""
    options = bench_options(rounds, 0.0, None, device)
    show_report(run_benches(options, [starting.measure], program=PROGRAM), as_markdown, as_json)


def race(bench: str, measure: Callable[..., Outcome], options: BenchOptions, wanted: Sequence[str] | None) -> Report:
    """Run a bench with the `wanted` peers, or with those that are installed."""
    peers = choose_peers(wanted or (), bench)
    return run_benches(options, [lambda resolved: measure(resolved, peers)], versions_of(peers), PROGRAM)
