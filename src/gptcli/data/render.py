"""Rendering of chat templates in a limited process, which chat.py starts.

It writes one JSON line, {"text": ""}, when it is ready. Then it reads JSON lines: first {"template", "longest", "date",
"seconds"}, then {"messages"} for each conversation; it answers each with one line, {"text"} or {"error"}. A
conversation gives the same text whenever it is rendered: the date is fixed, and random numbers follow from the
messages.
"""

from __future__ import annotations

import datetime
import random
import re
import sys
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from gptcli import strict_json
from gptcli.data.chat import MEMORY_BYTES
from gptcli.limits import allow_cpu_seconds

OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
"""Matches the text of an object that is not a value, such as a method: it holds an address, which differs between
processes."""


def main(arguments: list[str]) -> None:
    """Answer requests until stdin ends."""
    answer({"text": ""})
    first = strict_json.parse(sys.stdin.readline())
    allow_cpu_seconds(first["seconds"])
    try:
        template = environment(first["date"]).from_string(first["template"])
        answer({"text": ""})
    except Exception as error:  # a template is compiled to Python, whose compiler has errors of its own
        answer({"error": reason(error)})
        return
    for line in sys.stdin:
        allow_cpu_seconds(first["seconds"])
        random.seed(line)
        try:
            text = limited(template.generate(**strict_json.parse(line)), first["longest"])
            refuse_objects(text, line)
            answer({"text": text})
        except Exception as error:  # a template can raise whatever Python does
            answer({"error": reason(error)})


def environment(date: str | None) -> ImmutableSandboxedEnvironment:
    """Return the environment that transformers offers to the templates of models.

    Args:
        date: today's date, for `strftime_now`, as YYYY-MM-DD; without it that function is not defined.
    """
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    made.filters["tojson"] = to_json
    made.globals |= {"raise_exception": raise_exception, "namespace": PublicNamespace}
    if date is not None:
        made.globals["strftime_now"] = datetime.datetime.fromisoformat(date).strftime
    return made


class PublicNamespace(Namespace):
    """A namespace of jinja2 without names that begin with an underscore, which lead to Python's internals."""

    def __init__(self, /, *args: Any, **values: Any) -> None:
        for name in dict(*args, **values):
            require_public(name)
        super().__init__(*args, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        require_public(name)
        super().__setitem__(name, value)


def require_public(name: object) -> None:
    """Raise SecurityError for a name that begins with an underscore."""
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not have the name {name!r}")


class GenerationTag(Extension):
    """The tag `{% generation %}...{% endgeneration %}`, which marks an answer of the assistant; its content is rendered
    as usual.
    """

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the tag and its content."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def refuse_objects(text: str, messages: str) -> None:
    """Raise TemplateError if the text holds an address: `{{ content.strip }}` lacks the parentheses of a call."""
    if " at 0x" in text and " at 0x" not in messages and (written := OBJECT.search(text)):
        raise TemplateError(f"it writes {written.group()}, which is not text: are parentheses missing after a method?")


def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Return a value as JSON, as the filter of transformers does."""
    return strict_json.dumps(value, ensure_ascii=ensure_ascii, **options)


def raise_exception(message: object) -> NoReturn:
    """Raise TemplateError, as templates do for conversations that they cannot render."""
    raise TemplateError(str(message))


def limited(parts: Any, longest: int) -> str:
    """Return the parts joined. Raises TemplateError beyond `longest` characters."""
    kept, length = [], 0
    for part in parts:
        length += len(part)
        if length > longest:
            raise TemplateError(f"more than {longest:,} characters")
        kept.append(part)
    return "".join(kept)


def reason(error: BaseException) -> str:
    """Return why a template failed, in one line."""
    match error:
        case MemoryError():
            return f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"
        case RecursionError():
            return "it is nested too deeply"
        case ValueError() if "integer string conversion" in str(error):
            return f"it writes a number of more than {sys.get_int_max_str_digits():,} digits"
        case SyntaxError():
            said = f"SyntaxError: {error.msg}"
        case _:
            said = f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]


def answer(reply: dict[str, str]) -> None:
    """Write one answer."""
    print(strict_json.dumps(reply), flush=True)
