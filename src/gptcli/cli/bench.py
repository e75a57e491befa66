"""`gptcli bench [limits | train | learn | deadline | generate | data | prepare | startup]`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptcli.cli.options import MOST, MOST_TOKENS, AsJson, Assignments, Corpus
from gptcli.console import show

if TYPE_CHECKING:
    from gptcli.report.bench.publish import Outcome, Report
    from gptcli.report.bench.setting import Setting

bench_app = typer.Typer(name="bench", invoke_without_command=True)

Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="NAME[=PATH]",
        help="transformers, litgpt, nanogpt=CHECKOUT, ctranslate2, tokenizers or tiktoken; may be given several times "
        "(default: those installed).",
        show_default=False,
    ),
]
Rounds = Annotated[
    int, typer.Option(min=1, max=10_000, help="How often every contender plays; medians are over the rounds.")
]
Seconds = Annotated[float, typer.Option(min=0.01, max=86_400, help="How long a contender plays about in one round.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, help="Threads of every contender (default: all cores).", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]


@bench_app.callback()
def bench(
    context: typer.Context,
    peer: Peers = None,
    rounds: Rounds = 3,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Measure this machine's limits, and gptcli against other programs, in turn and in one run.

    Without a COMMAND: limits, train, generate, data and startup, in sizes that take a few minutes in all.
    """
    if context.invoked_subcommand is None:
        from gptcli.report.bench.everything import everything
        from gptcli.report.bench.publish import hold

        benches, peers = everything(peer or ())
        show_report(hold(setting(rounds, 1.0, threads, device), benches, peers), as_markdown, as_json)
        return
    given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]
    if given:
        from gptcli.errors import UsageError

        raise UsageError(f"there are options before {context.invoked_subcommand}", "put them after it")


@bench_app.command()
def limits(
    rounds: Rounds = 5,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=86_400, help="How long one figure is measured in one round.")
    ] = 0.2,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """How fast this machine multiplies matrices, by number format and threads, and how fast it reads memory."""
    from gptcli.report.bench import limits
    from gptcli.report.bench.publish import hold

    show_report(hold(setting(rounds, seconds, threads, device), [limits.measure]), as_markdown, as_json)


@bench_app.command()
def train(
    model: Annotated[
        str, typer.Option(metavar="CONFIG", help="A TOML file with the shape, or the name of a shipped one.")
    ] = "gpt2-124m",
    assignments: Assignments = None,
    batch_size: Annotated[int, typer.Option(min=1, max=10**6, help="Sequences of a step.")] = 2,
    seq_len: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a sequence.")] = 256,
    compile: Annotated[bool, typer.Option("--compile", help="Compile every contender with torch.compile.")] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Numbers to compute in; weights stay fp32.")
    ] = "auto",
    peer: Peers = None,
    rounds: Rounds = 5,
    seconds: Seconds = 5.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Tokens a second of whole training steps, and how much of the matrix products' rate that is."""
    from gptcli.report.bench import training

    request = training.TrainingRequest(model, tuple(assignments or ()), batch_size, seq_len, compile, precision)
    report = contest("train", training.measure, request, peer, setting(rounds, seconds, threads, device))
    show_report(report, as_markdown, as_json)


