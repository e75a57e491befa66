"""`gptcli data prepare|inspect|conversations`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptcli import strict_json
from gptcli.cli.hints import Verb
from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles, Corpus, data_option, output_option
from gptcli.console import has_colours, show, show_coloured

if TYPE_CHECKING:
    from gptcli.data.config import DataSettings

IN_LOSS, DIM = 32, 2
"""Green and faint, as numbers of ANSI's SGR."""

data_app = typer.Typer(name="data", help="Prepare a corpus for training, and inspect its tokens.", no_args_is_help=True)


def data_settings(corpus: list[str], configs: list[str], assignments: list[str]) -> DataSettings:
    """Return `data` and `seed` of the config files, over which the --set values and then CORPUS take precedence."""
    from gptcli.config import RawConfig, merge, validate
    from gptcli.config.load import with_origin
    from gptcli.config.shipped import read_settings
    from gptcli.data.config import DataSettings
    from gptcli.errors import UsageError

    files = read_settings(configs, ())
    known = {key: value for key, value in files.values.items() if key in DataSettings.model_fields}
    user = read_settings((), assignments, RawConfig(known, files.origins))
    given = {"data": {"corpus": corpus}} if corpus else {}
    settings = validate(DataSettings, merge(user, with_origin(given, "CORPUS")))
    if not settings.data.corpus and not settings.data.mix:
        raise UsageError("no corpus is named", "name one: gptcli data prepare book.txt")
    return settings


@data_app.command(cls=Verb)
def prepare(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    workers: Annotated[
        int,
        data_option(
            min=0, max=10_000, help="Prepare a large corpus with this many processes; 0 is one per core, at most 6."
        ),
    ] = 0,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Read, split and encode a corpus for training.

    The tokens are kept in the cache, from which training reads them. A large corpus is prepared in parts by several
    processes; if that is stopped or killed, the same command continues after the finished parts.

    Examples:
        gptcli data prepare book.txt
        gptcli data prepare texts/ --workers 4 --set data.tokenizer.vocab_size=8192
    """
    settings = data_settings(corpus or [], config or [], assignments or [])
    from gptcli.data.inspect import prepare, report_lines
    from gptcli.storage import default_cache_dir

    report = prepare(settings, cache_dir or default_cache_dir(), workers)
    show(strict_json.dumps(report) if as_json else "\n".join(report_lines(report)))


@data_app.command(cls=Verb)
def inspect(
    corpus: Annotated[
        list[str],
        typer.Argument(metavar="CORPUS_OR_CACHE", help="A corpus, or directories of prepared tokens (RUN/val)."),
    ],
    config: ConfigFiles = None,
    assignments: Assignments = None,
    cache_dir: CacheDir = None,
    windows: Annotated[
        int, output_option("--windows", "-n", min=0, max=10_000, help="Show this many windows, or examples, as text.")
    ] = 3,
    model: Annotated[
        str | None,
        data_option(metavar="BASE", help="Show examples as BASE would learn them: the tokens in the loss, and counts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the tokens of a corpus as text, and verify them.

    With --model the corpus is one of examples, such as conversations. The tokens in the loss are coloured, or between
    \u27e6 and \u27e7 where there are no colours.

    Examples:
        gptcli data inspect book.txt
        gptcli data inspect runs/book/val --windows 10
        gptcli data inspect chats.jsonl --model runs/book
    """
    from gptcli.storage import default_cache_dir

    cache_dir = cache_dir or default_cache_dir()
    if model is not None:
        from gptcli.config import merge
        from gptcli.config.load import with_origin
        from gptcli.config.shipped import read_settings
        from gptcli.train.example_inspection import inspect_examples

        user = read_settings(config or [], assignments or [])
        user = merge(user, with_origin({"data": {"corpus": corpus}}, "CORPUS"))
        show_examples(inspect_examples(user, model, cache_dir, windows), as_json)
        return
    settings = data_settings(corpus, config or [], assignments or [])
    from gptcli.data.inspect import inspect, split_lines

    splits = inspect(settings, cache_dir, windows)
    lines = [line for split in splits for line in split_lines(split)]
    show(strict_json.dumps({"splits": splits}) if as_json else "\n".join(lines))


@data_app.command(cls=Verb)
def conversations(
    exports: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPORT", help="Chats of WhatsApp (.txt, .zip), Telegram (result.json), or mail (mbox)."
        ),
    ],
    out: Annotated[Path, output_option(help="Write the conversations to this file of JSON lines.")],
    me: Annotated[
        str, data_option(metavar="NAME", help="Make this person the assistant, and all others the user.")
    ] = "",
    gap: Annotated[str, data_option(metavar="DURATION", help="Begin a new conversation after a pause, as 6h.")] = "6h",
    min_turns: Annotated[int, data_option(min=2, max=1000, help="Leave out conversations of fewer turns.")] = 2,
    force: Annotated[bool, output_option("--force", help="Replace the file at --out if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert exported chats to examples for fine-tuning.

    What is left out is counted: lines of the program itself, attachments, quoted text, messages without an answer.

    Examples:
        gptcli data conversations chat.txt --me Ada --out chats.jsonl
        gptcli data conversations result.json Sent.mbox --me ada@example.org --gap 12h --out chats.jsonl
    """
    from gptcli.data.chat_exports.recipe import ExportRecipe, write_conversations
    from gptcli.train.clock import parse_duration

    recipe = ExportRecipe(me, parse_duration(gap, "--gap"), min_turns)
    report = write_conversations(exports, recipe, out, force=force)
    show(strict_json.dumps(report.as_dict()) if as_json else "\n".join(report.lines()))


def show_examples(reports: list[dict[str, Any]], as_json: bool) -> None:
    """Print reports of examples as a model would learn them."""
    from gptcli.data.examples.display import marked
    from gptcli.train.example_inspection import inspection_lines, shown_examples

    if as_json:
        show(strict_json.dumps({"corpora": reports}))
        return
    for report in reports:
        show("\n".join(inspection_lines(report)))
        for heading, parts in shown_examples(report):
            show(heading)
            if has_colours():
                show_coloured(
                    (part.text, IN_LOSS if part.in_loss else DIM if part.is_special else None) for part in parts
                )
            else:
                show(marked(parts))
