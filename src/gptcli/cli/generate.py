"""`gptcli generate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import AsJson, CacheDir, Checkpoint, Device, Model, Quantize, compute_option, output_option
from gptcli.console import quantity, say

if TYPE_CHECKING:
    from gptcli.report.copies import CopyFinder
    from gptcli.session import Session

prompt_option = partial(typer.Option, rich_help_panel="Prompt")
sampling_option = partial(typer.Option, rich_help_panel="Sampling")
grammar_option = partial(typer.Option, rich_help_panel="Form of the text")


def generate(
    run: Model,
    prompt: Annotated[
        str | None,
        typer.Argument(help="The text to continue; - reads it from stdin. Without it, a new document is generated."),
    ] = None,
    prompt_file: Annotated[
        str | None,
        prompt_option(
            metavar="FILE",
            help="Read one prompt from each line of FILE that is not blank; - is stdin. With --chat, "
            "the rows of a .json or .jsonl file are conversations, whose last answer is left out.",
        ),
    ] = None,
    whole_file: Annotated[
        bool, prompt_option("--whole-file", help="Read all of --prompt-file as one prompt of many lines.")
    ] = False,
    document_start: Annotated[
        bool, prompt_option("--document-start", help="Put the token that begins a document before each prompt.")
    ] = False,
    chat: Annotated[
        bool,
        prompt_option("--chat", help="Answer each prompt as a user's message, by the model's own chat template."),
    ] = False,
    system: Annotated[
        str | None, prompt_option(metavar="TEXT", help="Put this system message before each prompt of --chat.")
    ] = None,
    checkpoint: Checkpoint = "best",
    quantize: Quantize = None,
    max_new_tokens: Annotated[int, sampling_option(help="Generate at most this many tokens per sample.")] = 200,
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
        float, sampling_option(help="Make tokens that occur in the new text less likely, by this once.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, sampling_option(help="Make tokens that occur in the new text less likely, by this for each time.")
    ] = 0.0,
    logit_bias: Annotated[
        list[str] | None,
        sampling_option(metavar="ID=VALUE", help="Add VALUE to the logit of token ID; may be given several times."),
    ] = None,
    json_schema: Annotated[
        str | None,
        grammar_option(metavar="FILE", help="Generate JSON only that is valid by the JSON schema in FILE."),
    ] = None,
    regex: Annotated[
        str | None,
        grammar_option(metavar="PATTERN", help="Generate texts only that match PATTERN as a whole."),
    ] = None,
    grammar: Annotated[
        str | None,
        grammar_option(metavar="FILE", help="Generate texts only that match the grammar in FILE, written as for Lark."),
    ] = None,
    num_samples: Annotated[int, sampling_option(help="Generate this many samples per prompt.")] = 1,
    stop: Annotated[
        list[str] | None,
        sampling_option(metavar="TEXT", help="End a sample before this text; may be given several times."),
    ] = None,
    seed: Annotated[int, sampling_option(help="Seed the random numbers; sample I is drawn with seed + I.")] = 0,
    overflow: Annotated[
        Literal["slide", "stop"],
        sampling_option(help="When the context is full, continue with its last half (slide) or stop."),
    ] = "slide",
    speculate: Annotated[
        int,
        compute_option(
            metavar="N",
            help="Draft up to N tokens by looking up repeated text: the same samples, sooner if it repeats.",
        ),
    ] = 0,
    batch_size: Annotated[int, compute_option(help="Generate at most this many samples at the same time.")] = 32,
    device: Device = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], compute_option(help="Compute in this number format; bf16 is faster on a GPU.")
    ] = "fp32",
    compile: Annotated[
        bool, compute_option("--compile", help="Compile the model first, which takes about a minute.")
    ] = False,
    logprobs: Annotated[
        int | None,
        output_option(metavar="N", help="With --json, list the N most likely tokens in place of each token."),
    ] = None,
    check_copies: Annotated[
        bool,
        output_option(
            "--check-copies", help="Show which spans of the samples stand in the run's training text, and where."
        ),
    ] = False,
    cache_dir: CacheDir = None,
    separator: Annotated[
        str,
        output_option(
            metavar="TEXT", help="Print this line between samples where stdout is not a terminal; may be empty."
        ),
    ] = "---",
    as_json: AsJson = False,
) -> None:
    r"""Generate text, or answers to messages, from a model.

    Only the generated text is printed to stdout; the prompt and progress are printed to stderr. A terminal shows
    control characters of the text as \uXXXX; a file or a pipe gets the text byte for byte.

    Examples:
        gptcli generate runs/book "It was a dark night"
        gptcli generate runs/book "It was a dark night" --temperature 0.5 --num-samples 4
        gptcli generate runs/answers --chat "Who wrote Faust?"
        gptcli generate runs/book --prompt-file prompts.txt --json
    """
    from gptcli.config import RawConfig, validate
    from gptcli.errors import UsageError
    from gptcli.generate.biases import read_biases
    from gptcli.generate.chat_prompts import read_conversations
    from gptcli.generate.config import GenerationConfig
    from gptcli.generate.grammar_files import read_grammar
    from gptcli.generate.terminal import Printer, read_prompts

    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logit_bias": read_biases(logit_bias or []),
        "logprobs": logprobs,
        "stop": stop or [],
        "seed": seed,
        "num_samples": num_samples,
        "overflow": overflow,
        "speculate": speculate,
        "document_start": document_start,
        "batch_size": batch_size,
    }
    config = validate(GenerationConfig, RawConfig(settings))
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs has no effect on plain text", "add --json")
    source = read_grammar(json_schema, regex, grammar)
    if stop and source.kind != "any":
        raise UsageError(f"--stop would cut a text that must match {source.name}", "leave it out")
    if chat and document_start:
        raise UsageError("--document-start has no effect on --chat, whose template begins the text", "leave it out")
    if system is not None and not chat:
        raise UsageError("--system has no effect on a text", "leave it out, or add --chat")
    if chat:
        conversations = read_conversations(prompt, prompt_file, whole_file=whole_file, system=system)
        prompts = [f"{messages[-1]['content']}\n" for messages, _ in conversations]
    else:
        prompts = read_prompts(prompt, prompt_file, whole_file=whole_file)

    from gptcli.generate.listener import SILENT
    from gptcli.session import ModelRequest, open_session

    session = open_session(ModelRequest(run, checkpoint, device, precision, quantize, compile))
    checkers = [open_checker(session, cache_dir)] if check_copies else []
    with SILENT if as_json else Printer(prompts, config, separator) as listener:
        if chat:
            generation = session.chat(conversations, config, listener, source)
        else:
            if session.tokenizer.chat_template is not None:
                say("a text is continued; --chat answers it as a message")
            generation = session.generate(prompts, config, listener, source)
    report = generation.report(several=prompt_file is not None and not whole_file)
    for checker in checkers:
        copies = checker.check(generation)
        report = copies.added_to(report)
        if not as_json:
            say(copies.text())
    if as_json:
        print(strict_json.dumps(report))
    cut = sum(not completion.is_whole for prompt in generation.prompts for completion in prompt.completions)
    if cut:
        say(f"{quantity(cut, 'text')} cut before the end, so not valid by {source.name}; raise --max-new-tokens")
    say(f"{quantity(generation.token_count, 'token')}, {generation.tokens_per_second:,.1f} tokens/s")


def open_checker(session: Session, cache_dir: Path | None) -> CopyFinder:
    """Open the index of the text that the session's run was trained on."""
    from gptcli.report.copies import CopyFinder
    from gptcli.storage import default_cache_dir

    return CopyFinder.of(session, cache_dir or default_cache_dir())
