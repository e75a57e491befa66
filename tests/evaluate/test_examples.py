"""Scores of examples on their masks against one full forward for each, and their answers against greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gptcli.data.chat_encoder import EncodedConversation, TurnSpan
from gptcli.errors import DataError
from gptcli.evaluate.example_report import ExampleReport
from gptcli.evaluate.examples import ExampleOptions, ExampleScorer, answers_of
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.sample import SampleMaker
from gptcli.generate.text import Generation, Prompt, complete
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.tokenizer import Tokenizer

STOP = 256
"""The byte tokenizer's end of text."""


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=257, context_length=96, n_layer=2, n_head=2, n_embd=32, init_std=0.3)
    return build_model(config, dtype=torch.float64).eval()


def greedy(model: GPT, context: Sequence[int], count: int) -> list[int]:
    ids = list(context)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(context) :]


def scorer(model: GPT, tokenizer: Tokenizer, stop_ids: set[int], **options: object) -> ExampleScorer:
    def generated(prompts: Sequence[Prompt], config: GenerationConfig) -> Generation:
        return complete(Engine(model), SampleMaker(tokenizer, config, stop_ids), prompts)

    return ExampleScorer(model, tokenizer, stop_ids, generated, ExampleOptions(**options))


def example(question: str, answer: Sequence[int], end: int) -> EncodedConversation:
    asked = list(question.encode())
    ids = np.array([*asked, *answer, end, 10], dtype=np.uint32)
    in_loss = np.zeros(len(ids), dtype=bool)
    in_loss[len(asked) : -1] = True
    return EncodedConversation(
        ids, in_loss, (TurnSpan("user", 0, len(asked)), TurnSpan("assistant", len(asked), len(ids)))
    )


def test_losses_are_those_of_one_forward_for_each_example(model: GPT, byte_tokenizer: Tokenizer) -> None:
    examples = [example(f"Question {number}?" * (number + 1), b"some text", STOP) for number in range(5)]
    found = scorer(model, byte_tokenizer, {STOP}, answers=0, context=96).evaluate(examples)
    nats: dict[str, list[float]] = {"mask": [], "user": [], "assistant": []}
    for ids, in_loss, turns in examples:
        tokens = torch.tensor(ids.astype(np.int64))
        with torch.no_grad():
            losses = -model(tokens[None, :-1])[0].log_softmax(-1).gather(1, tokens[1:, None])[:, 0].numpy()
        nats["mask"] += losses[in_loss[1:]].tolist()
        for role, start, stop in turns:
            nats[role] += losses[max(start, 1) - 1 : stop - 1].tolist()
    assert (found.examples, found.tokens) == (5, sum(len(one.ids) for one in examples)) and found.answers is None
    assert found.in_loss.tokens == len(nats["mask"]) == 5 * 10
    assert found.in_loss.loss == pytest.approx(np.mean(nats["mask"]), rel=1e-9)
    assert found.in_loss.uncertainty.low < found.in_loss.loss < found.in_loss.uncertainty.high
    for role in ("user", "assistant"):
        assert found.roles[role].tokens == len(nats[role])
        assert found.roles[role].loss == pytest.approx(np.mean(nats[role]), rel=1e-9)


def test_answers_are_right_if_the_model_writes_and_ends_them(model: GPT, byte_tokenizer: Tokenizer) -> None:
    """The right answers are what the model itself writes; its own token after them is made the one that ends them."""
    question = "What is the answer?"
    written = greedy(model, question.encode(), 30)
    end = next(place for place in range(5, 30) if written[place] not in written[:place])
    stop_ids = {written[end], STOP}
    right = example(question, written[:end], written[end])
    wrong = example(question, [*written[: end - 1], ord("y" if written[end - 1] == ord("x") else "x")], written[end])
    too_short = example(question, written[: end - 1], STOP)
    long = example("Tell me more.", [120] * 70, STOP)
    cut = EncodedConversation(right.ids[:-3], right.in_loss[:-3], ())
    found = scorer(model, byte_tokenizer, stop_ids).evaluate([right, wrong, too_short, long, cut])
    answers = found.answers
    assert answers is not None and (answers.found, answers.short, len(answers.generated)) == (4, 3, 3)
    assert [answer.is_match for answer in answers.generated] == [True, False, False]
    assert answers.generated[0].expected == byte_tokenizer.decode(written[:end]).strip()
    assert answers.exact_match.share == pytest.approx(1 / 3)
    hits = 0
    for ids, in_loss, _ in (right, wrong, too_short):
        with torch.no_grad():
            best = model(torch.tensor(ids[None, :-1].astype(np.int64)))[0].argmax(-1).numpy()
        hits += int((best == ids[1:])[in_loss[1:]].sum())
    assert (answers.token_accuracy.hits, answers.token_accuracy.trials) == (hits, 3 * (end + 1) - 1)

    report = ExampleReport(found, "a model", "rows.jsonl", "assistant")
    assert report.as_dict()["answers"]["exact_match"] == answers.exact_match.share
    text = report.text()
    assert "of 3 answers" in text and "(4 answers in all, 3 of them of at most 64 tokens)" in text and "wrong:" in text


def test_an_answer_that_the_model_does_not_end_is_wrong(model: GPT, byte_tokenizer: Tokenizer) -> None:
    """The model would have gone on: the end token is a part of what it is to learn."""
    question = "Do you stop?"
    written = greedy(model, question.encode(), 6)
    (answer,) = scorer(model, byte_tokenizer, {STOP}).evaluate([example(question, written, STOP)]).answers.generated
    assert not answer.is_ended and not answer.is_match and answer.generated.startswith(answer.expected)


def test_each_stretch_of_the_mask_that_ends_is_an_answer() -> None:
    ids = np.arange(20, dtype=np.uint32)
    in_loss = np.zeros(20, dtype=bool)
    in_loss[[0, 1, 4, 5, 6, 9, 10, 15, 16, 19]] = True
    found = list(answers_of(3, EncodedConversation(ids, in_loss, ()), {1, 5, 10, 16}))
    assert [answer.ids for answer in found] == [(4, 5), (9, 10), (15, 16)]
    assert [answer.context for answer in found] == [tuple(range(4)), tuple(range(9)), tuple(range(15))]


def test_intervals_of_several_answers_an_example_resample_examples(model: GPT, byte_tokenizer: Tokenizer) -> None:
    ids = np.array([*b"One?", *b"yes", STOP, *b"Two?", *b"no", STOP], dtype=np.uint32)
    in_loss = np.zeros(len(ids), dtype=bool)
    in_loss[4:8], in_loss[12:] = True, True
    found = scorer(model, byte_tokenizer, {STOP}).evaluate([EncodedConversation(ids, in_loss, ())] * 3).answers
    assert found.exact_match.trials == 6 and found.exact_match.uncertainty.unit == "3 examples"


def test_examples_without_answers_are_an_error(model: GPT, byte_tokenizer: Tokenizer) -> None:
    ids = np.array([1, 2, 3], dtype=np.uint32)
    with pytest.raises(DataError, match="no token of these examples is of an answer"):
        scorer(model, byte_tokenizer, {STOP}).evaluate([EncodedConversation(ids, np.zeros(3, dtype=bool), ())])
