"""`gptcli chat`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from gptcli.cli.options import Checkpoint, Device, Model, Quantize, compute_option

chat_option = partial(typer.Option, rich_help_panel="Chat")
sampling_option = partial(typer.Option, rich_help_panel="Sampling")


def chat(
    run: Model,
    system: Annotated[
        str | None, chat_option(metavar="TEXT", help="Begin the conversation with this system message.")
    ] = None,
    load: Annotated[
        str | None, chat_option(metavar="FILE", help="Go on with the conversation that /save has written to FILE.")
    ] = None,
    checkpoint: Checkpoint = "best",
    quantize: Quantize = None,
    max_new_tokens: Annotated[int, sampling_option(help="Generate at most this many tokens per answer.")] = 500,
    temperature: Annotated[
        float, sampling_option(help="Divide the logits by this; 0 always takes the most likely token.")
    ] = 0.8,
    top_k: Annotated[int | None, sampling_option(metavar="K", help="Keep only the K most likely tokens.")] = None,
    top_p: Annotated[
        float | None,
        sampling_option(metavar="P", help="Keep only the most likely tokens whose probabilities sum to P."),
    ] = None,
    min_p: Annotated[
        float | None, sampling_option(metavar="P", help="Drop tokens whose probability is below P times the highest.")
    ] = None,
    repetition_penalty: Annotated[
        float, sampling_option(help="Make tokens of the text so far less likely, if above 1.")
    ] = 1.0,
    presence_penalty: Annotated[
        float, sampling_option(help="Subtract this from the logits of tokens that the answer has already.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, sampling_option(help="Subtract this once for each time that the answer has a token already.")
    ] = 0.0,
    stop: Annotated[
        list[str] | None,
        sampling_option(metavar="TEXT", help="End an answer before this text; may be given several times."),
    ] = None,
    seed: Annotated[int, sampling_option(help="Seed the random numbers; each further answer has the next seed.")] = 0,
    device: Device = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], compute_option(help="Compute in this number format; bf16 is faster on a GPU.")
    ] = "fp32",
    compile: Annotated[
        bool, compute_option("--compile", help="Compile the model first, which takes about a minute.")
    ] = False,
) -> None:
    """Talk with a model.

    A fine-tuned model answers messages by its own chat template; a base model continues a text. At a terminal, Ctrl-C
    stops an answer, Ctrl-D leaves, and /help lists the commands. From a pipe, each line is a message; the answers go to
    stdout, all else to stderr.

    Examples:
        gptcli chat runs/answers
        gptcli chat runs/answers --system "Answer in one sentence." --temperature 0.5
        gptcli chat runs/book --max-new-tokens 100
        gptcli chat runs/answers --load chat.jsonl
    """
    from gptcli.config import RawConfig, validate
    from gptcli.generate.config import SamplingParams

    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "stop": stop or [],
        "seed": seed,
    }
    params = validate(SamplingParams, RawConfig(settings))

    from gptcli.chat.loop import ChatOptions
    from gptcli.chat.loop import chat as chat_request
    from gptcli.session import ModelRequest

    model = ModelRequest(run, checkpoint, device, precision, quantize, compile)
    chat_request(ChatOptions(model, params, system, load))
