"""The forms of answers, which are enforced while they are generated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from gptcli import strict_json
from gptcli.errors import GptcliError
from gptcli.generate.constraint import FREE, Constraint, GrammarText
from gptcli.generate.grammar import Grammar
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.errors import ApiError, invalid
from gptcli.serve.openai.request_schemas import ResponseFormat
from gptcli.tokenizer.tokenizer import Tokenizer

ANY_OBJECT: dict[str, Any] = {"type": "object"}
FIELD = "response_format"
MOST_GRAMMARS = 32
"""Most grammars of a model that are kept for further requests."""


class GrammarCache:
    """The grammars that were compiled last, by tokenizer and text. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.kept: WeakKeyDictionary[Tokenizer, OrderedDict[str, Grammar]] = WeakKeyDictionary()
        self.lock = Lock()

    def get(self, schema: str, tokenizer: Tokenizer) -> Grammar:
        """Return the compiled grammar of a JSON schema.

        Raises:
            DataError, UsageError: as `Grammar`.
        """
        with self.lock:
            found = self.kept.setdefault(tokenizer, OrderedDict())
            if schema in found:
                found.move_to_end(schema)
                return found[schema]
        grammar = Grammar(GrammarText("json_schema", schema, "the JSON schema"), tokenizer)
        with self.lock:
            found[schema] = grammar
            while len(found) > MOST_GRAMMARS:
                found.popitem(last=False)
        return grammar


GRAMMARS = GrammarCache()


async def constraint_maker(served: ServedModel, form: ResponseFormat | None) -> Callable[[], Constraint]:
    """Return a function that makes the constraint of one answer.

    Raises:
        ApiError: there is no schema, or it cannot be enforced.
    """
    if form is None or form.type == "text":
        return lambda: FREE
    schema = strict_json.dumps(schema_of(form))
    try:
        grammar = await served.pool.run(lambda: GRAMMARS.get(schema, served.session.tokenizer))
    except GptcliError as error:
        raise ApiError(400, error.message, param=FIELD, code="invalid_schema") from error
    return grammar.constraint


def schema_of(form: ResponseFormat) -> dict[str, Any]:
    """Return the schema of a form.

    Raises:
        ApiError: it has none.
    """
    if form.type == "json_object":
        return ANY_OBJECT
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise invalid('response_format needs {"json_schema": {"name": ..., "schema": {...}}}', FIELD)
    return form.json_schema.schema_
