"""`gptcli generate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import Quantize


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

    stop = stop or []
    # Every setting of generation is an option of the same name.
    options = {name: value for name, value in locals().items() if name in GenerationConfig.model_fields}
    config = validate(GenerationConfig, RawConfig(options))
    prompts = read_prompts(prompt, prompt_file, whole_file=whole_file)

    import torch

    from gptcli.console import quantity, say
    from gptcli.generate.step import decoding_step
    from gptcli.generate.text import generate as generate_texts
    from gptcli.interop.load import load_model
    from gptcli.models.inference import for_generation
    from gptcli.nn.device import AUTOCAST_DTYPES, resolve_device
    from gptcli.storage import default_cache_dir

    where, dtype = resolve_device(device), AUTOCAST_DTYPES.get(precision, torch.float32)
    loaded = load_model(run, device=where, dtype=dtype, checkpoint=checkpoint)
    say(f"{loaded.source}, on {where} in {quantize or precision}{', compiled' if compile else ''}")
    model = for_generation(loaded.model, quantize, min(config.batch_size, len(prompts) * config.num_samples))
    step = decoding_step(model, default_cache_dir() if compile else None)
    with Printer(prompts, config, silent=as_json, separator=separator) as printer:
        result = generate_texts(model, loaded.tokenizer, prompts, config, printer.on_text, printer.on_completion, step)
    if as_json:
        print(strict_json.dumps(result.report(several=prompt_file is not None and not whole_file)))
    say(f"{quantity(result.token_count, 'token')}, {result.tokens_per_second:,.1f} tokens/s")
