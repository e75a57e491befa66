"""`gptcli tokenizer train | encode | decode | inspect`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.help_page import Command
from gptcli.cli.options import AsJson, ReadingAssignments, data_option, output_option
from gptcli.console import show

tokenizer_app = typer.Typer(help="Train, use and inspect a tokenizer.", no_args_is_help=True)

Reference = Annotated[
    str,
    typer.Argument(
        metavar="TOKENIZER",
        help="A run, a folder with tokenizer.json or with vocab.json and merges.txt, a tokenizer.json, or hf:NAME.",
    ),
]
tokenizer_option = partial(typer.Option, rich_help_panel="Tokenizer")


@tokenizer_app.command("train", cls=Command)
def train(
    corpus: Annotated[
        list[str], typer.Argument(help="Files, directories, globs, - (stdin), hf:NAME or python:stdlib.")
    ],
    out: Annotated[Path, output_option(metavar="DIR", help="Write the tokenizer to this folder.")],
    name: Annotated[Literal["char", "byte", "bpe"], tokenizer_option(help="Train this kind of tokenizer.")] = "bpe",
    vocab_size: Annotated[
        int | None,
        tokenizer_option(help="Limit a bpe tokenizer to this many tokens, counting 256 bytes and <|endoftext|>."),
    ] = None,
    min_frequency: Annotated[
        int | None, tokenizer_option(help="Merge only pairs that occur this often, in a bpe tokenizer.")
    ] = None,
    assignments: ReadingAssignments = None,
) -> None:
    """Train a tokenizer on a whole corpus.

    The folder of the tokenizer is printed.

    Examples:
        gptcli tokenizer train book.txt --out book-tokenizer
        gptcli tokenizer train book.txt --out book-tokenizer --vocab-size 2048
    """
    from gptcli.config import RawConfig, merge
    from gptcli.console import quantity, say
    from gptcli.data.corpus import corpus_documents
    from gptcli.data.reading_config import reading_config, reading_settings
    from gptcli.data.worker_pool import stop_by_signal
    from gptcli.errors import UsageError
    from gptcli.tokenizer.train import build_tokenizer

    sizes = {"vocab_size": vocab_size, "min_frequency": min_frequency}
    given = {key: value for key, value in sizes.items() if value is not None}
    chosen = RawConfig({"data": {"tokenizer": {"name": name, **given}}})
    config = reading_config(merge(reading_settings(assignments or []), chosen), {})
    if (out / "tokenizer.json").exists():
        raise UsageError(
            f"{out} already holds a tokenizer, and what was trained with it needs it", "choose another --out"
        )
    with stop_by_signal("nothing was written: run the same command again"):
        documents = corpus_documents(corpus, config)
        tokenizer = build_tokenizer(config.tokenizer, lambda: (document.text for document in documents))
    tokenizer.save(out)
    say(f"Saved a {tokenizer.name} tokenizer of {quantity(tokenizer.vocab_size, 'token')}.")
    print(out)


@tokenizer_app.command("encode", cls=Command)
def encode(
    tokenizer: Reference,
    text: Annotated[str | None, typer.Argument(help="The text; - reads standard input.")] = None,
    file: Annotated[Path | None, data_option(metavar="FILE", help="Read the text from this file; - is stdin.")] = None,
    allow_special: Annotated[
        bool, data_option("--allow-special", help='Encode "<|endoftext|>" and the like in the text as special tokens.')
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the token ids of a text.

    They are separated by spaces; --json also prints the text of every token.

    Examples:
        gptcli tokenizer encode runs/book "It was a dark night"
        gptcli tokenizer encode runs/book --file chapter.txt --json
    """
    from gptcli.tokenizer.source import open_tokenizer

    opened = open_tokenizer(tokenizer)
    ids = opened.encode(read_input(text, file), allow_special=allow_special)
    if as_json:
        show(strict_json.dumps({"ids": ids, "tokens": [opened.token_text(id) for id in ids]}, ensure_ascii=False))
    else:
        print(*ids)


@tokenizer_app.command("decode", cls=Command)
def decode(
    tokenizer: Reference,
    ids: Annotated[list[str], typer.Argument(help="Ids separated by spaces or commas; - reads standard input.")],
) -> None:
    """Print the text of token ids.

    The ids that `encode` prints for a text give the same text again, byte for byte.

    Examples:
        gptcli tokenizer decode runs/book 72 101 108
        gptcli tokenizer encode runs/book "It was" | gptcli tokenizer decode runs/book -
    """
    from gptcli.tokenizer.describe import parse_ids
    from gptcli.tokenizer.source import open_tokenizer

    opened = open_tokenizer(tokenizer)
    wanted = parse_ids(sys.stdin.read() if ids == ["-"] else " ".join(ids))
    opened.require_known(wanted)
    text = opened.decode(wanted)
    if sys.stdout.isatty():
        show(text)
    else:
        sys.stdout.buffer.write(text.encode())


@tokenizer_app.command("inspect", cls=Command)
def inspect(
    tokenizer: Reference,
    text: Annotated[str | None, data_option(help="Measure it on this text.")] = None,
    corpus: Annotated[Path | None, data_option(metavar="FILE", help="Measure it on this text file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the size and the notable tokens of a tokenizer.

    The special and the longest tokens are shown; with a text, the mean number of bytes per token too.

    Examples:
        gptcli tokenizer inspect runs/book
        gptcli tokenizer inspect hf:openai-community/gpt2 --corpus book.txt
    """
    from gptcli.tokenizer.describe import describe, for_people
    from gptcli.tokenizer.source import open_tokenizer

    opened = open_tokenizer(tokenizer)
    measured = None if text is None and corpus is None else read_input(text, corpus)
    description = describe(opened, measured)
    show(strict_json.dumps(description, ensure_ascii=False) if as_json else for_people(description))


def read_input(text: str | None, file: Path | None) -> str:
    """Return the text on the command line, in a file or on standard input, without any change to its line ends."""
    from gptcli.errors import DataError, UsageError
    from gptcli.storage import LARGE, read_at_most, read_named, storage_errors

    if text is not None and file is not None:
        raise UsageError("there is a text and a file", "give one of them")
    if text is None and file is None:
        raise UsageError("there is no text", "give it as an argument, by --file, or - for standard input")
    if text is not None and text != "-":
        return text
    source = Path("-") if file is None else file
    with storage_errors(source, "read"):
        content = read_at_most(sys.stdin.buffer, LARGE) if source == Path("-") else read_named(source)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{source} is not UTF-8 at byte {error.start}", "convert it to UTF-8") from error
