"""The conversations that a model is to continue, as the user names them. It imports no torch."""

from __future__ import annotations

from pathlib import Path

from gptcli.data.example_forms import ChatExample, example_of
from gptcli.data.rows import json_rows
from gptcli.errors import DataError, UsageError
from gptcli.generate.terminal import read_prompts

ROWS = (".json", ".jsonl")
"""Endings of files of conversations; other files hold messages of a user."""


def read_conversations(
    prompt: str | None, prompt_file: str | None, *, whole_file: bool = False, system: str | None = None
) -> list[ChatExample]:
    """Return conversations that end where the assistant is to write.

    Args:
        prompt, prompt_file, whole_file: as `read_prompts`, each prompt being a message of the user; or a file of
            conversations in rows of JSON. Where one of these ends with an answer, that is left out.
        system: the text of a system message before each conversation.

    Raises:
        UsageError, StorageError, DataError: as `read_prompts`; or there is no message, or a row is no conversation.
    """
    before = [] if system is None else [{"role": "system", "content": system}]
    if prompt_file is not None and prompt_file.endswith(ROWS):
        if prompt is not None or whole_file:
            given = "a prompt" if prompt is not None else "--whole-file"
            raise UsageError(f"{given} has no meaning beside the conversations of {prompt_file}", "leave it out")
        stored = stored_conversations(prompt_file, has_system=bool(before))
        return [ChatExample([*before, *messages], tools) for messages, tools in stored]
    if prompt is None and prompt_file is None:
        raise UsageError("--chat needs a message to answer", "give one, or --prompt-file FILE")
    prompts = read_prompts(prompt, prompt_file, whole_file=whole_file)
    if not all(text.strip() for text in prompts):
        raise UsageError("the message is empty", "write one")
    return [ChatExample([*before, {"role": "user", "content": text}]) for text in prompts]


def stored_conversations(file: str, *, has_system: bool) -> list[ChatExample]:
    """Return the conversations in the rows of a file, without the answer at the end of each."""
    found = []
    for place, row in json_rows(Path(file).expanduser(), file):
        messages, tools = example_of(row, place)
        if messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            raise DataError(f"{place} has no message before the answer", "add the user's")
        if has_system and messages[0]["role"] == "system":
            raise DataError(f"{place} has a system message of its own", "leave out --system")
        found.append(ChatExample(messages, tools))
    if not found:
        raise DataError(f"{file} holds no conversation", 'write one {"messages": [...]} object a line')
    return found
