"""Scores of examples, such as conversations, on the tokens that a model is to write: loss, and the answers themselves.

Each example is scored by itself, as it is trained. The loss is the mean over the tokens of its mask. An answer is a
stretch of these up to the token that ends it. Short answers are also generated, greedily, and compared with the
example's. This module reads no files.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gptcli.data.chat_encoder import EncodedConversation
from gptcli.errors import DataError
from gptcli.evaluate.continuations import Continuation, score_continuations
from gptcli.evaluate.scoring import Scorer, evaluation_mode, usable_batch_size
from gptcli.evaluate.statistics import Uncertainty, bootstrap_ratio, exponential, proportion
from gptcli.evaluate.windows import resolve_windows
from gptcli.generate.config import GenerationConfig
from gptcli.generate.sample import Completion
from gptcli.generate.text import Generation, Prompt
from gptcli.models.gpt import GPT
from gptcli.tokenizer.tokenizer import Tokenizer

SHORT_ANSWER_TOKENS = 64
"""Tokens of the longest answer that is generated and compared, with the one that ends it."""
MOST_ANSWERS = 1000
"""The default of the answers that are generated; a share of a thousand is known to three hundredths."""
SLACK_TOKENS = 8
"""Tokens that a generated answer may have beyond the longest example's, since the same text can have other tokens."""


class Answer(NamedTuple):
    """An answer in the example of this number: the ids before it, and its own with the one that ends it."""

    example: int
    context: tuple[int, ...]
    ids: tuple[int, ...]


class MeanLoss(NamedTuple):
    """The mean loss in nats over `tokens` tokens; `uncertainty` is None if there is too little to resample."""

    nats: float
    tokens: int
    uncertainty: Uncertainty | None

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        return exponential(self.loss)


class Rate(NamedTuple):
    """The share `hits` / `trials`, and its uncertainty."""

    hits: int
    trials: int
    uncertainty: Uncertainty | None

    @property
    def share(self) -> float:
        """The share."""
        return self.hits / self.trials


class GeneratedAnswer(NamedTuple):
    """An answer as the example has it and as the model wrote it, without special tokens and surrounding white space."""

    example: int
    expected: str
    generated: str
    is_ended: bool
    """Whether the model ended it; an answer that is not ended matches none."""

    @property
    def is_match(self) -> bool:
        """Whether the model wrote the same and ended it."""
        return self.is_ended and self.generated == self.expected


@dataclass(frozen=True)
class AnswerScores:
    """How well a model writes short answers.

    Attributes:
        found: all answers, of which only short ones are compared.
        exact_match: the share that the model writes, greedily and to its end, as the example has it.
        token_accuracy: the share of their tokens that the model finds most likely after the example's tokens before.
    """

    found: int
    short: int
    exact_match: Rate
    token_accuracy: Rate
    generated: tuple[GeneratedAnswer, ...]


@dataclass(frozen=True)
class ExampleEvaluation:
    """Measurements of `examples` examples.

    Attributes:
        in_loss: on the tokens of the mask.
        roles: on all tokens of the messages of each role, template markup included; empty if roles are not known.
        tokens: all tokens.
        answers: None if no answer is short, or none was asked for.
    """

    examples: int
    tokens: int
    in_loss: MeanLoss
    roles: dict[str, MeanLoss]
    answers: AnswerScores | None
    context: int
    seconds: float


@dataclass(frozen=True)
class ExampleOptions:
    """Settings of the measurement.

    Attributes:
        context, stride: as `PerplexityOptions`.
        batch_size: windows and answers at a time; None: as many as take a modest amount of memory.
        answers: the number of short answers to generate at most.
        seed: seed of the bootstrap.
    """

    context: int | None = None
    stride: int | None = None
    batch_size: int | None = None
    answers: int = MOST_ANSWERS
    seed: int = 0


