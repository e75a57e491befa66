"""Conversations become the ids that transformers gives them, with a mask of what the assistant writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chat_templates import GENERATION, PLAIN, SPECIAL_TOKENS, STYLES, byte_level, sentence_piece
from gptcli.data.chat import CHATML, OF_MODEL
from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation
from gptcli.data.chat_template import ChatTemplate
from gptcli.data.known_renderings import KnownRenderings
from gptcli.errors import DataError
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import byte_tokenizer

SYSTEM = {"role": "system", "content": "You are the miller."}
MESSAGES = [
    {"role": "user", "content": "Who is the miller?"},
    {"role": "assistant", "content": "The miller is old."},
    {"role": "user", "content": "What does it bring?"},
    {"role": "assistant", "content": "It brings the winter; 300 apples."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = [
    {"role": "user", "content": "Is there frost?"},
    {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"place": "mill"}}}]},
    {"role": "tool", "content": '{"frost": true}'},
    {"role": "assistant", "content": "There is."},
]
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "qwen3": "<|im_end|>"}
"""The tokens that end an answer where it is not </s>."""
UNENDED = ("alpaca", "plain")
"""Styles that end answers by text."""
WITHOUT_SYSTEM = ("gemma", "mistral")

Encoders = Callable[..., ChatEncoder]


def messages_of(style: str) -> list[dict[str, Any]]:
    return MESSAGES if style in WITHOUT_SYSTEM else [SYSTEM, *MESSAGES]


def loss_of(style: str) -> str:
    return "completion" if style == "qwen3" else "assistant"


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "byte":
        return Tokenizer(
            byte_tokenizer().with_special_tokens(SPECIAL_TOKENS).backend, {"bos_token": "<s>", "eos_token": "</s>"}
        )
    return byte_level() if kind == "byte level" else sentence_piece(kind)


@pytest.fixture(scope="module")
def encoders() -> Iterator[Encoders]:
    """A function that gives the encoder of a template, of which one is made."""
    with ExitStack() as stack:

        @cache
        def encoder(source: str, kind: str = "byte level", loss_on: Any = "assistant") -> ChatEncoder:
            tokenizer = tokenizer_of(kind).with_chat_template(source)
            return stack.enter_context(
                ChatEncoder(ChatTemplate.of_model(tokenizer, OF_MODEL), tokenizer, loss_on=loss_on)
            )

        yield encoder


def theirs(encoder: ChatEncoder, folder: Path) -> Any:
    """transformers' tokenizer of the files that ours saves."""
    from transformers import PreTrainedTokenizerFast

    encoder.tokenizer.save(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def text_of(encoder: ChatEncoder, ids: Any) -> str:
    return encoder.tokenizer.backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)


def learnt(encoder: ChatEncoder, encoded: EncodedConversation) -> list[str]:
    """The stretches of tokens in the loss, as text."""
    edges = np.flatnonzero(np.diff(encoded.in_loss.astype(int), prepend=0, append=0)).reshape(-1, 2)
    return [text_of(encoder, encoded.ids[start:stop]) for start, stop in edges]


def require_same_ids(encoder: ChatEncoder, style: str, folder: Path) -> None:
    """Compare a conversation and its prompts with transformers, and the prompts with the conversation."""
    messages, reference = messages_of(style), theirs(encoder, folder)
    encoded = encoder.conversation(messages, "row 1")
    ids, expected = encoded.ids.tolist(), reference.apply_chat_template(messages, return_dict=False)
    assert ids.count(encoder.tokenizer.bos_id) == expected.count(encoder.tokenizer.bos_id)
    if style not in UNENDED:
        assert ids == expected
    else:  # the end of the last answer is a token instead of a line end
        assert text_of(encoder, ids) == text_of(encoder, expected).rstrip("\n") + "</s>"
    for number in (len(messages) - 3, len(messages) - 1):
        prompt = encoder.prompt(messages[:number], "row 1")
        asked = reference.apply_chat_template(messages[:number], return_dict=False, add_generation_prompt=True)
        if style == "plain":  # transformers gives no header
            assert text_of(encoder, prompt) == text_of(encoder, asked) + "assistant:"
        elif style == "alpaca":  # a token may cross the end of the earlier answer there
            assert text_of(encoder, prompt) == text_of(encoder, asked)
        else:
            assert prompt == asked
        assert ids[: len(prompt)] == prompt and encoded.in_loss[len(prompt)] == (number + 1 in answers_in_loss(style))
        assert not encoded.in_loss[len(prompt) - 1]


