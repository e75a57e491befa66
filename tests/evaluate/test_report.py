"""What is printed says what was measured and how."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.evaluate.perplexity import Evaluation, FileScore
from gptcli.evaluate.report import PerplexityReport, one_line
from gptcli.evaluate.statistics import Totals, Uncertainty
from gptcli.figures import figure
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer
from measuring import evaluate_texts

DOCUMENTED = {
    "loss", "perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity", "tokens", "bytes", "words",
    "loss_stderr", "context", "stride", "files",
}  # fmt: skip


@pytest.fixture
def evaluation(
    unigram_model: Callable[[torch.Tensor], GPT], byte_tokenizer: Tokenizer, documents: list[Document]
) -> Evaluation:
    logits = torch.linspace(0, 3, byte_tokenizer.vocab_size)
    return evaluate_texts(unigram_model(logits), byte_tokenizer, documents, context=20, stride=5, worst=2)


def strictly(text: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_the_documented_keys_and_the_measured_figures(evaluation: Evaluation) -> None:
    found = strictly(json.dumps(PerplexityReport(evaluation, "a model").as_dict()))
    assert set(found) >= DOCUMENTED
    assert (found["context"], found["stride"]) == (20, 5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(math.log2(found["byte_perplexity"]))
    nats = found["loss"] * found["tokens"]
    assert math.log(found["word_perplexity"]) * found["words"] == pytest.approx(nats)
    assert found["loss_interval"][0] < found["loss"] < found["loss_interval"][1]
    assert [file["file"] for file in found["files"]] == ["first.txt", "second.jsonl"]
    for key in ("tokens", "bytes", "words", "documents"):
        assert sum(file[key] for file in found["files"]) == found[key]
    assert len(found["worst"]) == 2


def test_perplexities_that_no_number_holds_are_null_in_json_with_the_reason(evaluation: Evaluation) -> None:
    assert PerplexityReport(evaluation, "a model").as_dict()["perplexity_withheld"] is None
    endless = replace(evaluation, totals=Totals(nats=1e6, tokens=5, bytes=5, words=2, documents=1))
    found = strictly(json.dumps(PerplexityReport(endless, "a model").as_dict()))
    assert (found["loss"], found["perplexity"], found["word_perplexity"]) == (2e5, None, None)
    assert found["perplexity_withheld"].startswith("the loss of a token and of a byte and of a word is above 709 nats")
    long_words = replace(evaluation, totals=Totals(nats=1500, tokens=5, bytes=5, words=2, documents=1))
    found = strictly(json.dumps(PerplexityReport(long_words, "a model").as_dict()))
    assert found["perplexity"] == pytest.approx(math.exp(300)) and found["word_perplexity"] is None
    assert found["perplexity_withheld"].startswith("the loss of a word is above")


def test_text_states_what_was_done(evaluation: Evaluation) -> None:
    text = PerplexityReport(evaluation, "run x, step 3").text()
    for stated in ("run x, step 3", "context 20", "stride 5", "each exactly once", "endoftext", "4, each", "95 %"):
        assert stated in text
    assert evaluation.uncertainty is not None
    loss = figure(evaluation.totals.loss, evaluation.uncertainty.interval)
    assert f"loss             {loss} nats per token" in text
    assert "first.txt" in text
    assert "second.jsonl" in text
    assert "unknown" not in text


def test_no_figure_is_printed_to_more_digits_than_its_interval_supports(evaluation: Evaluation) -> None:
    """A loss of 4.909 between 4.83 and 4.99 is a perplexity of 136 between 125 and 147, not of 135.5253."""
    totals = Totals(nats=4909.1627, tokens=1000, bytes=2000, words=400, documents=20)
    text = PerplexityReport(
        replace(evaluation, totals=totals, uncertainty=Uncertainty(0.04, 4.83, 4.99, "20 documents")), "m"
    ).text()
    for line in (
        "loss             4.909 nats per token",
        "95 % interval 4.830 to 4.990, standard error 0.040",
        "perplexity       136 (125 to 147)",
        "bits per byte    3.541",
        "byte perplexity  11.64",
        "word perplexity  214,000",
    ):
        assert line in text
    unsure = PerplexityReport(replace(evaluation, totals=totals, uncertainty=None), "m").text()
    assert "loss             4.9 nats per token" in unsure and "perplexity       140\n" in unsure
    exact = PerplexityReport(replace(evaluation, totals=totals, uncertainty=None), "m").as_dict()
    assert exact["loss"] == totals.loss  # programs get every digit


@pytest.mark.parametrize(
    ("text", "has_words"),
    [
        ("It rains in the night, and the owl sleeps.\n", True),
        ("Дождь идёт всю ночь, и сова спит.\n", True),
        ("രാത്രിയിൽ മഴ പെയ്യുന്നു\n", True),
        ("夜里下雨,猫头鹰在睡觉。\n", False),
        ("你好\n雨\n夜 里\n", False),  # short lines: few bytes a word
        ("夜に雨が降る。ふくろうは眠る。\n", False),
        ("ฝนตกตอนกลางคืน นกฮูกหลับ\n", False),
        ("ACGTTGCA" * 10 + "\n", False),
        ("An English text with one word of Chinese, 雨, in it.\n", True),
    ],
)
def test_a_word_has_a_perplexity_only_where_spaces_separate_words(
    unigram_model: Callable[[torch.Tensor], GPT], byte_tokenizer: Tokenizer, text: str, has_words: bool
) -> None:
    model = unigram_model(torch.linspace(0, 3, byte_tokenizer.vocab_size))
    found = evaluate_texts(model, byte_tokenizer, [Document(text * 3, "t")], context=20)
    assert found.totals.has_words == has_words
    assert ("word perplexity  not given" in PerplexityReport(found, "m").text()) != has_words
    assert PerplexityReport(found, "m").as_dict()["word_perplexity"] is not None  # as lm-eval counts words


def test_unknown_characters_and_a_missing_prefix_are_said(evaluation: Evaluation) -> None:
    text = PerplexityReport(replace(evaluation, unknown_tokens=1234, prefix=None), "m").text()
    assert "WARNING" in text
    assert "the tokenizer lacks 1,234 characters" in text
    assert "first token is not scored" in text


def test_of_many_files_those_with_the_most_bits_per_byte_are_listed(evaluation: Evaluation) -> None:
    totals = [replace(evaluation.totals, nats=evaluation.totals.nats * factor) for factor in range(1, 18)]
    files = tuple(FileScore(f"{number}.txt", some, None) for number, some in enumerate(totals))
    text = PerplexityReport(replace(evaluation, files=files), "m").text()
    listed = [
        line.split()[0] for line in text.splitlines() if line[:3].strip("0123456789.").startswith("t") or ".txt" in line
    ]
    assert [name for name in listed if name.endswith(".txt")] == [f"{number}.txt" for number in range(16, 6, -1)]
    assert "10 of 17 files" in text


def test_passages_cannot_send_control_characters_to_a_terminal() -> None:
    assert one_line("a\nb\x1b[31mé\udcff") == "a\\nb\\x1b[31mé\\udcff"
