"""Rendering of chat templates in a limited process, which chat.py starts.

It writes one JSON line, {"text": ""}, when it is ready. Then it reads JSON lines: first {"template", "longest", "date",
"seconds"}, then a request for each conversation; it answers each with one line. A conversation gives the same text
whenever it is rendered: the date is fixed, and random numbers follow from the messages.

A request {"messages"} is answered by {"text"} or {"error"}. A request that also has "renders" asks for several
renderings of the messages with "variables"; each of these is {"stop": n} for the first n messages, {"stop": n, "asks":
true} with add_generation_prompt, or {"stop": n, "answer": text} with a message of the assistant after them, whose
rendering is cut before the text. The answer is {"renders"}, a list with {"text"} of the first one, and of each other
one {"text"}, {"length"} if it is the beginning of the first text, or {"error"}. In the first text "marks" are put
around what `{% generation %}` encloses.
"""

from __future__ import annotations

import datetime
import random
import re
import signal
import sys
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from gptcli import strict_json
from gptcli.data.chat import MEMORY_BYTES, RANDOM, RENDERS_AT_ONCE
from gptcli.limits import allow_cpu_seconds

OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
"""Matches the text of an object that is not a value, such as a method: it holds an address, which differs between
processes."""
ESCAPE = re.compile(r"\\(?:u(fdd[0-9a-f])|.)")
"""Matches an escape of JSON; its group is the number of a noncharacter, U+FDD0 to U+FDDF."""


def main(arguments: list[str]) -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal reaches it too: the process that asks decides
    answer({"text": ""})
    first = strict_json.parse(sys.stdin.readline())
    allow_cpu_seconds(first["seconds"])
    try:
        renderer = Renderer(environment(first["date"]), first)
        answer({"text": ""})
    except Exception as error:  # a template is compiled to Python, whose compiler has errors of its own
        answer({"error": reason(error)})
        return
    for line in sys.stdin:
        answer(renderer.answer(line))


class Renderer:
    """Renders conversations by one template."""

    def __init__(self, environment: MarkingEnvironment, first: dict[str, Any]) -> None:
        """Compile the template of the first request."""
        self.environment, self.longest, self.seconds = environment, first["longest"], first["seconds"]
        self.template = environment.from_string(first["template"])
        self.is_random = any(name in first["template"] for name in RANDOM)

    def answer(self, line: str) -> dict[str, Any]:
        """Return the answer to a request, from which the random numbers of the template follow."""
        allow_cpu_seconds(self.seconds)
        random.seed(line)
        request = strict_json.parse(line)
        return {"renders": self.renders(request, line)} if "renders" in request else self.attempt(request, line)

    def renders(self, request: dict[str, Any], line: str) -> list[dict[str, Any]]:
        """Return the renderings that a request asks for; those after the first are compared with it."""
        begin, end = request["marks"]
        self.environment.generation_begin, self.environment.generation_end = begin, end
        answers = [self.one(request, request["renders"][0], line)]
        self.environment.generation_begin = self.environment.generation_end = ""
        if "error" in answers[0]:
            return answers
        whole = answers[0]["text"].replace(begin, "").replace(end, "")
        for number, wanted in enumerate(request["renders"][1:], 1):
            if self.is_random:
                random.seed(line)
            if number % RENDERS_AT_ONCE == 0:
                allow_cpu_seconds(self.seconds)
            found = self.one(request, wanted, line)
            is_beginning = "text" in found and whole.startswith(found["text"])
            answers.append({"length": len(found["text"])} if is_beginning else found)
        return answers

    def one(self, request: dict[str, Any], wanted: dict[str, Any], line: str) -> dict[str, Any]:
        """Return one rendering, or the reason why there is none."""
        messages, text = request["messages"][: wanted["stop"]], wanted.get("answer")
        if text is not None:
            messages = [*messages, {"role": "assistant", "content": text}]
        asks = bool(wanted.get("asks"))
        found = self.attempt({**request["variables"], "messages": messages, "add_generation_prompt": asks}, line)
        if text is None or "error" in found:
            return found
        before, mark, _ = found["text"].partition(text)
        return {"text": before} if mark else {"error": "it does not write the content of an answer"}

    def attempt(self, variables: dict[str, Any], line: str) -> dict[str, Any]:
        """Return the text that the template writes, or the reason why it fails."""
        try:
            text = limited(self.template.generate(**variables), self.longest)
            refuse_objects(text, line)
            return {"text": text}
        except Exception as error:  # a template can raise whatever Python does
            return {"error": reason(error)}


class MarkingEnvironment(ImmutableSandboxedEnvironment):
    """An environment that marks what `{% generation %}` encloses.

    Attributes:
        generation_begin, generation_end: the marks; empty for none.
    """

    generation_begin = generation_end = ""


def environment(date: str | None) -> MarkingEnvironment:
    """Return the environment that transformers offers to the templates of models.

    Args:
        date: today's date, for `strftime_now`, as YYYY-MM-DD; without it that function is not defined.
    """
    made = MarkingEnvironment(
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
    """The tag `{% generation %}...{% endgeneration %}`, which encloses an answer of the assistant; its content is
    rendered as usual, between the marks that the environment has as `generation_begin` and `generation_end`.
    """

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the tag and its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.EnvironmentAttribute(f"generation_{side}")]) for side in ("begin", "end"))
        return nodes.Scope([begin, *body, end]).set_lineno(line)


def refuse_objects(text: str, messages: str) -> None:
    """Raise TemplateError if the text holds an address: `{{ content.strip }}` lacks the parentheses of a call."""
    if " at 0x" in text and " at 0x" not in messages and (written := OBJECT.search(text)):
        raise TemplateError(f"it writes {written.group()}, which is not text: are parentheses missing after a method?")


def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """Return a value as JSON, as the filter of transformers does. Noncharacters stay characters, since those in the
    messages are marks.
    """
    text = strict_json.dumps(value, ensure_ascii=ensure_ascii, **options)
    return ESCAPE.sub(unescaped_mark, text) if ensure_ascii and "\\ufdd" in text else text


def unescaped_mark(escape: re.Match[str]) -> str:
    """Return the noncharacter that an escape of JSON stands for, and any other escape as it is."""
    return chr(int(escape[1], 16)) if escape[1] else escape[0]


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


def answer(reply: dict[str, Any]) -> None:
    """Write one answer."""
    print(strict_json.dumps(reply), flush=True)
