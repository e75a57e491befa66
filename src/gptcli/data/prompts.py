"""A prompt to try a model with: the beginning of a document that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator

from gptcli.data.shards import TokenShards
from gptcli.errors import TokenizerError
from gptcli.tokenizer.tokenizer import Tokenizer

EXAMPLE = "Once upon a time"
TOKENS = 256
"""So much of a document is looked at."""
DOCUMENTS = 20
MOST_WORDS, MOST_CHARACTERS, LEAST_CHARACTERS = 4, 30, 3


def suggested_prompt(shards: TokenShards, tokenizer: Tokenizer) -> str | None:
    """A few words with which a document of the split begins, in one line; None where none can be typed.

    It is text that `tokenizer` represents and that no shell or option parser takes for something else once quoted.
    """
    candidates = filter(None, map(shortened, beginnings(shards, tokenizer)))
    return next((prompt for prompt in candidates if is_usable(prompt, tokenizer)), None)


def example_prompt(tokenizer: Tokenizer) -> str:
    """A prompt for a model whose texts are not to be quoted: what any tokenizer of English represents, else a token."""
    tokens = (tokenizer.decode([id]).strip() for id in range(tokenizer.vocab_size))
    return next((text for text in (EXAMPLE, *tokens) if is_usable(text, tokenizer)), EXAMPLE)


def beginnings(shards: TokenShards, tokenizer: Tokenizer) -> Iterator[str]:
    """The first lines of documents; of a single one, which may have been cut anywhere, later lines before the first."""
    for number in range(min(shards.documents, DOCUMENTS)):
        start, stop = shards.document_bounds(number)
        lines = tokenizer.decode(shards.read(start, min(stop, start + TOKENS))).splitlines()
        lines = [stripped for line in lines if (stripped := line.strip())]
        yield from [*lines[1:], *lines[:1]] if shards.documents == 1 else lines


def shortened(line: str) -> str:
    """The first words of a line, or characters where there are no words."""
    words = line.split()[:MOST_WORDS]
    while len(words) > 1 and len(" ".join(words)) > MOST_CHARACTERS:
        words.pop()
    return " ".join(words)[:MOST_CHARACTERS]


def is_usable(prompt: str, tokenizer: Tokenizer) -> bool:
    if len(prompt) < LEAST_CHARACTERS or prompt.startswith("-") or not prompt.isprintable() or "\ufffd" in prompt:
        return False
    try:
        tokenizer.require_representable(prompt)
        return bool(tokenizer.encode(prompt))
    except TokenizerError:
        return False
