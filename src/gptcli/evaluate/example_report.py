"""The report of an evaluation of examples: lines for people, one JSON object for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptcli.console import quantity
from gptcli.data.chat_encoder import LEARNT
from gptcli.evaluate.examples import SHORT_ANSWER_TOKENS, AnswerScores, ExampleEvaluation, MeanLoss, Rate
from gptcli.evaluate.preferences import PreferenceScores
from gptcli.evaluate.report import finite, interval_of, one_line
from gptcli.evaluate.statistics import exponential
from gptcli.figures import figure_with_interval

SHOWN = 3
"""Wrong answers that are shown to people."""


@dataclass(frozen=True)
class ExampleReport:
    """An evaluation of examples, and the model that it is of, in words.

    Attributes:
        source: what the examples are, in words.
        loss_on: the tokens in the loss, as `data.loss_on`.
        preferences: the scores of the pairs whose chosen answers are the examples, if they are such.
    """

    evaluation: ExampleEvaluation
    model: str
    source: str
    loss_on: str
    preferences: PreferenceScores | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `gptcli eval --json` prints."""
        found = self.evaluation
        return {
            "model": self.model,
            "examples": found.examples,
            "of": self.source,
            "loss_on": self.loss_on if self.preferences is None else "answers",
            **losses(found.in_loss),
            "all_tokens": found.tokens,
            "context": found.context,
            "roles": {role: losses(mean) for role, mean in found.roles.items()},
            "answers": found.answers and answers_as_dict(found.answers),
            "preferences": self.preferences and self.preferences.as_dict(),
            "seconds": round(found.seconds, 3),
        }

    @property
    def learnt(self) -> str:
        """The scored tokens in words."""
        return (
            LEARNT[self.loss_on] if self.preferences is None else "the chosen answers, each with the token that ends it"
        )

    def text(self) -> str:
        """Return what `gptcli eval` prints."""
        found = self.evaluation
        mean = found.in_loss
        lines = [
            f"model            {self.model}",
            f"examples         {found.examples:,} of {one_line(self.source)}",
            f"scored           {quantity(mean.tokens, 'token')} of {found.tokens:,}: {self.learnt}",
            "",
            f"loss             {loss_words(mean)} nats per token",
            f"perplexity       {perplexity_words(mean)}",
        ]
        for number, (role, of_role) in enumerate(found.roles.items()):
            title = "" if number else "by role"
            lines.append(
                f"{title:16} {role}: {loss_words(of_role)} over {quantity(of_role.tokens, 'token')}, "
                "including the template's"
            )
        if found.answers is None:
            lines.append(
                f"exact match      not measured: no answer of at most {SHORT_ANSWER_TOKENS} tokens was generated"
            )
        else:
            lines += answer_lines(found.answers, "example" if self.preferences is None else "scored pair")
        if self.preferences is not None:
            lines += ["", *self.preferences.lines()]
        return "\n".join(lines)


def losses(mean: MeanLoss) -> dict[str, Any]:
    """Return a mean loss for JSON."""
    found = mean.uncertainty
    return {
        "loss": finite(mean.loss),
        "perplexity": finite(mean.perplexity),
        "tokens": mean.tokens,
        "loss_stderr": found and finite(found.stderr),
        "loss_interval": found and [finite(found.low), finite(found.high)],
        "perplexity_interval": found and [finite(exponential(end)) for end in found.interval],
        "resampled": found and found.unit,
    }


def answers_as_dict(answers: AnswerScores) -> dict[str, Any]:
    """Return the scores of answers for JSON."""
    return {
        "found": answers.found,
        "short": answers.short,
        "generated": len(answers.generated),
        **share("exact_match", answers.exact_match),
        **share("token_accuracy", answers.token_accuracy),
        "texts": [
            {
                "example": answer.example,
                "expected": answer.expected,
                "generated": answer.generated,
                "is_ended": answer.is_ended,
                "is_match": answer.is_match,
            }
            for answer in answers.generated
        ],
    }


def share(name: str, found: Rate) -> dict[str, Any]:
    """Return a share with its standard error and interval, for JSON."""
    sure = found.uncertainty
    return {
        name: found.share,
        f"{name}_stderr": sure and sure.stderr,
        f"{name}_interval": sure and list(sure.interval),
    }


def loss_words(mean: MeanLoss) -> str:
    """Return a loss with its interval."""
    return figure_with_interval(mean.loss, interval_of(mean.uncertainty))


def perplexity_words(mean: MeanLoss) -> str:
    """Return a perplexity with its interval."""
    return figure_with_interval(mean.perplexity, interval_of(mean.uncertainty, exponential))


def answer_lines(answers: AnswerScores, of: str) -> list[str]:
    """Return the lines about answers, with the first wrong ones by the number of what they are `of`."""
    exact, tokens = answers.exact_match, answers.token_accuracy
    wrong = [answer for answer in answers.generated if not answer.is_match]
    lines = [
        f"exact match      {share_words(exact)} of {quantity(exact.trials, 'answer')}, greedy, ended by a stop token",
        f"token accuracy   {share_words(tokens)} of their {quantity(tokens.trials, 'token')}, after the right ones",
    ]
    left_out = answers.found - len(answers.generated)
    if left_out:
        lines.append(
            f"                 ({quantity(answers.found, 'answer')} in all, {answers.short:,} of them of at most "
            f"{SHORT_ANSWER_TOKENS} tokens)"
        )
    for answer in wrong[:SHOWN]:
        ended = "" if answer.is_ended else ", not ended"
        lines.append(
            f"                 wrong: {answer.generated!r}{ended}, where {of} {answer.example + 1:,} has "
            f"{answer.expected!r}"
        )
    return lines


def share_words(found: Rate) -> str:
    """Return a share with its interval."""
    return figure_with_interval(found.share, interval_of(found.uncertainty))
