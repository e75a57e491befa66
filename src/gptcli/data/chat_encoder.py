"""The ids of conversations, the same in training, in evaluation and at inference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from gptcli.console import say
from gptcli.data.chat import REMEDY
from gptcli.data.chat_rendering import TurnRenderer
from gptcli.data.chat_spans import AnswerSpan, Beginning, Rendering, difference, ended
from gptcli.data.chat_template import ChatTemplate
from gptcli.data.config import LossOn
from gptcli.data.content_marks import unmarked
from gptcli.data.messages import ASSISTANT
from gptcli.errors import DataError
from gptcli.tokenizer.segments import NO_IDS, Segment
from gptcli.tokenizer.tokenizer import Tokenizer

LEARNT: dict[str, str] = {
    "assistant": "the assistant's messages, each with the token that ends it",
    "completion": "the last message of the assistant, with the token that ends it",
    "all": "all messages",
}
"""The tokens in the loss, in words."""


class TurnSpan(NamedTuple):
    """The tokens of one message, with what the template writes around it.

    Attributes:
        role: the role of the message.
        start: its first token.
        stop: the token after its last one.
    """

    role: str
    start: int
    stop: int


class EncodedConversation(NamedTuple):
    """A conversation as tokens.

    Attributes:
        ids: the tokens, (T,) uint32.
        in_loss: whether a model learns to write each, (T,) bool.
        turns: the tokens of each message. A message that the template writes into the next one has none. Empty where
            the messages are not known.
    """

    ids: np.ndarray
    in_loss: np.ndarray
    turns: tuple[TurnSpan, ...] = ()


class Piece(NamedTuple):
    """A segment, and its place in the rendered text, which may have marks in it."""

    segment: Segment
    start: int
    stop: int


class ChatEncoder:
    """Encodes conversations by a chat template. It is a context manager, which owns the process of the template.

    What a message holds never becomes a special token. An answer is in the loss up to and including the special token
    that ends it. Where the template ends answers by text alone, a conversation ends with its last answer and the
    tokenizer's end-of-text token, so that a model learns to stop in any case.

    Attributes:
        stop_ids: the tokens that end an answer: that of the template, and the tokenizer's end of a text.
    """

    def __init__(
        self, template: ChatTemplate, tokenizer: Tokenizer, *, loss_on: LossOn = "assistant", date: str | None = None
    ) -> None:
        """Start the process of the template.

        Args:
            template: the template.
            tokenizer: the tokenizer, with the special tokens of the template; what it lacks is read as letters, which a
                line on stderr says.
            loss_on: the tokens in the loss: every token, the answers of the assistant, or the last of these.
            date: today's date for the template, YYYY-MM-DD; None for no date.

        Raises:
            DataError: the template cannot be compiled.
        """
        say_unknown(template, tokenizer)
        known = [name for name in template.special_tokens if tokenizer.backend.token_to_id(name) is not None]
        tokenizer = tokenizer.with_special_tokens(known)
        self.template, self.tokenizer, self.loss_on = template, tokenizer, loss_on
        self.renderer = TurnRenderer(template, tokenizer, date)
        special_ids = tokenizer.segment_encoder.special_ids
        of_text = {tokenizer.eos_id, tokenizer.framing.stop_id}
        self.end_names = self.renderer.stop_names | {name for name, id in special_ids.items() if id in of_text}
        self.stop_ids = frozenset(special_ids[name] for name in self.end_names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.renderer.close()

    def conversation(self, messages: Any, place: object, tools: Any = None) -> EncodedConversation:
        """Return the tokens of a conversation for training and evaluation.

        Args:
            messages: a list of {"role", "content"} tables.
            place: what to call the conversation in errors.
            tools: the tools that the assistant may call, as JSON schemas.

        Raises:
            DataError: it is no conversation, the template fails on it, or it cannot be told what the assistant writes.
        """
        messages = self.renderer.prepared(messages, place)
        rendering = self.renderer.conversation(messages, place, tools)
        numbers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        required = {"all": [], "assistant": numbers, "completion": numbers[-1:]}[self.loss_on]
        required = [number for number in required if messages[number].get("weight") != 0]
        starts, answers = self.places(rendering, numbers, required, place)
        learnt = [answer for number, answer in answers if number in required]
        ending = list[Segment]()
        last = answers[-1][1] if answers and answers[-1][0] == numbers[-1] else None
        if last is not None and not last.is_ended:
            rendering = rendering if self.loss_on == "all" else rendering.until(last.stop)
            is_learnt = self.loss_on == "all" or numbers[-1] in required
            ending = [Segment(self.end_token(place), True, is_learnt)]
        if self.loss_on == "all":
            learnt = [AnswerSpan(0, len(rendering.text), True)]
        pieces = pieces_of(rendering, cuts(starts, answers), learnt, place)
        segments = [*(piece.segment for piece in pieces), *ending]
        parts = self.tokenizer.segment_encoder.encode(segments)
        lengths = [len(part) for part in parts]
        flags = np.array([segment.in_loss for segment in segments], dtype=bool)
        edges = [*self.edges(rendering.turns(len(messages))[:-1], pieces, parts), sum(lengths)]
        turns = zip(messages, edges, edges[1:], strict=False)
        spans = tuple(TurnSpan(message["role"], start, stop) for message, start, stop in turns)
        return EncodedConversation(np.concatenate([NO_IDS, *parts]), np.repeat(flags, lengths), spans)

    def prompt(self, messages: Any, place: object, tools: Any = None) -> list[int]:
        """Return the tokens of a conversation up to where the assistant is to write; the arguments are those of
        `conversation`, whose tokens begin with these.

        Raises:
            DataError: it is no conversation, or the template fails on it.
        """
        messages = self.renderer.prepared(messages, place)
        rendering = self.renderer.prompt(messages, place, tools)
        numbers = [number for number, message in enumerate(messages) if message["role"] == ASSISTANT]
        pieces = pieces_of(rendering, cuts(*self.places(rendering, numbers, (), place)), (), place)
        ids, _ = self.tokenizer.encode_segments([piece.segment for piece in pieces])
        found: list[int] = ids.tolist()
        return found

    def places(
        self, rendering: Rendering, numbers: Sequence[int], required: Collection[int], place: object
    ) -> tuple[dict[int, int], list[tuple[int, AnswerSpan]]]:
        """Return where a prompt for each answer ends, and the places of the answers, with the numbers of their
        messages. Those that are not required are left out if they cannot be told.

        Raises:
            DataError: a required one cannot be told.
        """
        text, starts, found = rendering.text, dict[int, int](), list[tuple[int, int, Beginning]]()
        for number in numbers:
            start = rendering.start(number)
            stop = Beginning(len(text)) if rendering.generated else rendering.ends[number + 1]
            if start.length is not None:
                starts[number] = start.length
            if start.length is not None and stop.length is not None and start.length <= stop.length:
                found.append((number, start.length, stop))
            elif number in required:
                wrong = stop if start.length is not None else start
                raise prefix_error(place, number, wrong, text, number != numbers[-1])
        if rendering.generated:
            owners = [[number for number in starts if starts[number] < stop] for _, stop in rendering.generated]
            spans = zip(owners, rendering.generated, strict=True)
            found = [
                (owner[-1], max(start, starts[owner[-1]]), Beginning(stop)) for owner, (start, stop) in spans if owner
            ]
        names = self.end_names
        return starts, [(number, ended(text, start, stop, rendering.parts, names)) for number, start, stop in found]

    def edges(self, bounds: Sequence[int], pieces: Sequence[Piece], parts: Sequence[np.ndarray]) -> list[int]:
        """Return the numbers of tokens before some places in the rendered text, in rising order."""
        found, count, waiting = [], 0, list(reversed(bounds))
        for piece, part in zip(pieces, parts, strict=False):
            while waiting and waiting[-1] < piece.stop:
                text = piece.segment.text[: max(0, waiting.pop() - piece.start)]
                inner = len(self.tokenizer.encode_batch([text])[0]) if text and not piece.segment.is_special else 0
                found.append(count + min(inner, len(part)))
            count += len(part)
        return found + [sum(map(len, parts))] * len(waiting)

    def end_token(self, place: object) -> str:
        """Return the name of the token that ends an answer where the template has none.

        Raises:
            DataError: the tokenizer has no token that ends a text.
        """
        stop_id = self.tokenizer.framing.stop_id
        if stop_id is None:
            raise DataError(
                f"{place}: neither the chat template nor the tokenizer has a token that ends an answer",
                "use a template that has one: --set data.chat_template=chatml",
            )
        return str(self.tokenizer.backend.id_to_token(stop_id))


def cuts(starts: Mapping[int, int], answers: Sequence[tuple[int, AnswerSpan]]) -> list[int]:
    """Return the places that no token crosses: where a prompt ends, and where an answer starts and stops. The tokens of
    a prompt are then those with which the conversation begins.
    """
    return sorted({*starts.values(), *(place for _, answer in answers for place in (answer.start, answer.stop))})


def say_unknown(template: ChatTemplate, tokenizer: Tokenizer) -> None:
    """Say on stderr what the template writes in the form of special tokens and the tokenizer reads as letters."""
    unknown = template.unknown_tokens(tokenizer)
    if unknown:
        names = ",".join(unknown)
        say(
            f"The chat template writes {', '.join(unknown)}, for which the tokenizer has no token: read as letters. "
            f"If they are to be special tokens: --set 'data.special_tokens={names}'"
        )


def pieces_of(rendering: Rendering, cuts: Sequence[int], learnt: Sequence[AnswerSpan], place: object) -> list[Piece]:
    """Return the segments of a rendered text: its special tokens, and the texts between them, which are cut at some
    places.

    Raises:
        DataError: the text has half a surrogate pair, which no tokenizer can read.
    """
    text, pieces, waiting, answers = rendering.text, list[Piece](), list(reversed(cuts)), list(reversed(learnt))
    is_plain = text.isascii()
    if not is_plain:
        require_characters(text, place)
    for start, stop, is_special in rendering.parts:
        begin = start
        while begin < stop:
            while waiting and waiting[-1] <= begin:
                waiting.pop()
            while answers and answers[-1].stop <= begin:
                answers.pop()
            end = stop if is_special or not waiting else min(waiting[-1], stop)
            in_loss = bool(answers) and answers[-1].start <= begin and end <= answers[-1].stop
            content = text[begin:end] if is_plain else unmarked(text[begin:end])
            pieces.append(Piece(Segment(content, is_special, in_loss), begin, end))
            begin = end
    return pieces


def require_characters(text: str, place: object) -> None:
    """Raise a DataError if a text has half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} has half a surrogate pair, which is no character",
            "repair the row, or put U+FFFD there with --set data.encoding_errors=replace",
        ) from error


def prefix_error(place: object, number: int, beginning: Beginning, text: str, can_complete: bool) -> DataError:
    """Return the error for an answer whose place cannot be told.

    Args:
        place: what to call the conversation.
        number: the number of the answer's message, from 0.
        beginning: the rendering that should be a beginning of the whole text.
        text: the whole text.
        can_complete: whether training on the last answer alone may work.
    """
    if beginning.error:
        what = f"fails on the conversation up to there ({beginning.error})"
    else:
        alone, whole = (unmarked(shown) for shown in difference(beginning.text, text))
        what = f"writes the conversation up to there as {alone!r} if it ends there, and as {whole!r} if more follows"
    completion = "train on last answers only: --set data.loss_on=completion, or " if can_complete else ""
    return DataError(
        f"{place}: what the assistant writes in message {number + 1} cannot be told, since the chat template {what}",
        f"{completion}use another template (--set data.chat_template=chatml), or {REMEDY} so that conversations go on "
        "from its prompts, with {% generation %} and {% endgeneration %} around the answers",
    )
