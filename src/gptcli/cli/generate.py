"""`gptcli generate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import Quantize
from gptcli.console import quantity, say


def generate(
    run: Annotated[str, typer.Argument(help="A run, a Hugging Face model directory, or hf:NAME.", show_default=False)],
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to continue; - reads it from stdin. Without it, the text begins a document."),
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read one prompt from each line of FILE, without blank lines; - is stdin."),
    ] = None,
    whole_file: Annotated[
        bool, typer.Option("--whole-file", help="Read all of --prompt-file as one prompt of many lines.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a sample at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 is greedy, 1 the model's own distribution.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the K most likely tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that sum to P only.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Leave out what is below this part of the likeliest.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages repetition.")] = 1.0,
    num_samples: Annotated[int, typer.Option(help="Samples for each prompt.")] = 1,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Sample I is drawn with seed + I and can be had again alone.")] = 0,
    overflow: Annotated[
        Literal["slide", "stop"], typer.Option(help="When the context is full: keep its last half and go on, or stop.")
    ] = "slide",
    speculate: Annotated[
        int, typer.Option(metavar="N", help="Guess up to N tokens from what the text repeats: the same text, sooner.")
    ] = 0,
    document_start: Annotated[
        bool, typer.Option("--document-start", help="Read each prompt as the beginning of a document.")
    ] = False,
    separator: Annotated[
        str, typer.Option(metavar="TEXT", help="The line between samples where stdout is not a terminal; may be empty.")
    ] = "---",
    batch_size: Annotated[int, typer.Option(help="Samples generated side by side at most.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Numbers to compute in; bf16 is faster on a GPU.")
    ] = "fp32",
    quantize: Quantize = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model first: a minute or so, for long generations.")
    ] = False,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when all is done.")] = False,
) -> None:
    """Generate text. Stdout has the generated text and nothing else; the prompt and the talk go to stderr.

    A terminal shows control characters of the text as \\uXXXX; a file or a pipe gets the text byte for byte."""
    from gptcli.config import RawConfig, validate
    from gptcli.generate.config import GenerationConfig
    from gptcli.generate.terminal import Printer, read_prompts

    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or [],
        "seed": seed,
        "num_samples": num_samples,
        "overflow": overflow,
        "speculate": speculate,
        "document_start": document_start,
        "batch_size": batch_size,
    }
    config = validate(GenerationConfig, RawConfig(settings))
    prompts = read_prompts(prompt, prompt_file, whole_file=whole_file)

    from gptcli.generate.listener import SILENT
    from gptcli.session import ModelRequest, open_session

    session = open_session(ModelRequest(run, checkpoint, device, precision, quantize, compile))
    with SILENT if as_json else Printer(prompts, config, separator) as listener:
        generation = session.generate(prompts, config, listener)
    if as_json:
        print(strict_json.dumps(generation.report(several=prompt_file is not None and not whole_file)))
    say(f"{quantity(generation.token_count, 'token')}, {generation.tokens_per_second:,.1f} tokens/s")
