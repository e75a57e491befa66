"""Grammars as a command line names them. It imports no torch."""

from __future__ import annotations

from gptcli.errors import UsageError
from gptcli.generate.constraint import NO_GRAMMAR, GrammarText
from gptcli.generate.terminal import read_prompt_file


def read_grammar(json_schema: str | None, regex: str | None, grammar: str | None) -> GrammarText:
    """Return the grammar that was given: the file of a JSON schema, a regular expression, or the file of a grammar.

    Raises:
        UsageError: several were given.
        StorageError, DataError: the file cannot be read.
    """
    options = {"--json-schema": json_schema, "--regex": regex, "--grammar": grammar}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} were both given", "give one of them")
    if json_schema is not None:
        name, text = read_prompt_file(json_schema)
        return GrammarText("json_schema", text, f"the JSON schema {name}")
    if grammar is not None:
        name, text = read_prompt_file(grammar)
        return GrammarText("lark", text, f"the grammar {name}")
    return NO_GRAMMAR if regex is None else GrammarText("regex", regex, "--regex")
