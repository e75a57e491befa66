"""generation_config.json of a model directory: the tokens at which programs stop a text."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gptcli.errors import CheckpointError
from gptcli.interop.family import Json
from gptcli.interop.weights import read_json
from gptcli.manifest import require_unchanged
from gptcli.tokenizer.tokenizer import Tokenizer

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
STOP_KEY = "eos_token_id"


def generation_config(tokenizer: Tokenizer, stop_ids: Collection[int] = ()) -> Json:
    """Return the tokens that begin, end and pad a text in transformers' `generate`.

    Args:
        stop_ids: further tokens that end a text, such as those that end an answer in a conversation.
    """
    framing = tokenizer.framing
    ends = [*framing.stop_ids, *sorted(set(stop_ids) - framing.stop_ids)]
    return {
        "bos_token_id": framing.begin_id,
        STOP_KEY: ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": framing.stop_id,
    }


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
