"""`gptcli data prepare|inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gptcli import strict_json
from gptcli.cli.hints import Verb
from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles, Corpus
from gptcli.console import show

if TYPE_CHECKING:
    from gptcli.data.config import DataSettings

data_app = typer.Typer(
    name="data", help="Turn a corpus into tokens ahead of training, and look at them.", no_args_is_help=True
)


def data_settings(corpus: list[str], configs: list[str], assignments: list[str]) -> DataSettings:
    """The sections `data` and `seed` of the config files, then the --set values, then CORPUS."""
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
        typer.Option(min=0, max=10_000, help="Processes that work on a large corpus; 0: one for each core, 6 at most."),
    ] = 0,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Read, split and encode a corpus into the cache, where training finds it.

    A large corpus is prepared by several processes in parts; stopped or killed, the same command goes on with the parts
    that are finished.
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
    windows: Annotated[int, typer.Option(min=0, max=10_000, help="How many windows of tokens to show as text.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Show what the tokens of a corpus look like, and check that they are whole."""
    settings = data_settings(corpus, config or [], assignments or [])
    from gptcli.data.inspect import inspect, split_lines
    from gptcli.storage import default_cache_dir

    splits = inspect(settings, cache_dir or default_cache_dir(), windows)
    lines = [line for split in splits for line in split_lines(split)]
    show(strict_json.dumps({"splits": splits}) if as_json else "\n".join(lines))
