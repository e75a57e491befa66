"""Renders chat templates in a limited process, which chat.py starts.

Answers with one JSON line, {"text": ""}, when it is ready. Then it reads JSON lines: first {"template", "longest",
"date", "seconds"}, then {"messages"} for each conversation; each is answered with one line, {"text"} or {"error"}. A
conversation gives the same text whenever it is rendered: the date is a fixed one, and what is drawn at random follows
from the messages.
"""

from __future__ import annotations

import datetime
import random
import re
import sys
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

from gptcli import strict_json
from gptcli.data.chat import MEMORY_BYTES
from gptcli.limits import allow_cpu_seconds

OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
"""The text of an object that is no value, such as a method: it holds an address, which differs between processes."""


def main(arguments: list[str]) -> None:
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
    """The environment that transformers offers to the templates of models.

    Args:
        date: today's date, for `strftime_now`, as YYYY-MM-DD; without it that function is not defined.
    """
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    made.filters["tojson"] = to_json
    made.globals |= {"raise_exception": refuse, "namespace": PublicNamespace}
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
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not have the name {name!r}")


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks what the assistant says; its text is what stands in it."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def refuse_objects(text: str, messages: str) -> None:
    """Raise TemplateError if the text holds an address: `{{ content.strip }}` lacks the parentheses of a call."""
    if " at 0x" in text and " at 0x" not in messages and (written := OBJECT.search(text)):
        raise TemplateError(f"it writes {written.group()}, which is no text: are parentheses missing after a method?")


def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return strict_json.dumps(value, ensure_ascii=ensure_ascii, **options)


def refuse(message: object) -> NoReturn:
    raise TemplateError(str(message))


def limited(parts: Any, longest: int) -> str:
    """The parts joined; raises TemplateError beyond `longest` characters."""
    kept, length = [], 0
    for part in parts:
        length += len(part)
        if length > longest:
            raise TemplateError(f"more than {longest:,} characters")
        kept.append(part)
    return "".join(kept)


def reason(error: BaseException) -> str:
    """Why a template failed, in one line."""
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
    print(strict_json.dumps(reply), flush=True)
