"""Preferences as pairs of documents, the chosen answer and the rejected one, each with the messages before it."""

from __future__ import annotations

import hashlib

import numpy as np

from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation
from gptcli.data.example_forms import Preference
from gptcli.data.examples.encode import EncodedUnit, UnitEncoder
from gptcli.data.examples.identity import DIGEST_BYTES, Identity, identity_of
from gptcli.data.examples.statistics import ExampleCounts
from gptcli.data.messages import Message, empty_answers, has_empty_prompt


def preference_encoder(encoder: ChatEncoder, seq_len: int) -> UnitEncoder:
    """Return the function that encodes preferences, both answers of which fit a sequence of `seq_len` tokens.

    Only the tokens of the two answers are in the loss, not those of earlier answers of the assistant. A longer pair is
    left out, and never cut: the ends of two answers cannot be compared if one of them is missing.
    """

    def encode(preference: Preference, place: object, counts: ExampleCounts) -> EncodedUnit | None:
        """Encode one row.

        Raises:
            DataError: the template fails on it, or it cannot be told what the assistant writes.
        """
        counts.rows += 1
        if preference.is_undecided:
            counts.undecided += 1
            return None
        if empty_answers([*preference.chosen, *preference.rejected]):
            counts.empty_answers += 1
            return None
        pair = tuple(encoded(preference, answer, place) for answer in (preference.chosen, preference.rejected))
        length = sum(len(one.ids) - 1 for one in pair)
        counts.lengths[length + 1] += 1
        if length > seq_len:
            counts.too_long += 1
            return None
        counts.empty_prompts += has_empty_prompt(preference.prompt)
        if np.array_equal(pair[0].ids, pair[1].ids):  # such as two answers that differ in spaces the template strips
            counts.undecided += 1
            return None
        if not all(one.in_loss[1:].any() for one in pair):
            counts.no_answer += 1
            return None
        return EncodedUnit(pair, identity_of_preference(preference, encoder.template.source))

    def encoded(preference: Preference, answer: list[Message], place: object) -> EncodedConversation:
        """Return the tokens of one answer and of the messages before it, with the answer alone in the loss."""
        before = [{**message, "weight": 0} for message in preference.prompt]
        return encoder.conversation([*before, *answer], place, preference.tools)

    return encode


def identity_of_preference(preference: Preference, template: str) -> Identity:
    """Return the digests of a preference; its answer is the chosen one."""
    chosen, rejected, first = (
        identity_of([*preference.prompt, *answer], preference.tools, learns_all=False, template=template)
        for answer in (preference.chosen, preference.rejected, preference.chosen[:1])
    )
    whole = hashlib.blake2b(chosen.whole + rejected.whole, digest_size=DIGEST_BYTES).digest()
    return chosen._replace(whole=whole, prompt=first.prompt, spaced=first.spaced)