Scored = tuple[EncodedConversation, np.ndarray]
"""An example, and the losses (N - 1,) of all its tokens but the first."""
Complete = Callable[[Sequence[Prompt], GenerationConfig], Generation]
"""Generates texts after prompts, each up to a token that ends an answer."""


@dataclass(frozen=True)
class ExampleScorer:
    """Scores examples by one model.

    Attributes:
        stop_ids: the tokens that end an answer.
        complete: generates answers up to one of `stop_ids`.
        on_tokens: called after each batch with the number of tokens scored and their summed nats.
    """

    model: GPT
    tokenizer: Tokenizer
    stop_ids: Collection[int]
    complete: Complete
    options: ExampleOptions = ExampleOptions()
    on_tokens: Callable[[int, float], None] = lambda count, nats: None

    def evaluate(self, examples: Iterable[EncodedConversation]) -> ExampleEvaluation:
        """Score examples.

        Raises:
            UsageError: the context or the stride is impossible.
            DataError: no token is in the loss.
            CheckpointError: the model's logits are not finite.
            OutOfMemoryError: the device has no memory for one window or one answer.
        """
        began, options = time.monotonic(), self.options
        tallies: dict[str, ExampleSums] = {}
        longest = min(SHORT_ANSWER_TOKENS, self.model.config.context_length)
        in_loss, answers, tokens = ExampleSums(), ShortAnswers(self.stop_ids, longest, options.answers), 0
        context, scored = self.scored(examples)
        for number, (example, losses) in enumerate(scored):
            in_loss.add(losses[example.in_loss[1:]])
            tokens += len(example.ids)
            for role, part in by_role(example, losses).items():
                tallies.setdefault(role, ExampleSums()).add(part)
            answers.consider(number, example)
        if not in_loss.total:
            raise DataError("no token of these examples is of an answer", "give examples with answers of the assistant")
        return ExampleEvaluation(
            examples=len(in_loss.tokens),
            tokens=tokens,
            in_loss=in_loss.mean(options.seed),
            roles={role: tally.mean(options.seed) for role, tally in tallies.items() if tally.total},
            answers=self.score_answers(answers),
            context=context,
            seconds=time.monotonic() - began,
        )

    def scored(self, examples: Iterable[EncodedConversation]) -> tuple[int, Iterator[Scored]]:
        """Return the context, and an iterator over examples with the losses (N - 1,) of all tokens but the first."""
        scorer = self.window_scorer(self.model)

        def run() -> Iterator[Scored]:
            with evaluation_mode(self.model):
                for sequence in scorer.score((example, example.ids) for example in examples):
                    yield sequence.key, sequence.losses

        return scorer.context, run()

    def window_scorer(self, model: GPT) -> Scorer:
        """Return a scorer of sequences by a model, with the windows of the options."""
        options = self.options
        context, stride = resolve_windows(options.context, options.stride, model.config.context_length)
        device, vocab_size = model.embedding.weight.device, model.config.vocab_size
        batch_size = usable_batch_size(options.batch_size, context, vocab_size, device)
        return Scorer(model, context=context, stride=stride, batch_size=batch_size, on_tokens=self.on_tokens)

    def score_answers(self, answers: ShortAnswers) -> AnswerScores | None:
        """Generate the short answers and compare them; None if there are none."""
        kept, batch_size = answers.kept, self.options.batch_size
        if not kept:
            return None
        continuations = [Continuation(context, ids) for _, context, ids in kept]
        scores = score_continuations(self.model, continuations, batch_size=batch_size)
        config = GenerationConfig(
            max_new_tokens=max(len(answer.ids) for answer in kept) + SLACK_TOKENS,
            temperature=0.0,
            batch_size=batch_size or GenerationConfig().batch_size,
        )
        generation = self.complete([Prompt(list(context), "") for _, context, _ in kept], config)
        generated = tuple(
            self.compared(answer, prompt.completions[0])
            for answer, prompt in zip(kept, generation.prompts, strict=True)
        )
        hits, tokens = [score.hits for score in scores], [len(answer.ids) for answer in kept]
        matches = [int(answer.is_match) for answer in generated]
        numbers, seed = [answer.example for answer in kept], self.options.seed
        return AnswerScores(
            found=answers.found,
            short=answers.short,
            exact_match=rate(matches, [1] * len(kept), numbers, seed),
            token_accuracy=rate(hits, tokens, numbers, seed),
            generated=generated,
        )

    def compared(self, answer: Answer, completion: Completion) -> GeneratedAnswer:
        """Return an answer beside what the model wrote."""
        expected = self.tokenizer.decode(answer.ids).strip()
        return GeneratedAnswer(answer.example, expected, completion.text.strip(), completion.finish_reason == "eot")


