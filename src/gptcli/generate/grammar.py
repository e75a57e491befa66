"""Grammars that a generated text must match: a JSON schema, a regular expression, or a grammar in Lark's notation.

The library llguidance says which tokens may follow. It works on bytes, so the tokens of every tokenizer are given to it
as the bytes that they add to a text.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gptcli import strict_json
from gptcli.errors import DataError, GptcliError, UsageError, first_line
from gptcli.generate.constraint import ANY_TEXT, WORD_BITS, Constraint, GrammarText, Language, mask_words
from gptcli.generate.token_texts import TokenTexts
from gptcli.limited_process import LimitedProcessError, ProcessLimits, run

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from gptcli.tokenizer.tokenizer import Tokenizer

LONGEST_TEXT = 256 * 1024
"""Most characters of a grammar."""
REFUSED = "doesn't satisfy the grammar"
"""What the library says of a token that may not follow."""
NO_TEXT = "NoExtensionBias"
"""The library's message about a grammar that no text matches, such as one that only refers to itself."""
TRIAL = ProcessLimits(memory_bytes=2**30, cpu_seconds=5)
TRIAL_SECONDS = 30.0
"""Most seconds of a trial by the clock."""


class Grammar(Language):
    """A compiled grammar for the texts of one tokenizer."""

    def __init__(self, source: GrammarText, tokenizer: Tokenizer) -> None:
        """Compile a grammar, after a trial in a process with limits of time and memory.

        Raises:
            UsageError: llguidance is not installed.
            DataError: the grammar is wrong, too complex, or no token of the tokenizer may begin its text.
        """
        self.source = source
        self.vocabulary = vocabulary(tokenizer)
        require_compilable(source)
        from gptcli.generate.grammar_process import compiled

        self.matcher = compiled(self.vocabulary.library_tokenizer, source.kind, source.text)
        if self.matcher.is_error():
            raise self.error(self.matcher.get_error())
        first = self.matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():
            raise self.error(NO_TEXT)

    def constraint(self) -> Constraint:
        """Return what one text must match."""
        return GrammarConstraint(self)

    def error(self, message: str) -> GptcliError:
        """Return the error for a message of the library."""
        return grammar_error(self.source, message)


def language(source: GrammarText, tokenizer: Tokenizer) -> Language:
    """Return the texts that a grammar allows, for a tokenizer.

    Raises:
        UsageError, DataError: as `Grammar`.
    """
    return ANY_TEXT if source.kind == "any" else Grammar(source, tokenizer)


