"""Rows of preferences as pairs of documents: what is in the loss, what is left out, and how rows are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.config import DataConfig, MixedCorpus
from gptcli.data.example_forms import preference_of
from gptcli.data.examples.preferences import preference_encoder
from gptcli.data.examples.scan import ExampleScan
from gptcli.data.examples.statistics import ExampleCounts
from gptcli.data.examples.template import template_for_examples
from gptcli.data.mix import prepare_mix, scan_mix
from gptcli.data.shards import TokenShards
from gptcli.tokenizer.tokenizer import Tokenizer

from .conftest import write_rows

SEQ_LEN = 300
FIRST = [{"role": "user", "content": "A colour?"}, {"role": "assistant", "content": "Red."}]
PROMPT = [*FIRST, {"role": "user", "content": "Another?"}]


def row(chosen: str, rejected: str, prompt: Any = PROMPT) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def encoded(tokenizer: Tokenizer, *rows: dict[str, Any]) -> tuple[list[Any], ExampleCounts]:
    counts = ExampleCounts()
    template = template_for_examples(tokenizer, DataConfig(kind="preferences"))
    with ChatEncoder(template, tokenizer) as encoder:
        encode = preference_encoder(encoder, SEQ_LEN)
        return [encode(preference_of(one, "row"), "row", counts) for one in rows], counts


def test_only_the_two_answers_and_their_ends_are_in_the_loss(tokenizer: Tokenizer) -> None:
    [unit], _ = encoded(tokenizer, row("Blue.", "Red again."))
    for (ids, in_loss, _), answer in zip(unit.documents, ("Blue.", "Red again."), strict=True):
        assert tokenizer.decode(ids[in_loss].tolist()).startswith(answer)
        assert np.flatnonzero(in_loss).tolist() == list(range(np.argmax(in_loss), np.argmax(in_loss) + in_loss.sum()))
        assert in_loss.sum() == len(answer) + 1, "one token for each byte, and the one that ends the answer"
    chosen, rejected = (ids[: np.argmax(in_loss)] for ids, in_loss, _ in unit.documents)
    assert np.array_equal(chosen, rejected)


def test_pairs_from_which_nothing_can_be_learnt_are_left_out_and_counted(tokenizer: Tokenizer) -> None:
    units, counts = encoded(
        tokenizer,
        row("Blue.", "Green."),
        row("Blue.", "Blue."),
        row("Blue.", " "),
        row("Blue.", "Green " * 40),
        row("Blue.", "Green " * 5),
    )
    assert [unit is not None for unit in units] == [True, False, False, False, True]
    assert (counts.rows, counts.undecided, counts.empty_answers, counts.too_long) == (5, 1, 1, 1)


def test_preferences_are_equal_if_both_answers_are(tokenizer: Tokenizer) -> None:
    units, _ = encoded(tokenizer, row("Blue.", "Green."), row("Blue.", "Grey."), row("Blue.", "Green."))
    one, two, three = (unit.identity for unit in units)
    assert one == three and one.whole != two.whole and one.prompt == two.prompt


def test_a_scan_keeps_pairs_together_and_says_so(scan: Callable[..., ExampleScan]) -> None:
    rows = [row("Blue.", "No.", f"Colour {number}?") for number in range(12)]
    found = scan([*rows, rows[0], row("Blue.", "Blue.")], kind="preferences")
    train, val = (TokenShards.open(found.directory / name) for name in ("train", "val"))
    assert train.unit_documents == val.unit_documents == 2
    assert train.documents + val.documents == 24
    report = found.report()["examples"]
    assert report["undecided"] == 1 and report["duplicates"] == 1 and report["loss_on"] == "answers"
    assert report["train"]["examples"] == train.documents // 2


def test_pairs_stay_together_where_the_splits_of_a_mix_are_joined(workspace, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.jsonl" for name in ("first", "second")]
    for path in paths:
        rows = [row("Blue.", "No.", f"{path.stem} {number}?") for number in range(6)]
        write_rows(path, rows)
    mix = tuple(MixedCorpus(corpus=(str(path),), weight=1.0) for path in paths)
    space = workspace(mix=mix, kind="preferences")
    data = prepare_mix(scan_mix(space), space)
    assert data.val.unit_documents == 2 and data.val.documents == sum(val.documents for val in data.vals)


@pytest.mark.parametrize("loss_on", ["all", "completion"])
def test_the_loss_of_preferences_is_of_the_answers_only(loss_on: str) -> None:
    with pytest.raises(ValueError, match=f"loss_on={loss_on} is for kind examples, and kind is preferences"):
        DataConfig(kind="preferences", loss_on=loss_on)


def test_preferences_of_one_prompt_are_on_one_side_however_long_their_answers_are(tokenizer: Tokenizer) -> None:
    longer = [{"role": "assistant", "content": "Blue."}, *FIRST]
    units, _ = encoded(tokenizer, {**row("", "No."), "chosen": longer}, row("Red.", "No."))
    assert units[0].identity.prompt == units[1].identity.prompt


def test_texts_have_no_special_tokens_of_a_template() -> None:
    with pytest.raises(ValueError, match="special_tokens is for kinds examples and preferences, and kind is text"):
        DataConfig(special_tokens="<|user|>")