class ShortAnswers:
    """The first `limit` answers of at most `longest` tokens, with counts of all."""

    def __init__(self, stop_ids: Collection[int], longest: int, limit: int) -> None:
        self.stop_ids, self.longest, self.limit = stop_ids, longest, limit
        self.found = self.short = 0
        self.kept: list[Answer] = []

    def consider(self, number: int, example: EncodedConversation) -> None:
        """Count the answers of an example, and keep the short ones."""
        for answer in answers_of(number, example, self.stop_ids):
            self.found += 1
            if len(answer.ids) > self.longest:
                continue
            self.short += 1
            if len(self.kept) < self.limit:
                self.kept.append(answer)


def answers_of(number: int, example: EncodedConversation, stop_ids: Collection[int]) -> Iterator[Answer]:
    """Yield the stretches of the mask up to the first token of `stop_ids`; one that no such token ends is no answer.

    What was cut at the context has no end, nor has a stretch that begins the example a context.
    """
    edges = np.flatnonzero(np.diff(example.in_loss.astype(np.int8), prepend=0, append=0))
    for start, stop in edges.reshape(-1, 2).tolist():
        ids = example.ids[start:stop].tolist()
        end = next((place for place, token in enumerate(ids) if token in stop_ids), None)
        if start and end is not None:
            yield Answer(number, tuple(example.ids[:start].tolist()), tuple(ids[: end + 1]))


def by_role(example: EncodedConversation, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Return the losses of all tokens of each role; the first token of an example, which nothing precedes, has none."""
    parts: dict[str, list[np.ndarray]] = {}
    for role, start, stop in example.turns:
        parts.setdefault(role, []).append(losses[max(start - 1, 0) : max(stop - 1, 0)])
    return {role: np.concatenate(found) for role, found in parts.items()}


class ExampleSums:
    """Sums over examples."""

    def __init__(self) -> None:
        self.nats, self.tokens = array("d"), array("q")

    def add(self, losses: np.ndarray) -> None:
        """Add the losses of one example."""
        self.nats.append(float(losses.sum()))
        self.tokens.append(len(losses))

    @property
    def total(self) -> int:
        """The number of tokens."""
        return sum(self.tokens)

    def mean(self, seed: int) -> MeanLoss:
        """Return the mean loss of at least one token, and its uncertainty by resampling examples."""
        nats, tokens = np.asarray(self.nats), np.asarray(self.tokens)
        return MeanLoss(float(nats.sum()), int(tokens.sum()), bootstrap_ratio(nats, tokens, "examples", seed))


def rate(hits: Sequence[int], trials: Sequence[int], examples: Sequence[int], seed: int) -> Rate:
    """Return the share of hits in at least one trial.

    Where each example has one trial they are independent, and the interval is Wilson's; otherwise examples are
    resampled.

    Args:
        examples: the number of the example of each hit.
    """
    total, right = sum(trials), sum(hits)
    numbers = np.unique(examples, return_inverse=True)[1]
    if len(set(examples)) == total:
        return Rate(right, total, proportion(right, total, "answers"))
    found, of = np.bincount(numbers, hits), np.bincount(numbers, trials).astype(np.int64)
    return Rate(right, total, bootstrap_ratio(found, of, "examples", seed))
