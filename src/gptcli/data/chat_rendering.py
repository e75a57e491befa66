"""Renderings of a conversation and of its beginnings by one chat template."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from gptcli.data.chat import (
    RANDOM,
    REASONING,
    RENDERS_AT_ONCE,
    ROW_SECONDS,
    UNWRITTEN,
    TemplateProcess,
    not_a_conversation,
    plain_message,
    refusing_depth,
    template_error,
)
from gptcli.data.chat_spans import Beginning, Rendering, ended
from gptcli.data.chat_template import ChatTemplate
from gptcli.data.content_marks import ANSWER, BEGIN, END, ContentMarks, generated_spans
from gptcli.data.known_renderings import KnownRenderings, key_of
from gptcli.data.messages import ASSISTANT
from gptcli.errors import DataError
from gptcli.tokenizer.tokenizer import NAMED_TOKENS, Tokenizer

WORD = re.compile("[A-Za-z0-9]+")
WORDS_LOOKED_FOR = 16
QUESTION = [{"role": "user", "content": "?"}]
PROBES = (QUESTION, [{"role": "system", "content": "!"}, *QUESTION])
"""Conversations that show how a template asks for an answer, and by what token it ends one."""


class TurnRenderer:
    """Renders conversations turn by turn by a process, which `close` ends.

    Attributes:
        marks: the marks in the content of messages.
        known: the renderings of the last conversation, for one that goes on from it.
        asks: whether the template writes a prompt for an answer when it is asked to (add_generation_prompt).
        stop_names: the special tokens by which the template ends an answer; the last of a conversation may have another
            than those before.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, date: str | None) -> None:
        """Start the process of the template.

        Raises:
            DataError: the template cannot be compiled.
        """
        self.source = template.source
        self.marks = ContentMarks(tokenizer.segment_encoder.special_ids)
        self.variables = template_variables(tokenizer)
        self.is_random = any(name in template.source for name in RANDOM)
        self.known = KnownRenderings()
        self.process = TemplateProcess(template.source, date)
        self.asks = True
        try:
            self.asks, self.stop_names = self.probe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def probe(self) -> tuple[bool, frozenset[str]]:
        """Return whether the template asks for an answer, and the special tokens by which it ends one."""
        for messages in PROBES:
            number = len(messages)
            answered = [*messages, {"role": ASSISTANT, "content": ANSWER}]
            wanted = [{"stop": number}, {"stop": number, "asks": True}]
            bare, *asked = self.answers(answered, "a conversation", None, wanted)
            names = set[str]()
            for conversation in ([*answered, *QUESTION], answered):
                with contextlib.suppress(DataError):
                    rendering = self.conversation(conversation, "a conversation", None)
                    names |= self.end_names(rendering, rendering.ends[number + 1], names)
            if names or "text" in bare:
                return asked != [{"length": len(bare.get("text", ""))}], frozenset(names)
        return True, frozenset()

    def end_names(self, rendering: Rendering, stop: Beginning, known: set[str]) -> set[str]:
        """Return the special token that ends the answer of a probe: one or none."""
        text = rendering.text
        if stop.length is None or ANSWER not in text:
            return set()
        answer = ended(text, text.index(ANSWER), stop, rendering.parts, known)
        return {text[start:end] for start, end, _ in rendering.parts if answer.is_ended and end == answer.stop}

    def conversation(self, messages: list[dict[str, Any]], place: object, tools: Any) -> Rendering:
        """Return a whole conversation.

        Raises:
            DataError: the template fails on it.
        """
        return self.rendering(messages, place, tools, [{"stop": len(messages)}])

    def prompt(self, messages: list[dict[str, Any]], place: object, tools: Any) -> Rendering:
        """Return a conversation up to where the assistant is to write.

        Raises:
            DataError: the template fails on it.
        """
        count = len(messages)
        whole = {"stop": count, "asks": True} if self.asks else {"stop": count, "answer": ANSWER}
        rendering = self.rendering(messages, place, tools, [whole, {"stop": count}])
        return rendering if self.asks else rendering.until_answer()

    def rendering(
        self, messages: list[dict[str, Any]], place: object, tools: Any, wanted: list[dict[str, Any]]
    ) -> Rendering:
        """Return a rendered conversation.

        Args:
            messages: the messages, from `prepared`.
            place: what to call the conversation in errors.
            tools: the tools that the assistant may call.
            wanted: what to render as the whole text; and, if it is not this, all messages without a prompt.

        Raises:
            DataError: the template fails on the whole conversation, or does not write all of it.
        """
        if tools and "tools" not in self.source:
            raise unwritten_error(f"{place} has tools", "leave the tools out of the rows")
        count = len(messages)
        numbers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        first_user = next((number for number, message in enumerate(messages) if message["role"] == "user"), count)
        headers = [number for number in numbers if not self.asks or number < first_user]
        prompts = numbers if self.asks else []
        renders = [
            wanted[0],
            *({"stop": stop} for stop in range(1, count)),
            *wanted[1:],
            *({"stop": number, "asks": True} for number in prompts),
            *({"stop": number, "answer": ANSWER} for number in headers),
        ]
        known = self.known.select(messages, tools, renders[1:])
        missing = [one for one, found in zip(renders[1:], known, strict=True) if found is None]
        whole, *new = self.answers(messages, place, tools, [renders[0], *missing])
        if "error" in whole:
            raise template_error(f"{place} cannot be rendered", whole["error"])
        text, generated = generated_spans(whole["text"])
        others = self.known.merge(known, new, text)
        if not self.is_random:
            found = zip(map(key_of, renders), [{"length": len(text)}, *others], strict=True)
            self.known.keep(messages, tools, dict(found), text)
        lost = next((number for number, message in enumerate(messages, 1) if is_lost_in(text, message)), None)
        if lost is not None:
            role = messages[lost - 1]["role"]
            raise unwritten_error(f"{place}: message {lost} has a content of the role {role}", "remove the message")
        beginnings = [self.beginning(answer, text) for answer in others]
        if not wanted[1:]:
            beginnings.insert(count - 1, Beginning(len(text)))
        asked, headed = beginnings[count : count + len(prompts)], beginnings[count + len(prompts) :]
        return Rendering(
            text,
            self.marks.parts(text),
            generated,
            [Beginning(0), *beginnings[:count]],
            dict(zip(prompts, asked, strict=True)),
            dict(zip(headers, headed, strict=True)),
        )

    def beginning(self, answer: dict[str, Any], whole: str) -> Beginning:
        """Return a rendering of the beginning of a text. If the text begins with it but for a special token at its end,
        which the template writes only if nothing follows, it is returned without that token.
        """
        found = Beginning.of(answer)
        last = self.marks.parts(found.text.rstrip())[-1:]
        if last and last[0][2] and whole.startswith(found.text[: last[0][0]]):
            return Beginning(last[0][0], is_cut=True)
        return found

    def answers(
        self, messages: list[dict[str, Any]], place: object, tools: Any, renders: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the answers of the process to a request for several renderings."""
        with refusing_depth(place):
            marked_tools = self.marks.marked(tools) or None
        request = {
            "messages": messages,
            "variables": {**self.variables, "tools": marked_tools, "documents": None},
            "renders": renders,
            "marks": (BEGIN, END),
        }
        seconds = ROW_SECONDS * (1 + len(renders) // RENDERS_AT_ONCE)
        reply: list[dict[str, Any]] = self.process.request(request, place, "rendered", seconds)["renders"]
        return reply

    def prepared(self, messages: Any, place: object) -> list[dict[str, Any]]:
        """Return messages as the template gets them: with marks, and as in transformers without fields that are None.

        Raises:
            DataError: they are no conversation.
        """
        if not isinstance(messages, list) or not messages or not all(map(is_message, messages)):
            raise not_a_conversation(place)
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        for number, message in enumerate(given, 1):
            if "content" not in message and not any(message.get(key) for key in UNWRITTEN):
                raise DataError(f"{place}: message {number} has no content", "write one, or remove the message")
        with refusing_depth(place):
            return [self.marks.marked(with_reasoning(self.plain(message, place))) for message in given]

    def plain(self, message: dict[str, Any], place: object) -> dict[str, Any]:
        """Return a message as the template writes it. Raises DataError if it holds more."""
        if "content" in message:
            return plain_message(message, place, self.source)
        without = plain_message({"content": "", **message}, place, self.source)
        return {key: value for key, value in without.items() if key != "content"}


def unwritten_error(what: str, remedy: str) -> DataError:
    """Return the error for a part of a conversation that the template leaves out."""
    return DataError(
        f"{what}, which the chat template does not write",
        f"name a template that does with --set data.chat_template=FILE, or {remedy}",
    )


def is_lost_in(text: str, message: dict[str, Any]) -> bool:
    """Return whether a rendered text lacks the content of a message.

    Templates strip and escape contents, so only words are looked for, the longest; and only those of messages that the
    assistant did not write, since templates leave out its earlier thoughts.
    """
    content = message.get("content")
    if message["role"] == ASSISTANT or not isinstance(content, str) or content.strip() in text:
        return False
    words = sorted(set(WORD.findall(content)), key=len)[-WORDS_LOOKED_FOR:]
    return any(word not in text for word in words)


def is_message(message: Any) -> bool:
    """Return whether a value is a message with a role, and with a content or something in its place."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and ("content" in message or any(message.get(key) for key in UNWRITTEN))
    )


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose reasoning, if it has one, has the names that templates read."""
    reasoning = next((message[key] for key in REASONING if key in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def template_variables(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens that a template gets by name."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id}
    found = {key: tokenizer.backend.id_to_token(id) or "" for key, id in ids.items() if id is not None}
    for key in NAMED_TOKENS:
        value = tokenizer.settings.get(key)
        name = value.get("content") if isinstance(value, dict) else value
        if isinstance(name, str):
            found[key] = name
    return found
