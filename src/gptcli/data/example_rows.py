"""The examples and the preferences in the rows of a file.

Rows are read one at a time; every error names the file and the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptcli.console import shell_word
from gptcli.data.chat_exports.whatsapp import is_whatsapp
from gptcli.data.config import Content, DataConfig
from gptcli.data.decoding import Decoding, read_text
from gptcli.data.example_forms import ChatExample, Preference, example_of, preference_of
from gptcli.data.fields import FieldSelection, refuse_repeated
from gptcli.data.file_formats import SourceFile
from gptcli.data.rows import missing_fields_error, rows_of, without_surrogates
from gptcli.errors import DataError

MOST_LEVELS = 64
"""Levels of lists and objects in a row; those of a message, a call and a schema are about ten."""


def read_examples(file: SourceFile, config: DataConfig, decoding: Decoding) -> Iterator[tuple[object, ChatExample]]:
    """Iterate over (place, example) of every row of a file; str(place) names the row in errors.

    Raises:
        DataError: a row cannot be read, or is not an example.
    """
    for place, row in chosen_rows(file, config, "examples", decoding):
        yield place, example_of(row, place)


def read_preferences(file: SourceFile, config: DataConfig, decoding: Decoding) -> Iterator[tuple[object, Preference]]:
    """Iterate over (place, preference) of every row of a file, as `read_examples` does."""
    for place, row in chosen_rows(file, config, "preferences", decoding):
        yield place, preference_of(row, place)


def chosen_rows(
    file: SourceFile, config: DataConfig, content: Content, decoding: Decoding
) -> Iterator[tuple[object, dict[str, Any]]]:
    """Iterate over (place, row) with the fields of an example or a preference alone, by the names that are known."""
    if file.format == "text":
        raise plain_text_error(file, content, decoding)
    selection = FieldSelection.in_rows_of(config, content)
    for place, row in rows_of(file, config, selection, decoding):
        fields = selection.of(row)
        if not fields:
            raise missing_fields_error(place, selection, row, file.name)
        refuse_repeated(place, row, fields)
        read = selection.renamed({name: row[name] for name in fields})
        yield place, {name: whole(value, place, decoding) for name, value in read.items()}


def plain_text_error(file: SourceFile, content: Content, decoding: Decoding) -> DataError:
    """Return the error for a file of plain text. Raises DataError if it is not even text."""
    if is_whatsapp(next(read_text(file.path, file.name, decoding), "")):
        return DataError(
            f"{file.name} is a chat that WhatsApp exported, and {content} are rows",
            "make rows of it, NAME being yours in the chat: "
            f"gptcli data conversations {shell_word(file.name)} --me NAME --out chats.jsonl",
        )
    return DataError(
        f"{file.name} is plain text, and {content} are rows of JSON, CSV or columns",
        "if it holds rows, name their format: --set data.format=jsonl; a text is trained on by "
        f"gptcli train {shell_word(file.name)} --init-from BASE",
    )


def whole(value: Any, place: object, decoding: Decoding, level: int = 0) -> Any:
    """Return a value with its texts without half surrogate pairs. Raises DataError if it is nested too deeply."""
    if level > MOST_LEVELS:
        raise DataError(f"{place} is nested more than {MOST_LEVELS} levels deep", "correct it, or remove it")
    if isinstance(value, str):
        return without_surrogates(value, place, decoding)
    if isinstance(value, list):
        return [whole(item, place, decoding, level + 1) for item in value]
    if isinstance(value, dict):
        for key, item in value.items():  # in place, since an object may know that its keys are repeated
            value[key] = whole(item, place, decoding, level + 1)
    return value
