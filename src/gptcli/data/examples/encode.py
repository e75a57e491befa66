"""Encoding of rows to tokens with a loss mask; some rows are left out or cut, which is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation
from gptcli.data.config import DataConfig
from gptcli.data.example_forms import ChatExample
from gptcli.data.examples.identity import Identity, identity_of
from gptcli.data.examples.statistics import ExampleCounts
from gptcli.data.messages import ASSISTANT, empty_answers, has_empty_prompt, is_out_of_order


class EncodedUnit(NamedTuple):
    """The documents that one row becomes, which stay together: one for an example."""

    documents: tuple[EncodedConversation, ...]
    identity: Identity


UnitEncoder = Callable[[Any, object, ExampleCounts], EncodedUnit | None]
"""A function that encodes a row: (the row as read by example_rows.py, its place for errors, the counts to add to) ->
the unit, or None if the row is left out."""


def example_encoder(encoder: ChatEncoder, config: DataConfig, seq_len: int) -> UnitEncoder:
    """Return the function that encodes conversations for sequences of `seq_len` tokens and a last target."""
    is_special = np.zeros(encoder.tokenizer.vocab_size, dtype=bool)
    is_special[list(encoder.tokenizer.special_ids)] = True

    def encode(example: ChatExample, place: object, counts: ExampleCounts) -> EncodedUnit | None:
        """Encode one row.

        Raises:
            DataError: the template fails on it, or it cannot be told what the assistant writes.
        """
        counts.rows += 1
        messages, tools = example
        if not any(message["role"] == ASSISTANT for message in messages):
            counts.no_answer += 1
            return None
        if empty_answers(messages):
            counts.empty_answers += 1
            return None
        ids, in_loss, _ = encoder.conversation(messages, place, tools)
        if not in_loss[1:].any():
            counts.no_answer += 1
            return None
        if is_special[ids[in_loss]].all():
            counts.empty_answers += 1
            return None
        counts.lengths[len(ids)] += 1
        if len(ids) > seq_len + 1:
            if config.too_long == "drop" or not in_loss[1 : seq_len + 1].any():
                counts.too_long += 1
                return None
            counts.cut += 1
        counts.out_of_order += is_out_of_order(messages)
        counts.empty_prompts += has_empty_prompt(messages)
        tokens = EncodedConversation(ids[: seq_len + 1], in_loss[: seq_len + 1])
        return EncodedUnit(
            (tokens,),
            identity_of(messages, tools, learns_all=config.loss_on == "all", template=encoder.template.source),
        )

    return encode