class GrammarConstraint(Constraint):
    """The tokens that a grammar allows after what was drawn so far."""

    is_free = False

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.matcher: LLMatcher = grammar.matcher.deep_copy()
        self.context = grammar.vocabulary.texts.context
        self.stop_ids: Collection[int] = ()
        self.mask = np.empty(mask_words(grammar.vocabulary.size), dtype=np.int32)
        self.is_complete = False

    def end_with(self, stop_ids: Collection[int]) -> None:
        """Allow these ids, each of which ends the text, exactly where the text is complete."""
        self.stop_ids = stop_ids

    def mask_into(self, row: NDArray[np.int32]) -> None:
        """Write the allowed tokens of the next place.

        Raises:
            DataError: the grammar allows none of the tokenizer's tokens, or is too complex to go on.
        """
        self.compute()
        words = min(len(row), len(self.mask))
        row[:words], row[words:] = self.mask[:words], 0
        is_satisfied = self.is_satisfied
        for token in self.stop_ids:
            word, bit = divmod(token, WORD_BITS)
            if word < len(row):
                bits = row[word : word + 1].view(np.uint32)
                bits &= np.uint32(~(1 << bit) & 0xFFFFFFFF)
                bits |= np.uint32(is_satisfied << bit)
        if not row.any():
            raise self.dead_end()

    def dead_end(self) -> GptcliError:
        """Return the error for a text that none of the tokenizer's tokens can continue."""
        return DataError(
            f"{self.grammar.source.name} cannot be continued: no token of the model fits",
            "use a model whose tokenizer is byte or bpe, or another grammar",
        )

    def compute(self) -> None:
        """Write the tokens that the grammar allows into `mask`."""
        if self.matcher.is_stopped():
            self.mask.fill(0)
        else:
            self.matcher.unsafe_compute_mask_ptr(self.mask.ctypes.data, self.mask.nbytes)
        if self.matcher.is_error():
            raise self.grammar.error(self.matcher.get_error())
        end = self.grammar.vocabulary.end_id  # the library's own sign that the text may end
        self.mask[end // WORD_BITS :].view(np.uint32)[0] &= np.uint32(~(1 << end % WORD_BITS) & 0xFFFFFFFF)

    def accept(self, token: int) -> None:
        """Take in the token that was drawn.

        Raises:
            DataError: it was not allowed, or the grammar is too complex to go on.
        """
        if not self.matcher.consume_token(token):
            message = self.matcher.get_error()
            raise self.dead_end() if REFUSED in message else self.grammar.error(message)
        self.is_complete = self.matcher.is_stopped()
        if not self.is_complete and not self.stop_ids and self.is_satisfied:
            self.compute()  # without a token that ends the text, it ends where nothing may follow
            self.is_complete = not self.mask.any()

    @property
    def is_satisfied(self) -> bool:
        """Whether the grammar allows the text to end here."""
        return self.matcher.is_accepting()


class GrammarVocabulary:
    """A tokenizer's tokens in the form of the library, whose wrapper asks for the attributes from `eos_token_id` on."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.texts = TokenTexts(tokenizer)
        self.end_id = len(self.texts.tokens)
        """An id after all others, by which the library says that a text may end."""
        self.size = self.end_id + 1
        self.eos_token_id = self.end_id
        self.bos_token_id = None
        self.tokens = [*self.texts.tokens, b"<end>"]
        self.special_token_ids = [id for id, token in enumerate(self.tokens) if not token or id == self.end_id]

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of a text that the grammar leaves no choice about."""
        return self.texts.encode(text.encode() if isinstance(text, str) else text)

    @cached_property
    def library_tokenizer(self) -> LLTokenizer:
        """The library's object."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self))


VOCABULARIES: WeakKeyDictionary[Tokenizer, GrammarVocabulary] = WeakKeyDictionary()
"""The vocabularies of tokenizers that a grammar was compiled for."""


def vocabulary(tokenizer: Tokenizer) -> GrammarVocabulary:
    """Return a tokenizer's tokens in the form of the library, made once.

    Raises:
        UsageError: llguidance is not installed.
        TokenizerError: a token's text depends on the tokens around it.
    """
    library()
    if tokenizer not in VOCABULARIES:
        VOCABULARIES[tokenizer] = GrammarVocabulary(tokenizer)
    return VOCABULARIES[tokenizer]


def library() -> ModuleType:
    """Return the library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import llguidance
    except ImportError as error:
        raise UsageError("a grammar needs llguidance, which is not installed", "pip install llguidance") from error
    return llguidance


def require_compilable(source: GrammarText) -> None:
    """Require a grammar that can be compiled in bounded time and memory.

    Raises:
        DataError: it is wrong, or too large or complex.
    """
    if len(source.text) > LONGEST_TEXT:
        raise DataError(
            f"{source.name} has {len(source.text):,} characters; at most {LONGEST_TEXT:,} are possible",
            "make it shorter",
        )
    if source.kind == "json_schema":
        require_enforceable(parsed_schema(source), source.name)
    given = strict_json.dumps({"kind": source.kind, "text": source.text})
    try:
        message = run("gptcli.generate.grammar_process", [], TRIAL, TRIAL_SECONDS, given.encode()).decode()
    except LimitedProcessError as error:
        raise DataError(f"{source.name} cannot be compiled: {error}", "make it simpler") from error
    if message:
        raise grammar_error(source, message)


def parsed_schema(source: GrammarText) -> Any:
    """Return a JSON schema as an object.

    Raises:
        DataError: it is not JSON, or no object.
    """
    try:
        schema = strict_json.parse(source.text)
    except ValueError as error:
        raise DataError(f"{source.name} is not JSON: {first_line(error)}", "correct it") from error
    if not isinstance(schema, dict):
        raise DataError(f"{source.name} is not a JSON object", 'write a schema such as {"type": "object"}')
    return schema


def require_enforceable(schema: Any, name: str) -> None:
    """Require that no part of a schema counts keys that the library does not keep apart.

    Keys that `properties` does not list may be written twice, and are one key to whoever reads them.

    Raises:
        DataError: an object needs more keys than it names.
    """
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        if not isinstance(part, dict):
            continue
        parts += [value for key, value in part.items() if key not in ("const", "enum", "default", "examples")]
        least, required = part.get("minProperties"), part.get("required")
        named = len(set(map(str, required))) if isinstance(required, list) else 0
        if isinstance(least, int) and least > max(1, named):
            raise DataError(
                f"{name} asks for {least} properties and names {named}, which cannot be enforced",
                "list the properties in required, or leave out minProperties",
            )


def grammar_error(source: GrammarText, message: str) -> GptcliError:
    """Return the error for a message of the library."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = next(
        (line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0] if lines else ""
    )
    if told == NO_TEXT:
        return DataError(
            f"{source.name} allows no text that the model's tokens can write", "allow some text, or use another model"
        )
    if "limit" in told or "too" in told:
        return DataError(f"{source.name} is too complex: {told}", "make it simpler")
    return DataError(f"{source.name} is not possible: {told}", source.remedy)
