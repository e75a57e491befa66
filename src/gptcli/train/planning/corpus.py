"""Checks of the settings of a corpus before it is read."""

from __future__ import annotations

from gptcli.config import RawConfig
from gptcli.errors import UsageError
from gptcli.train.config import RunConfig
from gptcli.train.planning.fine_tuning import is_of_examples
from gptcli.train.planning.zero_config import CorpusFacts

DRAFT_FACTS = CorpusFacts(train_bytes=1_000_000, device_type="cpu")
"""Facts of an ordinary corpus, for checking the user's settings before theirs is read."""


def require_source(draft: RunConfig, *, chooses_for_time: bool) -> None:
    """Require a corpus, or a mix of which no part and for which no shape would have to be chosen.

    Raises:
        UsageError: there is none.
    """
    data = draft.data
    if not data.corpus and not data.mix and data.kind != "text":
        raise UsageError("no examples to train on", "name them: gptcli finetune BASE chats.jsonl")
    if not data.corpus and not data.mix:
        raise UsageError("no corpus to train on", "name one: gptcli train book.txt")
    if data.kind != "text" and draft.train.corpus_bytes is not None:
        raise UsageError(f"train.corpus_bytes is for texts, and data.kind is {data.kind}", "leave it out")
    if data.mix and (draft.train.corpus_bytes is not None or chooses_for_time):
        raise UsageError(
            "there is no rule for a mix of corpora (data.mix) within a time or a number of bytes",
            "set train.max_steps instead",
        )


def require_base(user: RawConfig, *, has_model: bool) -> None:
    """Raise UsageError where the settings are of a training on examples, and there is no model that learns them."""
    if is_of_examples(user) and not has_model:
        raise UsageError(
            f"data.kind is {user.values['data']['kind']}, and there is no model that learns the examples",
            "name the one to start from: gptcli finetune RUN DATA",
        )
