"""`/v1/chat/completions` by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import Prompt
from gptcli.session import Session

ANSWERS, CONTINUES = "answers", "continues"
Ask = Callable[..., Any]
NO_SCHEMA = {"name": "a", "schema": {"type": "nothing"}}


def content(answer: Any) -> str:
    return answer.choices[0].message.content


def test_the_answer_is_that_of_generate_on_the_template(ask: Ask, answering: Session) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who left?"}]
    with answering.chat_encoder() as encoder:
        ids = encoder.prompt(messages, "the conversation")
        config = GenerationConfig(seed=4, num_samples=3, max_new_tokens=30, temperature=1.0, overflow="stop")
        expected = answering.complete([Prompt(ids, messages)], config, encoder.stop_ids).prompts[0].completions

    found = ask(messages, seed=4, n=3, max_tokens=30)

    assert [choice.message.content for choice in found.choices] == [one.text for one in expected]
    assert len({choice.message.content for choice in found.choices}) == 3
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert found.usage.prompt_tokens == len(ids)
    assert found.usage.completion_tokens == sum(len(one.tokens) for one in expected)
    again = ask(messages, seed=4, n=3, max_tokens=30)
    assert [choice.message for choice in again.choices] == [choice.message for choice in found.choices]
    assert again.usage.prompt_tokens_details.cached_tokens == len(ids) - 1  # one is always read


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client: openai.OpenAI, ask: Ask) -> None:
    options: dict[str, Any] = {"seed": 9, "n": 2, "max_tokens": 30, "logprobs": True, "top_logprobs": 2}
    whole = ask(**options)
    chunks = list(ask(**options, stream=True, stream_options={"include_usage": True}))

    for choice in whole.choices:
        pieces = [one for chunk in chunks for one in chunk.choices if one.index == choice.index]
        assert pieces[0].delta.role == "assistant" and pieces[0].delta.content == ""
        assert all(piece.delta.role is None for piece in pieces[1:])
        assert "".join(piece.delta.content or "" for piece in pieces) == choice.message.content
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [choice.finish_reason]
        tokens = [token for piece in pieces if piece.logprobs for token in piece.logprobs.content]
        assert [token.bytes for token in tokens] == [token.bytes for token in choice.logprobs.content]
        expected = [token.logprob for token in choice.logprobs.content]
        assert [token.logprob for token in tokens] == pytest.approx(expected, abs=1e-4)
    *before, last = chunks
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None and chunk.choices for chunk in before)
    without = list(ask(**options, stream=True))
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in without)


def test_the_bytes_of_the_tokens_are_the_text(ask: Ask) -> None:
    partial = 0
    for seed in range(6):
        choice = ask("“Ça va?”", seed=seed, max_tokens=40, logprobs=True, top_logprobs=3).choices[0]
        tokens = choice.logprobs.content
        assert (
            bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace") == choice.message.content
        )
        for token in tokens:
            assert token.token == bytes(token.bytes).decode(errors="backslashreplace")
            assert len(token.top_logprobs) == 3
            assert token.logprob <= token.top_logprobs[0].logprob + 1e-5
            partial += "\\x" in token.token
    assert partial  # some were parts of characters
    assert ask(max_tokens=3).choices[0].logprobs is None
    assert ask(max_tokens=3, temperature=0, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_an_answer_ends_before_a_stop_string_and_no_chunk_has_a_part_of_it(ask: Ask) -> None:
    text = content(ask(seed=5, max_tokens=40))
    for start in range(1, len(text) - 4, 6):
        stop = text[start : start + 4]
        expected = text[: text.index(stop)]
        stopped = ask(seed=5, max_tokens=40, stop=[stop, "never there"])
        assert (content(stopped), stopped.choices[0].finish_reason) == (expected, "stop")
        so_far = ""
        for chunk in ask(seed=5, max_tokens=40, stop=stop, stream=True):
            so_far += chunk.choices[0].delta.content or ""
            assert expected.startswith(so_far)
        assert so_far == expected


def test_both_names_of_the_limit_are_known_and_the_newer_one_counts(ask: Ask) -> None:
    bias = {"logit_bias": dict.fromkeys(map(str, range(256, 286)), -100)}  # merged and special tokens
    assert ask(max_tokens=3, **bias).usage.completion_tokens == 3
    assert ask(max_completion_tokens=4, **bias).usage.completion_tokens == 4
    found = ask(max_completion_tokens=5, max_tokens=2, **bias)
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (5, "length")


def test_a_bias_forces_or_bans_a_token(ask: Ask, answering: Session) -> None:
    letter = answering.tokenizer.encode("e")[0]
    assert content(ask(max_tokens=4, logit_bias={letter: 100}, temperature=0)) == "eeee"
    assert content(ask(max_tokens=4, logit_bias={letter: 100}, temperature=0, frequency_penalty=2)) == "eeee"
    likely = ask(max_tokens=1, temperature=0, logprobs=True, top_logprobs=1).choices[0].logprobs.content[0]
    (banned,) = [id for id in range(300) if answering.tokenizer.bytes_of_id.get(id) == bytes(likely.bytes)][:1]
    assert content(ask(max_tokens=1, temperature=0, logit_bias={banned: -100})) != likely.token


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")
    is_dry: bool
    wind: Literal["calm", "storm"]


def test_every_answer_has_the_form_of_a_json_schema(ask: Ask, client: openai.OpenAI) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "schema": Weather.model_json_schema(), "strict": True},
    }
    ended = 0
    for temperature in (0.7, 1.5):
        for choice in ask("How?", n=4, seed=1, temperature=temperature, max_tokens=70, response_format=form).choices:
            if choice.finish_reason == "stop":
                ended += 1
                Weather.model_validate_json(choice.message.content)
    assert ended > 4
    cut = ask("How?", seed=1, max_tokens=5, response_format=form)
    assert cut.choices[0].finish_reason == "length" and content(cut).lstrip().startswith("{")
    messages: Any = [{"role": "user", "content": "How?"}]
    parsed = client.chat.completions.parse(model=ANSWERS, messages=messages, response_format=Weather, seed=1)
    assert isinstance(parsed.choices[0].message.parsed, Weather)


def test_json_object_gives_an_object(ask: Ask) -> None:
    for choice in ask(n=4, seed=3, max_tokens=80, response_format={"type": "json_object"}).choices:
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        else:
            assert choice.message.content.lstrip().startswith("{")
    assert content(ask(seed=1, max_tokens=5, response_format={"type": "text"})) == content(ask(seed=1, max_tokens=5))


def test_messages_may_have_parts_and_other_roles(ask: Ask) -> None:
    expected = content(ask([{"role": "system", "content": "Brief."}, {"role": "user", "content": "Who left?"}], seed=1))
    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "left?"}]
    assert (
        content(ask([{"role": "developer", "content": "Brief."}, {"role": "user", "content": parts}], seed=1))
        == expected
    )
    with_more = [
        {"role": "system", "content": "Brief.", "weight": 1},
        {"role": "user", "content": "Who left?", "annotations": []},
    ]
    assert content(ask(with_more, seed=1, user="me", store=True, extra_body={"never_heard_of": {"a": 1}})) == expected
    with pytest.raises(openai.BadRequestError, match="image_url is not supported"):
        ask([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}])


def test_tools_are_shown_to_the_model_and_calls_are_text(ask: Ask) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    messages = [
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Dry"},
    ]
    plain, described = ask("How?", max_tokens=5), ask("How?", max_tokens=5, tools=tools, tool_choice="auto")
    assert described.usage.prompt_tokens > plain.usage.prompt_tokens + 20
    assert described.choices[0].message.tool_calls is None
    assert ask(messages, max_tokens=5).usage.prompt_tokens > plain.usage.prompt_tokens + 10
    with pytest.raises(openai.BadRequestError, match="tool_choice is not supported"):
        ask(tools=tools, tool_choice="required")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "a", "parameters": {}}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stop": list("abcde")}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": NO_SCHEMA}}, "response_format"),
        ({"content": "x" * 600}, "messages"),
        ({"content": []}, "messages"),
        ({"content": [{"role": "user"}, {"role": "nobody", "content": "a"}]}, "messages"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused_by_its_name(ask: Ask, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**options)
    assert caught.value.param == param


def test_a_model_without_a_template_says_what_it_does(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"no chat template.*use /v1/completions") as caught:
        client.chat.completions.create(model=CONTINUES, messages=[{"role": "user", "content": "a"}])
    assert caught.value.code == "no_chat_template"


def test_a_conversation_too_long_is_refused_by_its_code(ask: Ask) -> None:
    with pytest.raises(openai.BadRequestError, match="160 tokens") as caught:
        ask("x" * 600)
    assert caught.value.code == "context_length_exceeded"
