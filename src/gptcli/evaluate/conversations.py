"""Conversations in files, and the validation examples of a run, as examples to be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, get_args

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation
from gptcli.data.config import DataConfig, LossOn
from gptcli.data.decoding import Decoding
from gptcli.data.example_forms import ChatExample, Preference
from gptcli.data.example_rows import read_examples
from gptcli.data.file_formats import SourceFile
from gptcli.data.left_out import warn_of_replaced
from gptcli.data.shards import TokenShards
from gptcli.data.sources import find_files
from gptcli.session import data_settings
from gptcli.storage import default_cache_dir

Row = TypeVar("Row", ChatExample, Preference)


def kind_of(run: RunDirectory | None) -> str:
    """Return what a run was trained on, as `data.kind`."""
    kind: str = data_settings(run).get("kind", "text")
    return kind


def loss_on_of(run: RunDirectory | None) -> LossOn:
    """Return the tokens that a run learnt to write, as `data.loss_on`; those of the assistant without such a run."""
    wanted = data_settings(run).get("loss_on") if kind_of(run) != "text" else None
    return next((value for value in get_args(LossOn) if value == wanted), "assistant")


def rows_in(
    sources: Sequence[str],
    config: DataConfig,
    read: Callable[[SourceFile, DataConfig, Decoding], Iterator[tuple[object, Row]]],
) -> Iterator[tuple[object, Row]]:
    """Yield (place, row) of the rows of files, and warn of undecodable bytes at the end.

    Raises:
        DataError: a source is missing, or `read` refuses a row.
        StorageError: a file cannot be read.
    """
    decoding, characters = Decoding.of(config), 0
    for file in find_files(sources, config, default_cache_dir()).files:
        for place, row in read(file, config, decoding):
            characters += sum(len(message["content"]) for message in row.messages)
            yield place, row
    warn_of_replaced(decoding.replaced, characters)


def encoded_conversations(
    encoder: ChatEncoder, sources: Sequence[str], config: DataConfig
) -> Iterator[EncodedConversation]:
    """Yield the conversations of files one at a time.

    Raises:
        DataError, StorageError: as `rows_in`; or the template fails on a conversation.
    """
    for place, example in rows_in(sources, config, read_examples):
        yield encoder.conversation(example.messages, place, example.tools)


def stored_examples(shards: TokenShards) -> Iterator[EncodedConversation]:
    """Yield the examples of a split one at a time, whose turns are not known."""
    for start, stop in map(shards.document_bounds, range(shards.documents)):
        yield EncodedConversation(shards.read(start, stop), shards.read_mask(start, stop))