def answers_in_loss(style: str) -> tuple[int, ...]:
    """The numbers of the messages that are learnt, from 1."""
    count = len(messages_of(style))
    return (count,) if style == "qwen3" else (count - 2, count)


@pytest.mark.parametrize("style", STYLES)
def test_ids_of_byte_level_bpe_are_those_of_transformers_and_begin_with_those_of_each_prompt(
    style: str, encoders: Encoders, tmp_path: Path
) -> None:
    require_same_ids(encoders(STYLES[style], loss_on=loss_of(style)), style, tmp_path)


@pytest.mark.parametrize("style", STYLES)
def test_a_conversation_that_goes_on_has_the_same_ids_with_few_new_renderings(
    style: str, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turn by turn, with an answer that is written anew and thoughts that a later turn leaves out."""
    encoder, counts = encoders(STYLES[style], loss_on=loss_of(style)), list[int]()
    ask = encoder.renderer.process.request
    monkeypatch.setattr(encoder.renderer.process, "request", lambda *a: counts.append(len(a[0]["renders"])) or ask(*a))
    messages = messages_of(style)
    thinking = {"role": "assistant", "content": "<think>\nOld?\n</think>\n\nThe miller  is old. "}
    for answer in (MESSAGES[1], thinking):
        turns = [*messages[:-4], *MESSAGES[:1], answer, *MESSAGES[2:], *MESSAGES[:2], *MESSAGES[2:3]]
        first = len(turns) - 7 + 1
        for stop in range(first, len(turns) + 1, 2):
            counts.clear()
            found = encoder.prompt(turns[:stop], "row 1")
            encoder.renderer.known = KnownRenderings()
            assert found == encoder.prompt(turns[:stop], "row 1")
            assert stop == first or (counts[0] <= 6 and counts[0] < counts[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama2", "first", "always", "byte"])
@pytest.mark.parametrize("style", ["chatml", "llama2", "mistral", "qwen3", "vicuna", "alpaca"])
def test_ids_of_other_tokenizers_are_those_of_transformers(
    style: str, kind: str, encoders: Encoders, tmp_path: Path
) -> None:
    require_same_ids(encoders(STYLES[style], kind, loss_of(style)), style, tmp_path)


@pytest.mark.parametrize("style", STYLES)
def test_answers_are_learnt_with_the_token_that_ends_them_and_nothing_else_is(style: str, encoders: Encoders) -> None:
    encoder = encoders(STYLES[style], loss_on=loss_of(style))
    encoded = encoder.conversation(messages_of(style), "row 1")
    end = END.get(style, "</s>")
    answers = [MESSAGES[1]["content"], MESSAGES[3]["content"]]
    blank = " " if style in ("llama2", "mistral", "vicuna", "plain") else ""
    tail = " " if style == "llama2" else ""
    expected = [f"{blank}{answer}{tail}{end}" for answer in answers]
    if style in UNENDED:  # the last answer's end is learnt as the end of the text
        expected[0] = expected[0].removesuffix(end)
    if style == "qwen3":
        expected = ["<think>\n\n</think>\n\n" + expected[1]]
    assert learnt(encoder, encoded) == expected
    assert encoder.tokenizer.segment_encoder.special_ids[end] in encoder.stop_ids


@pytest.mark.parametrize("style", GENERATION)
def test_the_mask_is_that_of_transformers_where_the_template_marks_its_answers(
    style: str, encoders: Encoders, tmp_path: Path
) -> None:
    encoder = encoders(GENERATION[style])
    encoded = encoder.conversation([SYSTEM, *MESSAGES], "row 1")
    expected = theirs(encoder, tmp_path).apply_chat_template(
        [SYSTEM, *MESSAGES], return_dict=True, return_assistant_tokens_mask=True
    )
    assert encoded.ids.tolist() == expected["input_ids"]
    assert encoded.in_loss.tolist() == [bool(flag) for flag in expected["assistant_masks"]]


def test_marks_of_answers_need_not_enclose_the_end_token(encoders: Encoders) -> None:
    source = GENERATION["chatml"].replace("m.content + '<|im_end|>' }}{% endgen", "m.content }}{% endgen")
    source = source.replace("{{- '\n' }}", "{{- ('<|im_end|>' if m.role == 'assistant' else '') + '\n' }}")
    encoder = encoders(source)
    encoded = encoder.conversation(MESSAGES, "row 1")
    assert learnt(encoder, encoded) == ["The miller is old.<|im_end|>", "It brings the winter; 300 apples.<|im_end|>"]


@pytest.mark.parametrize("style", ["mistral", "qwen3"])
def test_tool_calls_are_rendered_as_in_transformers_and_learnt(style: str, encoders: Encoders, tmp_path: Path) -> None:
    encoder = encoders(STYLES[style], loss_on=loss_of(style))
    messages = CALLS if style == "mistral" else [CALLS[0], CALLS[1], *CALLS[2:]]
    encoded = encoder.conversation(messages, "row 1", TOOLS)
    expected = theirs(encoder, tmp_path).apply_chat_template(messages, tools=TOOLS, return_dict=False)
    assert encoded.ids.tolist() == expected
    if style == "mistral":
        call = '[TOOL_CALLS] [{"name": "weather", "arguments": {"place": "mill"}}]</s>'
        assert learnt(encoder, encoded) == [call, " There is.</s>"]


ENDINGS = {
    "a second token if nothing follows": (
        "{% for m in messages %}[INST]{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '[INST]assistant\n' if add_generation_prompt else eos_token }}",
        ("<|im_end|>", "<|im_end|>"),
    ),
    "another token if nothing follows": (
        "{% for m in messages %}[INST]{{ m.role }}\n{{ m.content }}"
        "{{ eos_token if loop.last and m.role == 'assistant' else '<|im_end|>' }}"
        "{% endfor %}{{ '[INST]assistant\n' if add_generation_prompt }}",
        ("<|im_end|>", "</s>"),
    ),
    "no token if nothing follows": (
        "{% for m in messages %}[INST]{{ m.role }}\n{{ m.content }}"
        "{{ eos_token if not loop.last and m.role == 'assistant' }}"
        "{% endfor %}{{ '[INST]assistant\n' if add_generation_prompt }}",
        ("</s>", "</s>"),
    ),
    "a token of the message before the end token": (
        "{% for m in messages %}[INST]{{ m.role }}\n{{ m.content }}[/INST]<|im_end|>\n{% endfor %}"
        "{{ '[INST]assistant\n' if add_generation_prompt }}",
        ("[/INST]<|im_end|>", "[/INST]<|im_end|>"),
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_end_of_each_answer_is_learnt_however_a_template_writes_it(name: str, encoders: Encoders) -> None:
    source, ends = ENDINGS[name]
    encoder = encoders(source)
    encoded = encoder.conversation(MESSAGES, "row 1")
    assert learnt(encoder, encoded) == [MESSAGES[1]["content"] + ends[0], MESSAGES[3]["content"] + ends[1]]
    for number in (1, 3):
        prompt = encoder.prompt(MESSAGES[:number], "row 1")
        assert encoded.ids[: len(prompt)].tolist() == prompt and text_of(encoder, prompt).endswith("assistant\n")


def test_what_the_prompt_has_is_not_learnt_even_if_the_template_marks_it(encoders: Encoders) -> None:
    source = GENERATION["chatml"].replace("{{- '<|im_start|>' + m.role + '\n' }}", "{{- '<|im_start|>' + m.role }}")
    source = source.replace("{{ m.content + '<|im_end|>' }}", "{{ '\n' + m.content + '<|im_end|>' }}")
    encoder = encoders(source)
    encoded = encoder.conversation(MESSAGES[:2], "row 1")
    assert learnt(encoder, encoded) == ["The miller is old.<|im_end|>"]


def test_tools_that_a_template_does_not_write_are_refused(encoders: Encoders) -> None:
    with pytest.raises(DataError, match="row 1 has tools, which the chat template does not write"):
        encoders(PLAIN).conversation(MESSAGES, "row 1", TOOLS)


LOST = {
    "tool calls": {"content": "", "tool_calls": [{"function": {}}]},
    "reasoning": {"content": "x", "thinking": "y"},
    "parts that are not text": {"content": [{"type": "image"}]},
}


@pytest.mark.parametrize("name", LOST)
def test_keys_of_messages_that_a_template_does_not_write_are_refused(name: str, encoders: Encoders) -> None:
    with pytest.raises(DataError, match=r"row 1 has a message with content in .*data\.chat_template=FILE"):
        encoders(STYLES["chatml"]).conversation([MESSAGES[0], {"role": "assistant", **LOST[name]}], "row 1")


def test_parts_of_text_are_joined_and_a_message_without_content_is_refused(encoders: Encoders) -> None:
    encoder = encoders(STYLES["chatml"])
    parts = [{"type": "text", "text": "The miller"}, {"type": "text", "text": " is old."}]
    joined = encoder.conversation([MESSAGES[0], {"role": "assistant", "content": parts}], "row 1")
    assert joined.ids.tolist() == encoder.conversation(MESSAGES[:2], "row 1").ids.tolist()
    with pytest.raises(DataError, match="row 1: message 2 has no content"):
        encoder.conversation([MESSAGES[0], {"role": "assistant", "content": None}], "row 1")


FRAGMENTS = st.sampled_from(
    [
        *SPECIAL_TOKENS,
        "<",
        "<|im",
        "|>",
        "_end|>",
        "[",
        "\ufdd0",
        "\ufdd3" + "0",
        "\ufdd4",
        "é",
        " ",
        "\n",
        "old",
        "user",
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(st.lists(FRAGMENTS, max_size=6).map("".join), min_size=3, max_size=3))
def test_no_content_becomes_a_special_token_and_none_is_lost(contents: list[str], encoders: Encoders) -> None:
    encoder = encoders(STYLES["chatml"])
    roles = ("system", "user", "assistant")
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    encoded = encoder.conversation(messages, "row 1")
    texts = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    assert text_of(encoder, encoded.ids) == "".join(texts)
    special = [id for id in encoded.ids.tolist() if id in encoder.tokenizer.special_ids]
    assert [encoder.tokenizer.backend.id_to_token(id) for id in special] == ["<|im_start|>", "<|im_end|>"] * 3
    assert "".join(learnt(encoder, encoded)) == contents[2] + "<|im_end|>"
    prompt = encoder.prompt(messages[:2], "row 1")
    assert encoded.ids[: len(prompt)].tolist() == prompt


def test_two_contents_that_a_template_joins_do_not_become_a_special_token(encoders: Encoders) -> None:
    encoder = encoders("{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}")
    messages = [{"role": "user", "content": "<|im_"}, {"role": "assistant", "content": "end|>"}]
    encoded = encoder.conversation(messages, "row 1")
    assert text_of(encoder, encoded.ids) == "<|im_end|></s>" and len(encoded.ids) > 4


def test_turns_are_the_tokens_of_the_messages(encoders: Encoders) -> None:
    encoder = encoders(STYLES["chatml"])
    encoded = encoder.conversation([SYSTEM, *MESSAGES], "row 1")
    texts = [text_of(encoder, encoded.ids[turn.start : turn.stop]) for turn in encoded.turns]
    assert texts == [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in [SYSTEM, *MESSAGES]]
    assert [turn.role for turn in encoded.turns] == ["system", "user", "assistant", "user", "assistant"]


def test_a_message_that_is_written_into_the_next_one_has_no_tokens_of_its_own(encoders: Encoders) -> None:
    encoder = encoders(STYLES["llama2"])
    encoded = encoder.conversation([SYSTEM, *MESSAGES], "row 1")
    assert [text_of(encoder, encoded.ids[turn.start : turn.stop]) for turn in encoded.turns][:3] == [
        "",
        "<s>[INST] <<SYS>>\nYou are the miller.\n<</SYS>>\n\nWho is the miller? [/INST]",
        " The miller is old. </s>",
    ]


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("completion", ["It brings the winter; 300 apples.<|im_end|>"]),
        ("all", ["".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)]),
    ],
)
def test_the_loss_may_be_on_the_last_answer_or_on_everything(
    loss_on: str, expected: list[str], encoders: Encoders
) -> None:
    encoder = encoders(STYLES["chatml"], loss_on=loss_on)
    assert learnt(encoder, encoder.conversation(MESSAGES, "row 1")) == expected


def test_an_answer_that_a_template_rewrites_is_refused_with_both_texts_and_a_remedy_that_works(
    encoders: Encoders,
) -> None:
    with pytest.raises(DataError) as failure:
        encoders(STYLES["qwen3"]).conversation(MESSAGES, "chats.jsonl, line 3")
    message = str(failure.value)
    assert message.startswith("chats.jsonl, line 3: what the assistant writes in message 2 cannot be told")
    assert "<think>" in message.split("' if it ends there")[0] and "The miller is o" in message.split("and as")[1]
    assert "--set data.loss_on=completion" in message
    assert encoders(STYLES["qwen3"], loss_on="completion").conversation(MESSAGES, "row").in_loss.any()


def test_a_prompt_that_no_conversation_goes_on_from_is_refused(encoders: Encoders) -> None:
    other = STYLES["chatml"].replace("{{ '<|im_start|>assistant", "{{ '<|im_start|>bot")
    for loss_on in ("assistant", "completion"):
        with pytest.raises(DataError, match=r"'.*bot.*' if it ends there, and as '.*assistant.*' if more") as failure:
            encoders(other, loss_on=loss_on).conversation(MESSAGES[:2], "row 1")
        assert "data.loss_on" not in str(failure.value) and "data.chat_template=chatml" in str(failure.value)


def test_an_empty_answer_is_learnt_as_its_end_token(encoders: Encoders) -> None:
    encoder = encoders(STYLES["llama3"])
    encoded = encoder.conversation([MESSAGES[0], {"role": "assistant", "content": ""}], "row 1")
    assert learnt(encoder, encoded) == ["<|eot_id|>"]


def test_a_conversation_without_an_answer_has_nothing_to_learn(encoders: Encoders) -> None:
    assert not encoders(STYLES["chatml"]).conversation(MESSAGES[:1], "row 1").in_loss.any()


def test_what_follows_the_last_answer_is_left_out_where_only_text_ends_it(encoders: Encoders) -> None:
    encoder = encoders(PLAIN)
    encoded = encoder.conversation([*MESSAGES, {"role": "user", "content": "Thanks!"}], "row 1")
    assert encoded.ids.tolist() == encoder.conversation(MESSAGES, "row 1").ids.tolist()
    assert encoded.ids[-1] == encoder.tokenizer.eos_id and encoded.in_loss[-1]
    assert encoded.turns[-1] == ("user", len(encoded.ids), len(encoded.ids))


def test_a_conversation_may_begin_with_the_assistant(encoders: Encoders) -> None:
    encoder = encoders(STYLES["chatml"])
    encoded = encoder.conversation([{"role": "assistant", "content": "Hello."}, *MESSAGES], "row 1")
    assert learnt(encoder, encoded)[0] == "Hello.<|im_end|>"
    refusing = "{% if not messages %}{{ raise_exception('empty') }}{% endif %}" + STYLES["chatml"]
    again = encoders(refusing).conversation([{"role": "assistant", "content": "Hello."}, *MESSAGES], "row 1")
    assert again.in_loss.tolist() == encoded.in_loss.tolist()


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "row 1 is not a conversation"),
        ([{"role": "user"}], "row 1 is not a conversation"),
        ([{"role": 5, "content": "x"}], "row 1 is not a conversation"),
        ([{"role": "user", "content": "x", "extra": nested(2000)}], "row 1 is nested too deeply"),
        ([{"role": "user", "content": "\ud83d"}], "row 1 has half a surrogate pair"),
        ([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}], "roles must alternate"),
    ],
)
def test_what_is_no_conversation_is_one_line(messages: Any, reason: str, encoders: Encoders) -> None:
    with pytest.raises(DataError, match=reason):
        encoders(STYLES["gemma"]).conversation(messages, "row 1")


def test_chatml_is_given_its_tokens_and_the_token_that_begins_the_models_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = byte_tokenizer()
    template = ChatTemplate.of_model(base, CHATML)
    tokenizer = base.with_special_tokens(template.special_tokens)
    with ChatEncoder(template, tokenizer) as encoder:
        encoded = encoder.conversation(MESSAGES, "row 1")
        assert encoder.stop_ids == {base.eos_id, 258} and not capsys.readouterr().err
    text = "<|endoftext|>" + "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in MESSAGES)
    assert text_of(encoder, encoded.ids) == text
    assert encoded.ids.tolist().count(257) == len(MESSAGES) and encoded.ids.tolist().count(256) == 1
    with ChatEncoder(template, base) as encoder:
        assert "writes <|im_start|>, <|im_end|>" in capsys.readouterr().err
        assert 257 not in encoder.conversation(MESSAGES, "row 1").ids


def test_the_template_is_the_models_own_if_it_has_one(tmp_path: Path) -> None:
    base = byte_tokenizer()
    own = base.with_chat_template("{{ messages }}")
    for tokenizer, name in ((base, CHATML), (own, OF_MODEL)):
        assert ChatTemplate.of_model(tokenizer) == ChatTemplate.of_model(tokenizer, name)
    assert ChatTemplate.of_model(own).source == "{{ messages }}"
    with pytest.raises(DataError, match=r"no chat template of its own.*data\.chat_template=chatml"):
        ChatTemplate.of_model(base, "model")
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
    found = ChatTemplate.of_model(own, str(file), ["<|user|>"])
    assert found.source == "{{ bos_token }}" + file.read_text() and found.special_tokens == ("<|user|>",)
    file.write_text("{{ bos_token }}" + file.read_text())
    assert ChatTemplate.of_model(own, str(file)).source == file.read_text()


def test_tokens_of_the_models_own_template_are_special_even_if_the_tokenizer_says_otherwise() -> None:
    backend = byte_tokenizer().backend
    backend.add_tokens([tokenizers.AddedToken(name, special=False) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer = Tokenizer(backend).with_chat_template(STYLES["chatml"])
    end = backend.token_to_id("<|im_end|>")
    with ChatEncoder(ChatTemplate.of_model(tokenizer), tokenizer) as encoder:
        ids, in_loss, _ = encoder.conversation([{"role": "user", "content": "a<|im_end|>"}, MESSAGES[1]], "row 1")
        assert encoder.stop_ids == {end, tokenizer.eos_id}
    assert ids.tolist().count(end) == 2, "that of the content is letters"
    assert ids[in_loss][-1] == end and ids[-1] != tokenizer.eos_id


def test_tokens_named_by_the_configuration_are_single_ids(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ eos_token }}")
    template = ChatTemplate.of_model(byte_tokenizer(), str(file), ["<|user|>", "<|assistant|>"])
    tokenizer = byte_tokenizer().with_special_tokens(template.special_tokens)
    with ChatEncoder(template, tokenizer) as encoder:
        assert encoder.conversation(MESSAGES[:2], "row 1").ids.tolist().count(257) == 1


def test_an_answer_that_nothing_ends_is_refused() -> None:
    tokenizer = Tokenizer(byte_tokenizer().backend, {"bos_token": None, "eos_token": None})
    with (
        ChatEncoder(ChatTemplate(PLAIN), tokenizer) as encoder,
        pytest.raises(DataError, match="ends an answer"),
    ):
        encoder.conversation(MESSAGES, "row 1")


WITHOUT_CALLS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "messages", "lost"),
    [
        (
            WITHOUT_CALLS,
            [{"content": "", **message} for message in CALLS],
            "has a message with content in 'tool_calls'",
        ),
        (
            "{% for m in messages if m.role != 'tool' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
            "{% endfor %}",
            [MESSAGES[0], {"role": "tool", "content": "an owl"}, MESSAGES[1]],
            "message 2 has a content of the role tool",
        ),
        (
            "{% for m in messages[1:] %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
            [SYSTEM, *MESSAGES],
            "message 1 has a content of the role system",
        ),
    ],
)
def test_what_a_template_does_not_write_is_refused(
    encoders: Encoders, template: str, messages: list[dict[str, Any]], lost: str
) -> None:
    with pytest.raises(DataError, match=f"row 1.* {lost}, which the chat template does not write"):
        encoders(template).conversation(messages, "row 1")


def test_an_answer_of_weight_zero_is_read_and_not_learnt(encoders: Encoders) -> None:
    encoder = encoders(WITHOUT_CALLS)
    weighted = [MESSAGES[0], {**MESSAGES[1], "weight": 0}, MESSAGES[2], {**MESSAGES[3], "weight": 1}]
    ids, in_loss, _ = encoder.conversation(weighted, "row 1")
    whole, all_in_loss, _ = encoder.conversation(MESSAGES, "row 1")
    assert ids.tolist() == whole.tolist()
    assert text_of(encoder, ids[in_loss]) == "It brings the winter; 300 apples.<|im_end|>"
    assert text_of(encoder, ids[all_in_loss & ~in_loss]) == "The miller is old.<|im_end|>"
