"""A prompt to try a model with: the first words of a document that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator

from gptcli.data.shards import TokenShards
from gptcli.errors import TokenizerError
from gptcli.tokenizer.tokenizer import Tokenizer

EXAMPLE = "Once upon a time"
TOKENS = 256
"""The tokens of a document that are looked at."""
DOCUMENTS = 20
LONGEST_QUESTION = 80
MARKUP = frozenset("[]<>{}|#")
"""Characters of the markup of chat templates."""
MOST_WORDS, MOST_CHARACTERS, LEAST_CHARACTERS = 4, 30, 3


def suggested_prompt(shards: TokenShards, tokenizer: Tokenizer) -> str | None:
    """Return a few words with which a document of the split begins, in one line; None if there is no usable document.

    The prompt is text that `tokenizer` represents and that no shell or option parser misreads once it is quoted.
    """
    candidates = filter(None, map(shortened, first_lines(shards, tokenizer)))
    return next((prompt for prompt in candidates if is_usable(prompt, tokenizer)), None)


def suggested_question(shards: TokenShards, tokenizer: Tokenizer) -> str | None:
    """Return what is asked in an example of the split, in one line; None if there is no usable example.

    It is the longest line before the first answer, and no part of the chat template as far as can be told.
    """
    for number in range(min(shards.documents, DOCUMENTS)):
        start, stop = shards.document_bounds(number)
        stop = min(stop, start + TOKENS)
        answered = shards.read_mask(start, stop).argmax()
        lines = tokenizer.decode(shards.read(start, start + int(answered))).splitlines()
        question = max((line.strip() for line in lines), key=len, default="")
        is_plain = " " in question and not set(question) & MARKUP and len(question) <= LONGEST_QUESTION
        if is_plain and is_usable(question, tokenizer):
            return question
    return None


def example_prompt(tokenizer: Tokenizer) -> str:
    """Return a prompt that quotes no training text: EXAMPLE if the tokenizer represents it, else a token."""
    tokens = (tokenizer.decode([id]).strip() for id in range(tokenizer.vocab_size))
    return next((text for text in (EXAMPLE, *tokens) if is_usable(text, tokenizer)), EXAMPLE)


def first_lines(shards: TokenShards, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the first lines of documents; of a single document, which may be cut anywhere, the very first line last."""
    for number in range(min(shards.documents, DOCUMENTS)):
        start, stop = shards.document_bounds(number)
        lines = tokenizer.decode(shards.read(start, min(stop, start + TOKENS))).splitlines()
        lines = [stripped for line in lines if (stripped := line.strip())]
        yield from [*lines[1:], *lines[:1]] if shards.documents == 1 else lines


def shortened(line: str) -> str:
    """Return the first words of a line, or its first characters if it has no words."""
    words = line.split()[:MOST_WORDS]
    while len(words) > 1 and len(" ".join(words)) > MOST_CHARACTERS:
        words.pop()
    return " ".join(words)[:MOST_CHARACTERS]


def is_usable(prompt: str, tokenizer: Tokenizer) -> bool:
    """Return whether a prompt can be typed and is represented by the tokenizer."""
    if len(prompt) < LEAST_CHARACTERS or prompt.startswith("-") or not prompt.isprintable() or "\ufffd" in prompt:
        return False
    try:
        tokenizer.require_representable(prompt)
        return bool(tokenizer.encode(prompt))
    except TokenizerError:
        return False
