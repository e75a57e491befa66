"""`/v1/completions` by OpenAI's own client, against the model itself and `gptcli generate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
import torch

from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import Completion, Prompt
from gptcli.session import Session

Complete = Callable[..., openai.types.Completion]
CONTINUES, CONTEXT = "continues", 160
PROMPTS = ("The ferry", "She never", "“Leave it,” said", "café")


def generated(session: Session, ids: list[int], **settings: Any) -> list[Completion]:
    """What `gptcli generate` draws after these ids."""
    config = GenerationConfig(overflow="stop", **settings)
    found = session.complete([Prompt(ids, "")], config, session.stop_ids)
    return found.prompts[0].completions


def test_a_prompt_may_be_a_text_or_ids_and_there_may_be_several(complete: Complete, continuing: Session) -> None:
    ids = [continuing.tokenizer.encode(text) for text in PROMPTS]
    options: dict[str, Any] = {"seed": 7, "max_tokens": 12}
    alone = [complete(prompt=text, **options).choices[0].text for text in PROMPTS]

    assert len(set(alone)) == len(PROMPTS)
    assert [complete(prompt=one, **options).choices[0].text for one in ids] == alone
    for several in (list(PROMPTS), ids):
        choices = complete(prompt=several, **options).choices
        assert [choice.text for choice in choices] == alone
        assert [choice.index for choice in choices] == [0, 1, 2, 3]


PENALTIES = {"presence_penalty": 1.5, "frequency_penalty": -0.5}
OWN = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.3}


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({}, {}),
        ({"temperature": 1.4, "top_p": 0.8}, {"temperature": 1.4, "top_p": 0.8}),
        (PENALTIES, PENALTIES),
        ({"logit_bias": {"65": 30, "66": 30, "67": -100}}, {"logit_bias": {65: 30.0, 66: 30.0, 67: -100.0}}),
        ({"extra_body": OWN}, OWN),
        ({"top_p": 0, "extra_body": {"top_k": -1}}, {"temperature": 0.0}),
    ],
)
def test_the_texts_are_those_of_generate_with_the_same_ids_and_seed(
    complete: Complete, continuing: Session, given: dict[str, Any], settings: dict[str, Any]
) -> None:
    ids = continuing.tokenizer.encode(PROMPTS[0])
    expected = generated(continuing, ids, seed=5, num_samples=3, max_new_tokens=24, **{"temperature": 1.0, **settings})

    found = complete(prompt=ids, seed=5, n=3, max_tokens=24, **given)

    assert [choice.text for choice in found.choices] == [one.text for one in expected]
    assert [choice.finish_reason for choice in found.choices] == [
        "length" if one.finish_reason == "length" else "stop" for one in expected
    ]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
        len(ids),
        sum(len(one.tokens) for one in expected),
    )
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_without_a_seed_texts_differ_and_with_one_they_repeat(complete: Complete) -> None:
    def texts(**options: Any) -> list[str]:
        return [choice.text for choice in complete(max_tokens=24, n=4, **options).choices]

    assert len(set(texts())) == 4
    assert texts() != texts()
    assert texts(seed=3) == texts(seed=3)
    assert texts(seed=3)[1:] == texts(seed=4)[:3]
    assert texts(seed=-1)[1:] == texts(seed=0)[:3]


def reference_logprobs(session: Session, ids: list[int]) -> torch.Tensor:
    """The log-probabilities (T, V) after each id."""
    with torch.no_grad():
        return session.model(torch.tensor([ids]))[0].log_softmax(-1)


@pytest.mark.parametrize("most", [0, 1, 5])
def test_echo_gives_the_log_probabilities_of_the_prompt_too(complete: Complete, continuing: Session, most: int) -> None:
    ids = continuing.tokenizer.encode("It left at nine; the café")
    found = complete(prompt=ids, echo=True, logprobs=most, max_tokens=6, seed=1).choices[0]
    drawn = generated(continuing, ids, seed=1, max_new_tokens=6, temperature=1.0)[0].tokens
    expected = reference_logprobs(continuing, ids + drawn)
    shown = found.logprobs
    assert shown is not None and shown.token_logprobs and shown.top_logprobs and shown.tokens and shown.text_offset

    assert shown.token_logprobs[0] is None and shown.top_logprobs[0] is None
    for place, token in enumerate([*ids, *drawn][1:], 1):
        row = expected[place - 1]
        assert shown.token_logprobs[place] == pytest.approx(float(row[token]), abs=1e-4)
        table = shown.top_logprobs[place]
        own = sorted(table.values(), reverse=True)
        best = row.topk(max(most, 1)).values.tolist()
        assert own[:most] == pytest.approx(best[:most], abs=1e-4)
        assert len(table) == most + (float(row[token]) < best[-1] or most == 0)
        assert shown.token_logprobs[place] in table.values()
        assert (shown.token_logprobs[place] == own[0]) == (int(row.argmax()) == token or most == 0)


def test_tokens_are_aligned_with_the_text(complete: Complete, continuing: Session) -> None:
    for seed in range(8):
        choice = complete(prompt="“Ça va, café?”", echo=True, logprobs=1, max_tokens=30, seed=seed).choices[0]
        shown = choice.logprobs
        assert shown is not None and shown.tokens and shown.text_offset
        assert (
            len(shown.tokens)
            == len(shown.text_offset)
            == len(shown.token_logprobs or [])
            == len(shown.top_logprobs or [])
        )
        assert shown.text_offset == sorted(shown.text_offset)
        for token, start in zip(shown.tokens, shown.text_offset, strict=True):
            if not token.startswith(("bytes:", "<|")):
                assert choice.text[start:].startswith(token)
        joined = b"".join(
            bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()
            for token in shown.tokens
            if not token.startswith("<|")
        )
        assert joined.decode(errors="replace") == choice.text


def test_only_the_prompt_is_scored_if_no_token_is_asked_for(complete: Complete, continuing: Session) -> None:
    ids = continuing.tokenizer.encode(PROMPTS[2])
    found = complete(prompt=PROMPTS[2], echo=True, logprobs=1, max_tokens=0)
    shown = found.choices[0].logprobs

    assert found.choices[0].text == PROMPTS[2] and found.choices[0].finish_reason == "length"
    assert shown is not None and shown.token_logprobs and len(shown.token_logprobs) == len(ids)
    assert found.usage is not None and found.usage.completion_tokens == 0


def test_best_of_returns_those_with_the_highest_mean_log_probability(complete: Complete, continuing: Session) -> None:
    ids = continuing.tokenizer.encode(PROMPTS[0])
    candidates = generated(continuing, ids, seed=2, num_samples=6, max_new_tokens=8, temperature=1.0)
    ranked = sorted(candidates, key=lambda one: -sum(one.logprobs) / len(one.logprobs))

    found = complete(prompt=ids, n=2, best_of=6, seed=2, max_tokens=8)

    assert [choice.text for choice in found.choices] == [one.text for one in ranked[:2]]
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.usage is not None and found.usage.completion_tokens == sum(len(one.tokens) for one in candidates)


def test_a_stream_brings_the_same_texts_and_tokens_in_whole_characters(complete: Complete) -> None:
    options: dict[str, Any] = {"prompt": "“Ça", "n": 3, "seed": 11, "max_tokens": 40, "logprobs": 2, "echo": True}
    whole = complete(**options)
    chunks = list(complete(**options, stream=True, stream_options={"include_usage": True}))

    for choice in whole.choices:
        pieces = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert len(pieces) > 3
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [choice.finish_reason]
        assert choice.logprobs is not None
        joined = {
            key: [entry for piece in pieces for entry in getattr(piece.logprobs, key)]
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        assert joined["tokens"] == choice.logprobs.tokens and joined["text_offset"] == choice.logprobs.text_offset
        assert len(joined["top_logprobs"]) == len(choice.logprobs.tokens)
        assert joined["token_logprobs"] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    without = list(complete(**options, stream=True))
    assert all(chunk.choices for chunk in without) and "usage" not in without[0].model_fields_set


def test_a_text_ends_before_a_stop_string_wherever_tokens_begin(complete: Complete) -> None:
    text = complete(seed=21, max_tokens=40).choices[0].text
    assert len(text) > 20
    for start in range(0, len(text) - 5, 8):
        for length in (1, 5):
            stop = text[start : start + length]
            expected = text[: text.index(stop)]
            for given in (stop, ["never there", stop, ""]):
                found = complete(seed=21, max_tokens=40, stop=given, logprobs=0).choices[0]
                assert (found.text, found.finish_reason) == (expected, "stop")
                assert found.logprobs is not None and found.logprobs.tokens is not None
            pieces = [
                one for chunk in complete(seed=21, max_tokens=40, stop=stop, stream=True) for one in chunk.choices
            ]
            assert "".join(piece.text for piece in pieces) == expected


def test_a_completion_ends_where_the_context_is_full_unless_it_may_slide(
    complete: Complete, continuing: Session
) -> None:
    ids = (continuing.tokenizer.encode("The ferry left at nine. ") * 20)[: CONTEXT - 3]
    bias = {"logit_bias": {str(stop): -100 for stop in continuing.stop_ids}}
    ended = complete(prompt=ids, max_tokens=20, seed=1, **bias)
    slid = complete(prompt=ids, max_tokens=20, seed=1, **bias, extra_body={"overflow": "slide"})

    assert ended.choices[0].finish_reason == slid.choices[0].finish_reason == "length"
    assert ended.usage is not None and ended.usage.completion_tokens == 4  # the last is drawn and not read
    assert slid.usage is not None and slid.usage.completion_tokens == 20
    assert slid.choices[0].text.startswith(ended.choices[0].text.rstrip("\ufffd"))


def test_ids_are_returned_if_they_are_asked_for(complete: Complete, continuing: Session) -> None:
    """By which the page goes on from a token that was not drawn."""
    ids = continuing.tokenizer.encode("“Ça")
    asked = {"prompt": "“Ça", "seed": 2, "max_tokens": 20, "logprobs": 3, "extra_body": {"return_token_ids": True}}
    drawn = generated(continuing, ids, seed=2, max_new_tokens=20, temperature=1.0)[0].tokens
    whole = complete(**asked).choices[0].model_dump()
    pieces = [one.model_dump() for chunk in complete(**asked, stream=True) for one in chunk.choices]

    assert whole["prompt_token_ids"] == ids and whole["token_ids"] == drawn
    assert [piece.get("prompt_token_ids") for piece in pieces] == [ids] + [None] * (len(pieces) - 1)
    assert [token for piece in pieces for token in piece["token_ids"]] == drawn
    for tokens in (
        whole["logprobs"]["content"],
        [token for piece in pieces for token in piece["logprobs"]["content"]],
    ):
        text = [token for token in drawn if token not in continuing.stop_ids]
        assert [token["id"] for token in tokens] == text
        for token in tokens:
            assert bytes(token["bytes"]) == continuing.tokenizer.bytes_of_id[token["id"]]
            assert [bytes(one["bytes"]) for one in token["top_logprobs"]] == [
                continuing.tokenizer.bytes_of_id.get(one["id"], b"") for one in token["top_logprobs"]
            ]
    assert "token_ids" not in complete(prompt="a", max_tokens=1).choices[0].model_dump()


def test_an_empty_prompt_begins_a_document(complete: Complete, continuing: Session) -> None:
    begin = list(continuing.tokenizer.framing.before)
    expected = complete(prompt=begin, seed=1).choices[0].text
    assert complete(prompt="", seed=1).choices[0].text == expected
    assert complete(prompt=None, seed=1).choices[0].text == expected


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"n": 3, "best_of": 2}, "best_of", None),
        ({"best_of": 2, "stream": True}, "best_of", None),
        ({"n": 33}, "n", None),
        ({"prompt": ["a"] * 33}, "prompt", None),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": ["a", 5]}, "prompt", "invalid_value"),
        ({"prompt": [10_000]}, "prompt", None),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": "x" * 500}, "prompt", "context_length_exceeded"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"logit_bias": {"9999": 1}}, "logit_bias", None),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
    ],
)
def test_what_is_not_possible_is_refused_by_its_name(
    complete: Complete, options: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(**options)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert isinstance(caught.value.body, dict) and caught.value.body["type"] == "invalid_request_error"
