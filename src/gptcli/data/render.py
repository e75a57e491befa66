"""The process that renders chat templates: `python -m gptcli.data.render`, started by chat.py.

Reads JSON lines: first {"template", "longest"}, then {"messages"} for each conversation; answers each with one line,
{"text"} or {"error"}.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gptcli import strict_json

MEMORY_BYTES = 2**28
"""What rendering may take beyond what the process has when it begins."""


def main() -> None:
    # As transformers offers it to the templates of models.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime.datetime.now().strftime
    first = json.loads(sys.stdin.readline())
    bound_memory()
    try:
        template = environment.from_string(first["template"])
        answer({"text": ""})
    except (TemplateError, RecursionError, MemoryError) as error:
        answer({"error": one_line(error)})
        return
    for line in sys.stdin:
        try:
            answer({"text": limited(template.generate(**json.loads(line)), first["longest"])})
        except Exception as error:  # a template can raise whatever Python does
            answer({"error": one_line(error)})


def to_json(value: Any, indent: int | None = None) -> str:
    return strict_json.dumps(value, ensure_ascii=False, indent=indent)


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


def bound_memory() -> None:
    status = Path("/proc/self/statm")
    if status.exists():
        limit = int(status.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def answer(reply: dict[str, str]) -> None:
    print(strict_json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
