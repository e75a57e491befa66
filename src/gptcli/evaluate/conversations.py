"""Conversations in files, and the validation examples of a run, as examples to be scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, get_args

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import read_toml
from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation, LossOn
from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding
from gptcli.data.example_rows import read_examples
from gptcli.data.left_out import warn_of_replaced
from gptcli.data.shards import TokenShards
from gptcli.data.sources import find_files
from gptcli.manifest import require_unchanged
from gptcli.storage import default_cache_dir


def data_settings(run: RunDirectory | None) -> dict[str, Any]:
    """Return the section `data` of a run's configuration; empty without a run."""
    if run is None:
        return {}
    require_unchanged(run.path, run.config_path.name)
    values = read_toml(run.config_path).values.get("data", {})
    return values if isinstance(values, dict) else {}


def kind_of(run: RunDirectory | None) -> str:
    """Return what a run was trained on, as `data.kind`."""
    kind: str = data_settings(run).get("kind", "text")
    return kind


def learns_conversations(run: RunDirectory | None) -> bool:
    """Return whether a run was trained on examples or preferences."""
    return kind_of(run) != "text"


def is_of_preferences(run: RunDirectory | None) -> bool:
    """Return whether a run was trained on preferences."""
    return kind_of(run) == "preferences"


def loss_on_of(run: RunDirectory | None) -> LossOn:
    """Return the tokens that a run learnt to write, as `data.loss_on`; those of the assistant without such a run."""
    wanted = data_settings(run).get("loss_on") if learns_conversations(run) else None
    return next((value for value in get_args(LossOn) if value == wanted), "assistant")


def encoded_conversations(
    encoder: ChatEncoder, sources: Sequence[str], config: DataConfig
) -> Iterator[EncodedConversation]:
    """Yield the conversations of files one at a time.

    Raises:
        DataError: a source is missing, a row is no conversation, or the template fails on it.
        StorageError: a file cannot be read.
    """
    decoding, characters = Decoding.of(config), 0
    for file in find_files(sources, config, default_cache_dir()).files:
        for place, example in read_examples(file, config, decoding):
            characters += sum(len(message["content"]) for message in example.messages)
            yield encoder.conversation(example.messages, place, example.tools)
    warn_of_replaced(decoding.replaced, characters)


def stored_examples(shards: TokenShards) -> Iterator[EncodedConversation]:
    """Yield the examples of a split one at a time, whose turns are not known."""
    edges = [*map(int, shards.document_starts), len(shards)]
    for start, stop in pairwise(edges):
        yield EncodedConversation(shards.read(start, stop), shards.read_mask(start, stop), ())
