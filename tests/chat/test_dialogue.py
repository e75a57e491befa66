"""A chat: replies, the turns that the model reads, and what it need not read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import pytest

from chat_templates import STYLES, byte_level
from gptcli.chat.dialogue import Dialogue
from gptcli.chat.messages import MessageTranscript
from gptcli.chat.story import StoryTranscript
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.example_forms import ChatExample
from gptcli.errors import DataError, UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.session import Session
from tiny_chat import GREEDY, SAMPLED, dialogue_of, tiny_session


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture(scope="module")
def story() -> Session:
    return tiny_session("")


@pytest.fixture(scope="module")
def encoder(session: Session) -> Iterator[ChatEncoder]:
    with session.chat_encoder() as made:
        yield made


def say(dialogue: Dialogue, text: str) -> str:
    return "".join(dialogue.say(text))


def messages(dialogue: Dialogue) -> list[tuple[str, str]]:
    assert isinstance(dialogue.transcript, MessageTranscript)
    return [(message["role"], message["content"]) for message in dialogue.transcript.messages]


def asked(dialogue: Dialogue) -> list[list[int]]:
    """The ids that each request of the dialogue begins with, from now on."""
    found, add = list[list[int]](), dialogue.engine.add
    dialogue.engine.add = lambda request: (found.append(list(request.ids)), add(request))[1]  # type: ignore[method-assign]
    return found


def test_replies_are_those_of_generate_for_the_same_conversation_and_seed(
    session: Session, encoder: ChatEncoder
) -> None:
    """With a cache that holds what was said before, in each turn with the next seed."""
    dialogue, conversation = dialogue_of(session, encoder, SAMPLED), []
    for turn, text in enumerate(("Who?", "And \N{DUCK}?", "Why?")):
        conversation.append({"role": "user", "content": text})
        config = GenerationConfig(**SAMPLED.model_dump() | {"seed": 5 + turn})
        (expected,) = session.chat([ChatExample(conversation)], config).prompts[0].completions
        reply = say(dialogue, text)
        drawn = [token for token in expected.tokens if token not in encoder.stop_ids]
        assert dialogue.last is not None and dialogue.last.ids == drawn
        assert expected.text.startswith(reply)  # which leaves out half a character at the end
        conversation.append({"role": "assistant", "content": reply})
    assert messages(dialogue) == [(message["role"], message["content"]) for message in conversation]


def test_a_prompt_is_read_from_where_it_differs_from_what_was_said_and_written(
    encoder: ChatEncoder,
) -> None:
    dialogue = dialogue_of(tiny_session(context_length=256), encoder)
    prompts, known = asked(dialogue), list[int]()
    for text in ("Who?", "Where?", "Why?"):
        say(dialogue, text)
        assert dialogue.last is not None
        if known:
            assert dialogue.last.cached == shared(known[:-1], prompts[-1]) >= len(prompts[-2])
        known = [*prompts[-1], *dialogue.last.ids]
    assert dialogue.usage().prompt == len(prompts[-1]) and dialogue.usage().cached == dialogue.last.cached


def shared(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_every_style_of_template_keeps_what_it_writes_again_as_before(style: str) -> None:
    tokenizer = byte_level()
    session = tiny_session(style, tokenizer, context_length=512)
    with session.chat_encoder() as encoder:
        dialogue = dialogue_of(session, encoder)
        prompts, known = asked(dialogue), list[int]()
        for text in ("Who is the miller, and who is his daughter?", "Where is  he? ", "Why?"):
            say(dialogue, text)
            assert dialogue.last is not None
            if known:
                assert dialogue.last.cached == min(shared(known[:-1], prompts[-1]), len(prompts[-1]) - 1)
                assert dialogue.last.cached >= len(prompts[-2]) - 8  # Llama 2 and others strip blanks of the question
            known = [*prompts[-1], *dialogue.last.ids]


def test_a_reply_is_drawn_again_with_another_seed_and_takes_the_place_of_the_first(
    session: Session, encoder: ChatEncoder
) -> None:
    dialogue, again = (dialogue_of(session, encoder, SAMPLED) for _ in range(2))
    first = say(dialogue, "Who?")
    second = "".join(dialogue.retry())
    assert first != second and messages(dialogue) == [("user", "Who?"), ("assistant", second)]
    assert [say(again, "Who?"), "".join(again.retry())] == [first, second]
    dialogue.set_params(SAMPLED.model_copy(update={"seed": 6}))
    assert "".join(dialogue.retry()) == second
    used = dialogue.usage()
    assert used.used > used.prompt + used.written and used.cached == used.prompt - 1


def test_a_reply_that_was_stopped_stays_and_goes_on_as_if_it_had_not_been(
    session: Session, encoder: ChatEncoder
) -> None:
    dialogue, whole = dialogue_of(session, encoder), dialogue_of(session, encoder)
    with closing(dialogue.say("Who?")) as pieces:
        for _ in range(5):
            next(pieces)
    assert dialogue.engine.is_idle and dialogue.last is not None and dialogue.last.end == "stopped"
    assert messages(dialogue)[-1] == ("assistant", dialogue.last.text)
    assert len(dialogue.last.ids) < 12
    say(dialogue, "")
    say(whole, "Who?")
    assert whole.last is not None and dialogue.last.ids[:12] == whole.last.ids
    assert messages(dialogue) == [("user", "Who?"), ("assistant", dialogue.last.text)]
    assert say(dialogue, "And?") is not None and len(messages(dialogue)) == 4


def test_turns_are_undone_and_the_system_message_stays(session: Session, encoder: ChatEncoder) -> None:
    dialogue = dialogue_of(session, encoder)
    dialogue.transcript.set_system("You are the miller.")
    for text in ("Who?", "Where?"):
        say(dialogue, text)
    assert dialogue.undo() == "Where?" and [role for role, _ in messages(dialogue)] == ["system", "user", "assistant"]
    dialogue.reset()
    assert messages(dialogue) == [("system", "You are the miller.")]
    dialogue.transcript.set_system("")
    assert messages(dialogue) == []
    for wrong in (dialogue.undo, dialogue.retry, dialogue.transcript.content):
        with pytest.raises(UsageError, match=r"there is no|nothing to save"):
            wrong()


def test_a_system_message_that_the_template_refuses_changes_nothing() -> None:
    session = tiny_session("gemma", byte_level())
    with session.chat_encoder() as encoder:
        dialogue = dialogue_of(session, encoder)
        with pytest.raises(UsageError, match="no system role"):
            dialogue.transcript.set_system("You are the miller.")
        assert messages(dialogue) == []


def test_old_turns_are_left_out_whole_and_many_at_once_when_the_context_is_full(
    session: Session, encoder: ChatEncoder
) -> None:
    """Fifty turns in a context for two or three."""
    lines = list[str]()
    dialogue = dialogue_of(session, encoder, on_drop=lines.append)
    dialogue.transcript.set_system("Be short.")
    prompts = asked(dialogue)
    for turn in range(50):
        say(dialogue, f"No {turn}?")
    assert max(map(len, prompts)) + 12 <= 96 and len(messages(dialogue)) == 101
    begin = encoder.prompt([{"role": "system", "content": "Be short."}, {"role": "user", "content": "?"}], "x")[:12]
    names = encoder.tokenizer.segment_encoder.special_ids
    for prompt in prompts:
        assert prompt[:12] == begin
        assert prompt.count(names["<|im_start|>"]) == prompt.count(names["<|im_end|>"]) + 1
    grown = sum(len(after) > len(before) for before, after in pairwise(prompts))
    assert len(lines) <= 25 <= grown + 1 and "the context of 96 tokens is full; no longer read: the oldest" in lines[0]
    assert dialogue.transcript.content().count('"role"') == 101


def test_a_message_longer_than_the_context_is_refused_and_leaves_the_chat_as_it_was(
    session: Session, encoder: ChatEncoder
) -> None:
    dialogue = dialogue_of(session, encoder)
    say(dialogue, "Who?")
    before = messages(dialogue)
    with pytest.raises(DataError, match=r"the message takes \d+ tokens .* more than its context of 96; shorten it"):
        dialogue.say("Why? " * 40)
    assert messages(dialogue) == before and say(dialogue, "Why?") is not None


def test_a_reply_that_fills_the_context_leaves_out_old_turns_or_ends(session: Session, encoder: ChatEncoder) -> None:
    lines = list[str]()
    long = GREEDY.model_copy(update={"max_new_tokens": 500, "logit_bias": dict.fromkeys(encoder.stop_ids, -100.0)})
    dialogue = dialogue_of(session, encoder, long, on_drop=lines.append)
    say(dialogue, "Who?")
    assert dialogue.last is not None and dialogue.last.end == "context" and lines == []
    first = len(dialogue.last.ids)
    dialogue.set_params(long.model_copy(update={"max_new_tokens": 8}))
    dialogue.reset()
    say(dialogue, "Who?")
    dialogue.set_params(long)
    say(dialogue, "Who?")
    assert dialogue.last.end == "context" and len(dialogue.last.ids) == first and len(lines) == 1


def test_pieces_are_whole_characters_and_never_hold_a_part_of_a_stop_string(
    session: Session, encoder: ChatEncoder
) -> None:
    wild = SAMPLED.model_copy(update={"max_new_tokens": 40})
    dialogue = dialogue_of(session, encoder, wild)
    text = say(dialogue, "Who?")
    stop = text[6:9]
    dialogue = dialogue_of(session, encoder, wild.model_copy(update={"stop": (stop,)}))
    pieces = list(dialogue.say("Who?"))
    assert "".join(pieces) == text[: text.index(stop)] and dialogue.last is not None and dialogue.last.end == "stop"


def test_a_base_model_continues_one_text(story: Session) -> None:
    dialogue = dialogue_of(story, None)
    prompts = asked(dialogue)
    parts = ["It was a night", say(dialogue, "It was a night"), say(dialogue, "")]
    assert isinstance(dialogue.transcript, StoryTranscript)
    assert dialogue.transcript.texts == ["".join(parts)]
    config = GenerationConfig(max_new_tokens=12, temperature=0.0, document_start=True)
    assert story.generate([parts[0]], config).prompts[0].completions[0].text.startswith(parts[1])
    assert prompts[1][: len(prompts[0])] == prompts[0] and dialogue.last is not None
    dialogue.undo()
    assert dialogue.transcript.texts == ["".join(parts[:2])]
    parts[2] = say(dialogue, "Then")
    assert dialogue.transcript.texts == [f"{parts[0]}{parts[1]}{'' if parts[1][-1:].isspace() else ' '}Then{parts[2]}"]
    with pytest.raises(UsageError, match="reads no system message"):
        dialogue.transcript.set_system("x")


def test_a_story_longer_than_the_context_goes_on_and_says_so_once(story: Session) -> None:
    lines = list[str]()
    params = GREEDY.model_copy(update={"max_new_tokens": 150, "logit_bias": dict.fromkeys(story.stop_ids, -100.0)})
    dialogue = dialogue_of(story, None, params, on_drop=lines.append)
    prompts = asked(dialogue)
    say(dialogue, "It was a night")
    say(dialogue, "")
    assert dialogue.last is not None and len(dialogue.last.ids) == 150 and dialogue.last.end == "length"
    assert max(map(len, prompts)) <= 96 and len(lines) == 1


def test_where_the_model_ends_a_text_the_next_message_begins_another(story: Session) -> None:
    (stop,) = story.stop_ids
    dialogue = dialogue_of(story, None, GREEDY.model_copy(update={"logit_bias": {stop: 100.0}}))
    prompts = asked(dialogue)
    assert [say(dialogue, text) for text in ("One", "Two", "")] == ["", "", ""]
    assert isinstance(dialogue.transcript, StoryTranscript)
    before = story.tokenizer.framing.before
    assert prompts == [[*before, *story.tokenizer.encode(text)] for text in ("One", "Two", "")]
    assert dialogue.transcript.texts == ["One", "Two", ""]
