"""A warning about a separator that never occurs, or about an undeclared one that a text seems to have.

The check reads a small sample of the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.console import shell_word
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.readers import ScannedFile
from gptcli.data.separators import Undeclared, undeclared
from gptcli.errors import GptcliError

SAMPLED_FILES, SAMPLED_CHARACTERS = 16, 1 << 20
PROSE_ENDINGS = (".txt", ".text", ".log")


def separator_warning(files: Sequence[ScannedFile], config: DataConfig) -> str:
    """Return the warning about the separator of the text files of a corpus that was read; empty if there is none."""
    texts = [file for file in files if file.format == "text"]
    if not texts or any(file.documents > 1 for file in texts):
        return ""
    each = (
        "the text is read as one document" if len(texts) == 1 else f"each of {len(texts):,} text files is one document"
    )
    found = suggestion(texts, config)
    remedy = f"--set data.document_separator={shell_word(found.typed)}" if found else ""
    if config.document_separator is not None:
        more = f"; {remedy} would separate documents" * bool(found)
        typed = shell_word(config.document_separator)
        return f"warning: data.document_separator={typed} never occurs, so {each}{more}"
    if not found:
        return ""
    return (
        f"warning: {shell_word(found.typed)} occurs {found.occurrences:,} times in a sample of the text, and {each}; "
        f"if it separates documents add {remedy}"
    )


def suggestion(texts: Sequence[ScannedFile], config: DataConfig) -> Undeclared | None:
    """Return the probable separator that occurs most often in the first part of some files all over the corpus."""
    sampled = texts[:: max(1, len(texts) // SAMPLED_FILES)][:SAMPLED_FILES]
    whole = config.model_copy(update={"document_separator": None})
    counts: dict[str, int] = {}
    for file in sampled:
        try:
            text = next(read_pieces(file.source, whole)).text[: SAMPLED_CHARACTERS // len(sampled)]
        except GptcliError:  # not every file of a subset has been read; the reader of this one reports it
            continue
        ending = file.source.path.suffix.lower()
        found = undeclared(text, is_prose=not ending or ending in PROSE_ENDINGS)
        if found:
            counts[found.typed] = counts.get(found.typed, 0) + found.occurrences
    best = max(counts, key=lambda typed: counts[typed], default=None)
    return Undeclared(best, counts[best]) if best is not None else None