@bench_app.command()
def generate(
    model: Annotated[
        str, typer.Option(help="A model directory, or a TOML file or shipped name whose shape gets random weights.")
    ] = "gpt2-124m",
    assignments: Assignments = None,
    batch_sizes: Annotated[str, typer.Option(metavar="B,B", help="Prompts that are continued side by side.")] = "1,8",
    numbers: Annotated[
        str, typer.Option(metavar="N,N", help="What weights are kept in: of fp32, bf16 and int8.")
    ] = "fp32,int8",
    prompt_tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a prompt.")] = 16,
    new_tokens: Annotated[
        int, typer.Option(min=2, max=MOST_TOKENS, help="Tokens that every prompt is continued by.")
    ] = 48,
    compile: Annotated[bool, typer.Option("--compile", help="Let ours take part compiled as well.")] = False,
    peer: Peers = None,
    rounds: Rounds = 5,
    seconds: Seconds = 2.0,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Generated tokens a second, and how much of what the memory's bandwidth allows that is."""
    from gptcli.report.bench import decoding
    from gptcli.report.bench.setting import parse_list, positive_int

    request = decoding.DecodingRequest(
        model,
        tuple(assignments or ()),
        parse_list(batch_sizes, positive_int, "--batch-sizes"),
        parse_list(numbers, decoding.number_format, "--numbers"),
        prompt_tokens,
        new_tokens,
        compile,
    )
    report = contest("generate", decoding.measure, request, peer, setting(rounds, seconds, threads, device))
    show_report(report, as_markdown, as_json)


@bench_app.command()
def learn(
    corpus: Corpus = None,
    ours: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]CONFIG",
            help="How ours trains: a TOML file or a shipped name; several compete (default: the zero-config rule).",
        ),
    ] = None,
    assignments: Assignments = None,
    peer: Peers = None,
    nanogpt_args: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]ARGS",
            help="Arguments of nanoGPT's train.py; several compete (default: its README's for this kind of device).",
        ),
    ] = None,
    targets: Annotated[str, typer.Option(metavar="L,L", help="Losses in nats a character.")] = "1.88,1.70,1.61",
    seeds: Annotated[str, typer.Option(metavar="S,S", help="One run of every contender for each.")] = "1,2,3",
    eval_every: Annotated[
        int, typer.Option(min=1, max=MOST, help="Steps between two measurements; a contender's own settings win.")
    ] = 100,
    picture: Annotated[
        Path | None, typer.Option(help="Draw loss against seconds into this .svg or .png.", show_default=False)
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Seconds of training to given validation losses, over characters, the last tenth of the corpus to validate."""
    from gptcli.report.bench import learning
    from gptcli.report.bench.picture import check_picture
    from gptcli.report.bench.setting import parse_list, positive_int

    if picture:
        check_picture(picture)
    request = learning.LearningRequest(
        corpus=tuple(corpus or ()),
        ours=tuple(map(learning.parse_ours, ours or ())) or (("gptcli", ()),),
        assignments=tuple(assignments or ()),
        nanogpt=tuple(map(learning.parse_arguments, nanogpt_args or ())),
        targets=parse_list(targets, learning.loss_target, "--targets"),
        seeds=parse_list(seeds, positive_int, "--seeds"),
        eval_every=eval_every,
        picture=picture,
    )
    report = contest("learn", learning.measure, request, peer, setting(len(request.seeds), 0.0, threads, device))
    show_report(report, as_markdown, as_json)


@bench_app.command()
def deadline(
    corpus: Corpus = None,
    minutes: Annotated[str, typer.Option(metavar="M,M", help="How long each run may take, everything included.")] = (
        "1,5,15"
    ),
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
            help="A folder with GPT-2's vocab.json and merges.txt: nanoGPT takes part with these tokens as well.",
            show_default=False,
        ),
    ] = None,
    without_characters: Annotated[
        bool, typer.Option("--without-characters", help="nanoGPT takes part with GPT-2's tokens alone.")
    ] = False,
    seeds: Annotated[str, typer.Option(metavar="S,S", help="One run of every contender for each.")] = "1",
    threads: Threads = None,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Bits per byte of each corpus's last tenth when the time is over: ours, nanoGPT's and what xz makes of it."""
    from gptcli.report.bench import deadline
    from gptcli.report.bench.setting import parse_list, positive_int

    request = deadline.DeadlineRequest(
        corpora=tuple(corpus or ()),
        minutes=parse_list(minutes, deadline.minutes_of, "--minutes"),
        seeds=parse_list(seeds, positive_int, "--seeds"),
        gpt2_vocab=gpt2_vocab,
        without_characters=without_characters,
        nanogpt=nanogpt_args,
    )
    report = contest("deadline", deadline.measure, request, peer, setting(len(request.seeds), 0.0, threads, device))
    show_report(report, as_markdown, as_json)


@bench_app.command()
def data(
    corpus: Corpus = None,
    megabytes: Annotated[float, typer.Option(min=0.001, max=1e6, help="So much of the corpus is taken.")] = 8.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="A run, a folder or a tokenizer.json (default: a BPE learnt from the texts).")
    ] = None,
    vocab_size: Annotated[int, typer.Option(min=257, max=10**6, help="Entries of a tokenizer that is learnt.")] = 8192,
    peer: Peers = None,
    rounds: Rounds = 5,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Text encoded a second in one thread, and whether the ids are the same (default: the standard library)."""
    from gptcli.report.bench import encoding

    request = encoding.EncodingRequest(tuple(corpus or ["python:stdlib"]), megabytes, tokenizer, vocab_size)
    report = contest("data", encoding.measure, request, peer, setting(rounds, 1.0, 1, "cpu"))
    show_report(report, as_markdown, as_json)


@bench_app.command()
def prepare(
    corpus: Corpus = None,
    gigabytes: Annotated[float, typer.Option(min=0.001, max=1e6, help="How large the corpus is made.")] = 2.0,
    megabytes: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="So much of CORPUS is taken to make it of.")
    ] = 10.0,
    rounds: Rounds = 3,
    threads: Threads = None,
    without_kill: Annotated[bool, typer.Option("--without-kill", help="Do not kill it once and go on.")] = False,
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """A large corpus made ready for training, beside `tokenizers` alone; and its memory (default: made of the standard
    library, with other words in each copy)."""
    from functools import partial

    from gptcli.report.bench import preparing
    from gptcli.report.bench.publish import hold

    request = preparing.PreparingRequest(
        tuple(corpus or ["python:stdlib"]), gigabytes, megabytes, is_killed=not without_kill
    )
    show_report(hold(setting(rounds, 0.0, threads, "cpu"), [partial(preparing.measure, request)]), as_markdown, as_json)


@bench_app.command()
def startup(
    rounds: Rounds = 10,
    device: Device = "auto",
    as_markdown: AsMarkdown = False,
    as_json: AsJson = False,
) -> None:
    """Seconds to the help, and to the first token of generated text, beside those of importing torch."""
    from gptcli.report.bench import startup
    from gptcli.report.bench.publish import hold

    show_report(hold(setting(rounds, 0.0, None, device), [startup.measure]), as_markdown, as_json)


def contest(
    bench: str, measure: Callable[..., Outcome], request: object, wanted: list[str] | None, chosen: Setting
) -> Report:
    """Hold a bench in which the peers that are `wanted` take part, or those that are installed."""
    from functools import partial

    from gptcli.report.bench.peers import choose_peers
    from gptcli.report.bench.publish import hold

    peers = choose_peers(wanted or (), bench)
    return hold(chosen, [partial(measure, request, peers)], peers)


def setting(rounds: int, seconds: float, threads: int | None, device: str) -> Setting:
    from gptcli.report.bench.machine import available_cores
    from gptcli.report.bench.setting import Setting

    return Setting(rounds, seconds, threads or available_cores(), device)


def show_report(report: Report, as_markdown: bool, as_json: bool) -> None:
    """Print the report in the form that is asked for."""
    show(report.as_json() if as_json else report.as_markdown() if as_markdown else report.as_text())
