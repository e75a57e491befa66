"""The trial of a grammar, in a limited process that grammar.py starts, and the options that grammars are compiled with.

It reads the kind and the text from stdin and compiles them for a small vocabulary: a grammar that never ends, grows or
crashes does so here. It writes the library's message if the grammar is wrong, and otherwise nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark

from gptcli import strict_json

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

WHITESPACE = r"\x0A[ ]{0,16}|[ ]"
"""The whitespace that JSON may have between its tokens: a space, or a line end and an indentation."""
JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_pattern": WHITESPACE,
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
"""Options of JSON grammars that a schema's own "x-guidance" cannot change."""


def compiled(tokenizer: LLTokenizer, kind: str, text: str) -> LLMatcher:
    """Return a matcher of a grammar; it may be in an error state.

    Raises:
        ValueError: the text is no JSON object.
    """
    match kind:
        case "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS)
        case "regex":
            # Perl's classes are those of ASCII, as with Python's re.ASCII.
            grammar = LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(text, use_ascii='dws')}/")
        case _:
            grammar = LLMatcher.grammar_from_lark(text)
    return LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))


def main(arguments: Sequence[str]) -> None:
    """Compile the grammar on stdin, {"kind", "text"}, and find the first tokens that it allows."""
    given = strict_json.parse(sys.stdin.buffer.read())
    try:
        matcher = compiled(LLTokenizer("byte"), given["kind"], given["text"])
    except ValueError as error:
        sys.stdout.write(str(error))
        return
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error())
