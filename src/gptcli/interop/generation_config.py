"""generation_config.json of a model directory: the tokens at which programs stop a text."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from pathlib import Path

from gptcli.console import say
from gptcli.data.chat import OF_MODEL
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.errors import CheckpointError, DataError
from gptcli.interop.family import Json
from gptcli.interop.weights import read_json
from gptcli.manifest import require_unchanged
from gptcli.tokenizer.tokenizer import Tokenizer

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
STOP_KEY = "eos_token_id"


def generation_config(tokenizer: Tokenizer, stop_ids: Collection[int] = ()) -> Json:
    """Return the tokens that begin, end and pad a text in transformers' `generate`.

    Args:
        stop_ids: tokens that end a text besides the one that the tokenizer names and those of its chat template.
    """
    framing = tokenizer.framing
    ends = [*framing.stop_ids, *sorted(with_chat_ends(tokenizer, stop_ids) - framing.stop_ids)]
    return {
        "bos_token_id": framing.begin_id,
        STOP_KEY: ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": framing.stop_id,
    }


def with_chat_ends(tokenizer: Tokenizer, stop_ids: Collection[int]) -> frozenset[int]:
    """Return the tokens that end a text, with those that end an answer in the tokenizer's chat template, if it has one.

    A template that cannot be rendered adds none, which a line on stderr says.
    """
    if tokenizer.chat_template is None:
        return frozenset(stop_ids)
    today = datetime.date.today().isoformat()
    try:
        with ChatEncoder(ChatTemplate.of_model(tokenizer, OF_MODEL), tokenizer, date=today) as encoder:
            return encoder.stop_ids | frozenset(stop_ids)
    except DataError as error:
        say(f"warning: the tokens at which answers end are not known, since {error.message}")
        return frozenset(stop_ids)


def read_stop_ids(directory: Path) -> frozenset[int]:
    """Return the tokens that end a text by generation_config.json, or else by config.json, as in transformers.

    Raises:
        CheckpointError: a file is damaged, or names no token.
    """
    require_unchanged(directory, CONFIG, GENERATION_CONFIG)
    for path in (directory / GENERATION_CONFIG, directory / CONFIG):
        given = read_json(path).get(STOP_KEY) if path.is_file() else None
        if given is None:
            continue
        ids = given if isinstance(given, list) else [given]
        if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
            raise CheckpointError(
                f"{path}: {STOP_KEY} is {given!r:.60}, not the id of a token or a list of ids", "correct the file"
            )
        return frozenset(id for id in ids if id >= 0)  # old files write -1 for no token
    return frozenset()
