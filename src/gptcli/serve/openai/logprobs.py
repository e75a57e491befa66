"""Log-probabilities of tokens in OpenAI's two forms: that of completions, and that of answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gptcli.generate.requests import Alternatives, Request
from gptcli.generate.sample import TokenText
from gptcli.generate.streamer import CONTEXT_TOKENS
from gptcli.serve.openai.response_schemas import LOWEST_LOGPROB, ChoiceLogprobs, TextLogprobs, TokenLogprob, TopLogprob
from gptcli.serve.openai.token_bytes import PieceReader, PlacedPiece, TokenBytes, escaped, named
from gptcli.tokenizer.tokenizer import Tokenizer


def bounded(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return max(logprob, LOWEST_LOGPROB)


class AnswerLogprobsWriter:
    """Writes the tokens of an answer as it grows; `with_ids`, each with its id."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], *, with_ids: bool) -> None:
        self.reader, self.with_ids = PieceReader(tokenizer), with_ids
        self.reader.skip(prompt[-CONTEXT_TOKENS:])

    def grown(self, parts: Iterable[TokenText]) -> ChoiceLogprobs:
        """Return the tokens by which the answer has grown."""
        texts = self.reader.texts
        content = [
            token
            for part in parts
            for token in token_logprobs(texts, part, self.reader.read(part), with_ids=self.with_ids)
        ]
        return ChoiceLogprobs(content=content, refusal=None)


def token_logprobs(
    texts: TokenBytes, grown: TokenText, placed: Sequence[PlacedPiece], *, with_ids: bool
) -> list[TokenLogprob]:
    """Return the tokens of a text, whose bytes are `placed`."""
    return [
        TokenLogprob(
            token=escaped(piece),
            logprob=bounded(logprob),
            bytes=list(piece),
            top_logprobs=[top_logprob(texts, *alternative, with_id=with_ids) for alternative in top],
            **({"id": token} if with_ids else {}),
        )
        for token, (piece, _), logprob, top in zip(grown.ids, placed, grown.logprobs, tops_of(grown), strict=True)
    ]


def tops_of(grown: TokenText) -> Sequence[Alternatives]:
    """Return the most likely tokens in place of each token of a text."""
    return grown.top_logprobs or [[]] * len(grown.ids)


def top_logprob(texts: TokenBytes, token: int, logprob: float, *, with_id: bool) -> TopLogprob:
    """Return a likely token; a special one has its name and no bytes."""
    piece = texts.bytes_of(token)
    return TopLogprob(
        token=texts.name(token) if texts.is_special(token) else escaped(piece),
        logprob=bounded(logprob),
        bytes=list(piece),
        **({"id": token} if with_id else {}),
    )


class TextLogprobsWriter:
    """Writes the tokens of a completion as it grows; `with_ids` in the form of answers too, each with its id."""

    def __init__(self, tokenizer: Tokenizer, *, with_ids: bool) -> None:
        self.reader, self.with_ids = PieceReader(tokenizer), with_ids
        self.texts = self.reader.texts

    def skip_prompt(self, ids: Sequence[int]) -> None:
        """Read the prompt of a completion that does not begin with it."""
        self.reader.skip(ids[-CONTEXT_TOKENS:])

    def prompt(
        self, ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Alternatives]
    ) -> tuple[str, TextLogprobs]:
        """Return the text and the tokens of a prompt, of which the first has no log-probability; the others have those
        given.
        """
        text, placed = self.reader.read_prompt(ids)
        names = [self.texts.name(token) for token in ids]
        return text, TextLogprobs(
            tokens=names,
            token_logprobs=[None, *map(bounded, logprobs)],
            top_logprobs=[None, *map(self.table, ids[1:], names[1:], logprobs, tops)],
            text_offset=[start for _, start in placed],
        )

    def grown(self, parts: Sequence[TokenText]) -> TextLogprobs:
        """Return the tokens by which the text has grown."""
        names, logprobs, tables, offsets = (
            list[str](),
            list[float | None](),
            list[dict[str, float] | None](),
            list[int](),
        )
        content = list[TokenLogprob]()
        for part in parts:
            placed = self.reader.read(part)
            for token, (piece, start), logprob, top in zip(part.ids, placed, part.logprobs, tops_of(part), strict=True):
                names.append(self.texts.name(token) if self.texts.is_special(token) else named(piece))
                logprobs.append(bounded(logprob))
                tables.append(self.table(token, names[-1], logprob, top))
                offsets.append(start)
            if self.with_ids:
                content += token_logprobs(self.texts, part, placed, with_ids=True)
        found = TextLogprobs(tokens=names, token_logprobs=logprobs, top_logprobs=tables, text_offset=offsets)
        return found.model_copy(update={"content": content}) if self.with_ids else found

    def ending(self, request: Request) -> TextLogprobs:
        """Return the token that ended a text, which is no part of it."""
        token, logprob = request.ids[-1], request.logprobs[-1]
        top = request.top_logprobs[-1] if request.top_logprobs else []
        name = self.texts.name(token)
        return TextLogprobs(
            tokens=[name],
            token_logprobs=[bounded(logprob)],
            top_logprobs=[self.table(token, name, logprob, top)],
            text_offset=[self.reader.offset],
        )

    def table(self, token: int, name: str, logprob: float, top: Alternatives) -> dict[str, float]:
        """Return the log-probabilities of the most likely tokens and of the token itself, by their texts.

        A token with the text of another one has its id for a name.
        """
        found = {name: bounded(logprob)}
        for other, value in top:
            if other != token:
                text = self.texts.name(other)
                found[text if text not in found else f"token_id:{other}"] = bounded(value)
        return found


def joined_logprobs(parts: Sequence[TextLogprobs]) -> TextLogprobs:
    """Return the tokens of several texts, one after the other."""
    found = TextLogprobs(
        tokens=[token for part in parts for token in part.tokens],
        token_logprobs=[logprob for part in parts for logprob in part.token_logprobs],
        top_logprobs=[table for part in parts for table in part.top_logprobs],
        text_offset=[offset for part in parts for offset in part.text_offset],
    )
    if all(part.content is None for part in parts):
        return found
    return found.model_copy(update={"content": [token for part in parts for token in part.content or ()]})
