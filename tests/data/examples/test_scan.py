"""Rows become tokens with a mask on one side of a split, and whatever is left out is counted."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.config import DataConfig, MixedCorpus
from gptcli.data.examples import scan as scan_module
from gptcli.data.examples.identity import identity_of
from gptcli.data.examples.scan import ExampleScan, scan_examples
from gptcli.data.examples.statistics import example_lines
from gptcli.data.examples.template import template_for_examples
from gptcli.data.mix import prepare_mix, scan_mix
from gptcli.data.shards import TokenShards
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.errors import DataError, UsageError
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

from .conftest import SEQ_LEN, Scan, conversation, write_rows

ROWS = [conversation(f"Where is {n}?", f"{n} is at {n % 7}.") for n in range(40)]


def texts_of(scan: ExampleScan, part: str) -> list[str]:
    """Return the text of every example of a split, without special tokens."""
    shards = TokenShards.open(scan.directory / part)
    return [scan.tokenizer.decode(ids) for ids, _ in shards.iter_documents()]


def prompts_of(scan: ExampleScan, part: str) -> set[str]:
    """Return the first question of every example of a split."""
    return {text.splitlines()[1] for text in texts_of(scan, part)}


def test_shards_hold_the_ids_and_the_mask_of_the_chat_encoder(scan, workspace, tokenizer) -> None:
    found = scan(ROWS)
    template = template_for_examples(tokenizer, found.config)
    with ChatEncoder(template, tokenizer) as encoder:
        expected = {}
        for row in ROWS:
            ids, in_loss, _ = encoder.conversation(row["messages"], "row")
            expected[tuple(ids.tolist())] = in_loss.tolist()
    seen = []
    for part in ("train", "val"):
        shards = TokenShards.open(found.directory / part)
        assert shards.is_masked and not shards.framing.overhead
        for number in range(shards.documents):
            first, last = shards.document_bounds(number)
            ids = tuple(shards.read(first, last).tolist())
            assert shards.read_mask(first, last).tolist() == expected[ids]
            seen.append(ids)
    assert sorted(seen) == sorted(expected)
    counts = found.examples
    assert counts["rows"] == 40 == counts["train"]["examples"] + counts["val"]["examples"]
    assert counts["train"]["tokens"] == len(TokenShards.open(found.directory / "train"))
    in_loss = counts["train"]["tokens_in_loss"] + counts["val"]["tokens_in_loss"]
    assert in_loss == sum(map(sum, expected.values()))
    answers = sum(len(row["messages"][1]["content"].encode()) for row in ROWS)
    assert in_loss == answers + len(ROWS)  # each with the token that ends it
    assert found.train.documents == counts["train"]["examples"] and found.val.documents >= 2


def test_what_nothing_can_be_learnt_from_is_left_out_and_counted(scan) -> None:
    long = "x" * SEQ_LEN
    rows = [
        *ROWS,
        ROWS[3],  # a duplicate
        conversation("Empty?", "  "),
        conversation("Nobody answers."),
        conversation("Cut?", long),
        conversation(long, "too late"),
    ]
    found = scan(rows)
    counts = found.examples
    assert [counts[name] for name in ("rows", "duplicates", "empty_answers", "no_answer", "cut", "too_long")] == [
        45, 1, 1, 1, 1, 1,
    ]  # fmt: skip
    assert counts["train"]["examples"] + counts["val"]["examples"] == 41
    assert counts["tokens"]["longest"] > SEQ_LEN and counts["context"] == SEQ_LEN
    texts = texts_of(found, "train") + texts_of(found, "val")
    assert sum(text.startswith("user\nCut?") for text in texts) == 1 and not any("too late" in text for text in texts)
    longest = max(np.diff(TokenShards.open(found.directory / "train").document_starts.astype(int)))
    assert longest <= SEQ_LEN + 1
    lines = "\n".join(example_lines(counts))
    left_out = "1 equal to an earlier one, 1 with an empty answer, 1 without an answer, 1 too long"
    assert left_out in lines and f"1 example cut to the context of {SEQ_LEN}" in lines
    kept = scan(rows, deduplicate="none").examples
    assert kept["duplicates"] == 0 and kept["train"]["examples"] + kept["val"]["examples"] == 42
    dropped = scan(rows, too_long="drop").examples
    assert (dropped["cut"], dropped["too_long"]) == (0, 2)


def test_conversations_with_one_prompt_are_on_one_side(scan) -> None:
    rows = [conversation(f"Prompt {n}?", f"Answer {k} to {n}.") for n in range(30) for k in range(2)]
    rows += [conversation(f"Prompt {n}?", f"Answer 0 to {n}.", "And then?", f"Then {n}.") for n in range(30)]
    found = scan(rows)
    assert found.examples["duplicates"] == 0
    train, val = prompts_of(found, "train"), prompts_of(found, "val")
    assert val and train.isdisjoint(val) and len(train | val) == 30
    assert found.grouped == 60


def test_few_or_large_examples_are_split_too(scan) -> None:
    found = scan([conversation("A?", "1" * 30), conversation("B?", "2" * 20), conversation("B?", "3" * 10)])
    assert (found.train.documents, found.val.documents) in ((1, 2), (2, 1))
    with pytest.raises(DataError, match="all 2 examples have one prompt"):
        scan([conversation("A?", "1"), conversation("A?", "2")])


def test_an_own_validation_file_leaves_its_prompts_out_of_training(scan, tmp_path: Path) -> None:
    val = write_rows(tmp_path / "val.jsonl", [conversation("Where is 3?", "Nowhere."), ROWS[5]])
    found = scan(ROWS, val=str(val))
    assert texts_of(found, "val") == [
        "user\nWhere is 3?\nassistant\nNowhere.\n",
        "user\nWhere is 5?\nassistant\n5 is at 5.\n",
    ]
    assert found.examples["validated_on"] == 2 == found.overlap and found.train.documents == 38
    assert found.examples["known_answers"] == 0


def test_a_second_scan_reads_the_cache_and_a_changed_setting_does_not(scan, monkeypatch) -> None:
    first = scan(ROWS)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(scan_module, "ChatEncoder", refuse)
    second = scan(ROWS)
    assert second.from_cache and not first.from_cache and second.report() == first.report()
    for changed in ({"loss_on": "all"}, {"too_long": "drop"}, {"chat_template": "chatml", "chat_date": "2026-11-30"}):
        with pytest.raises(AssertionError, match="encoded again"):
            scan(ROWS, **changed)


def test_a_row_that_is_no_example_is_an_error_with_its_place(scan, workspace, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 of .*rows\.jsonl holds a text"):
        scan([ROWS[0], {"messages": "hello"}])
    with pytest.raises(DataError, match=r"nothing in .*rows\.jsonl can be learnt: of 2 rows 2 without an answer"):
        scan([conversation("Hello?"), conversation("Anybody?")])
    write_rows(tmp_path / "folder" / "b.jsonl", [conversation("Left out?", "Yes."), {"messages": 5}])
    write_rows(tmp_path / "folder" / "a.jsonl", ROWS)
    found = scan_examples([str(tmp_path / "folder")], workspace())
    assert [Path(one.name).name for one in found.left_out] == ["b.jsonl"]
    assert not any("Left out" in text for part in ("train", "val") for text in texts_of(found, part))


def test_columns_are_the_same_examples(workspace, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = [{"prompt": f"Where is {n}?", "completion": f"{n} is at {n % 7}."} for n in range(40)]
    write_rows(tmp_path / "a.jsonl", pairs)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(pairs)
    found = [scan_examples([str(tmp_path / f"a.{ending}")], workspace()) for ending in ("jsonl", "parquet", "csv")]
    assert len({one.fingerprint for one in found}) == 1


def test_what_one_corpus_of_a_mix_is_validated_on_no_other_is_trained_on(workspace, tmp_path: Path) -> None:
    first = write_rows(tmp_path / "first.jsonl", ROWS)
    second = write_rows(tmp_path / "second.jsonl", [conversation(f"Where is {n}?", "Here.") for n in range(20, 60)])
    mix = [MixedCorpus(corpus=(str(path),), weight=weight) for path, weight in ((first, 3.0), (second, 1.0))]
    space = workspace(mix=tuple(mix))
    found = scan_mix(space)
    train = [prompts_of(one, "train") for one in found.scans]
    val = [prompts_of(one, "val") for one in found.scans]
    assert val[0] and val[1] and all(part.isdisjoint(val[0] | val[1]) for part in train)
    left_out = [one.examples["validated_on"] for one in found.scans]
    shared = {f"Where is {n}?" for n in range(20, 40)}
    assert left_out == [len((val[1] - val[0]) & shared), len((val[0] - val[1]) & shared)] and sum(left_out)
    data = prepare_mix(found, space)
    assert data.val.is_masked and data.val.documents == len(val[0]) + len(val[1])
    assert data.report["mix"][1]["examples"]["train"]["examples"] == len(train[1]) == data.corpora[1].train.documents
    assert [scan.report() for scan in scan_mix(space).scans] == [scan.report() for scan in found.scans]


def test_examples_without_a_model_are_refused(workspace, tmp_path: Path) -> None:
    space = workspace()
    with pytest.raises(UsageError, match="no model that learns the examples"):
        scan_examples([str(write_rows(tmp_path / "a.jsonl", ROWS))], space.__class__(space.config, space.cache_dir))


def test_identity_depends_on_what_is_learnt_and_on_what_is_before_it() -> None:
    question, answer, more = (
        {"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "A"), ("user", "M"))
    )
    one = identity_of([question, answer], None, learns_all=False)
    assert one == identity_of([dict(reversed(question.items())), answer, more], None, learns_all=False)
    assert one.whole != identity_of([question, answer, more], None, learns_all=True).whole
    other = {"role": "assistant", "content": "B"}
    assert identity_of([question, other], None, learns_all=False).prompt == one.prompt
    assert identity_of([question, other], None, learns_all=False).whole != one.whole
    longer = identity_of([question, answer, more, other], None, learns_all=False)
    assert longer.beginnings == (one.whole,) and longer.prompt != one.prompt
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert identity_of([question, answer], tools, learns_all=False).prompt != one.prompt
    assert identity_of([more, answer], None, learns_all=False).answer == one.answer


def test_what_no_template_reads_makes_no_example_another_one(scan: Scan) -> None:
    same = [
        {"messages": [{**message, "id": f"{n}", "time": n} for message in conversation("Same?", "Yes.")["messages"]]}
        for n in range(6)
    ]
    found = scan([*ROWS, *same])
    assert found.examples["duplicates"] == 5
    assert sum("Same?" in text for part in ("train", "val") for text in texts_of(found, part)) == 1


def test_messages_are_compared_by_what_a_template_reads() -> None:
    def whole(template: str, **more: object) -> bytes:
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **more}]
        return identity_of(messages, None, learns_all=False, template=template).whole

    for template in ("{{ m.name }}", "{{ m['name'] }}", "{{ m.get('name') }}"):
        assert whole(template, name="x") != whole(template, name="y")
        assert whole(template, other="x") == whole(template, other="y")
    assert whole("{{ m.names }}", name="x") == whole("{{ m.names }}")
    assert whole("", thinking="x") == whole("", reasoning_content="x") != whole("")
    calls = [{"id": "1", "function": {"name": "f"}}]
    assert whole("", tool_calls=calls) == whole("", tool_calls=[{**calls[0], "id": "2"}]) != whole("")
    assert whole("", weight=0) != whole("") == whole("", weight=1)


def test_an_answer_of_weight_zero_is_counted_as_none(scan: Scan) -> None:
    silent = {"messages": [{**message, "weight": 0} for message in conversation("Learnt?", "No.")["messages"]]}
    counts = scan([*ROWS, silent]).examples
    assert (counts["no_answer"], counts["empty_answers"]) == (1, 0)


def test_the_cache_is_of_one_tokenizer_with_all_that_a_template_reads(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ sep_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    base = tokenizer.with_chat_template(source)
    rows = str(write_rows(tmp_path / "rows.jsonl", ROWS))

    def scanned(of: Tokenizer) -> ExampleScan:
        config = DataConfig(kind="examples")
        return scan_examples([rows], Workspace(config, tmp_path / "cache", model=ExampleModel(of, SEQ_LEN)))

    one, two = (
        scanned(Tokenizer(base.backend, {**base.settings, "sep_token": name}))
        for name in ("<|im_start|>", "<|im_end|>")
    )
    assert not two.from_cache and one.examples["train"]["tokens"] == two.examples["train"]["tokens"]
    assert one.fingerprint != two.fingerprint
    two.tokenizer.save(tmp_path)
    kept = scanned(load_tokenizer(tmp_path))
    assert kept.from_cache and kept.fingerprint == two.fingerprint


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_corpus_of_a_mix_is_trained_on_what_goes_on_from_another_ones_validation(
    order: tuple[int, int], tmp_path: Path, workspace
) -> None:
    short = [conversation(f"Q{n}?", f"A{n}.") for n in range(30)]
    long = [conversation(f"Q{n}?", f"A{n}.", "More?", f"B{n}.") for n in range(30)]
    files = [str(write_rows(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("short", short), ("long", long))]
    mix = tuple(MixedCorpus(corpus=(files[place],), weight=1.0) for place in order)
    one, two = scan_mix(workspace(mix=mix)).scans
    assert not prompts_of(one, "val") & prompts_of(two, "train")
    assert not prompts_of(two, "val") & prompts_of(one, "train")
