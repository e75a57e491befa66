"""Preferences scored by a run that was trained on some, against the model that it started from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gptcli.checkpoint.run_directory import COPY, RunDirectory
from gptcli.config import read_toml, validate
from gptcli.config.load import with_origin
from gptcli.console import quantity, say
from gptcli.data.chat_encoder import ChatEncoder, EncodedConversation
from gptcli.data.config import DataConfig
from gptcli.data.conversations import CHOSEN, REJECTED
from gptcli.data.decoding import Decoding
from gptcli.data.example_rows import chosen_rows, read_preferences
from gptcli.data.examples.preferences import preference_encoder
from gptcli.data.examples.statistics import ExampleCounts, left_out_words
from gptcli.data.shards import TokenShards
from gptcli.data.sources import find_files
from gptcli.errors import DataError
from gptcli.evaluate.conversations import rows_in, stored_examples
from gptcli.evaluate.scoring import Scorer, evaluation_mode
from gptcli.evaluate.statistics import Uncertainty, bootstrap_ratio, proportion
from gptcli.figures import figure_with_interval
from gptcli.interop.base_reference import BaseReference
from gptcli.interop.load import LoadedModel, load_model, open_base, with_rows
from gptcli.interop.run_model import run_tokenizer
from gptcli.models.gpt import GPT, model_with
from gptcli.objective.config import DPOConfig
from gptcli.storage import default_cache_dir

Pair = tuple[EncodedConversation, ...]
"""The chosen and the rejected answer, each with the messages before it."""
ScorerOf = Callable[[GPT], Scorer]


@dataclass(frozen=True)
class PreferenceScores:
    """The means over `pairs` preferences, with their uncertainties by resampling pairs.

    Attributes:
        reference: the model that rewards are measured from, in words.
        loss: that of DPO, in nats per pair.
        accuracy: the share of pairs whose chosen answer has the higher reward.
        kl: the estimate of the divergence from the reference, in nats per answer; see `objective/dpo.py`.
    """

    reference: str
    pairs: int
    beta: float
    loss: float
    loss_uncertainty: Uncertainty | None
    accuracy: float
    accuracy_uncertainty: Uncertainty
    reward_chosen: float
    reward_rejected: float
    kl: float

    def as_dict(self) -> dict[str, Any]:
        """Return the scores for JSON."""
        loss = self.loss_uncertainty
        return {
            "reference": self.reference,
            "pairs": self.pairs,
            "beta": self.beta,
            "loss": self.loss,
            "loss_stderr": loss and loss.stderr,
            "loss_interval": loss and list(loss.interval),
            "reward_accuracy": self.accuracy,
            "reward_accuracy_stderr": self.accuracy_uncertainty.stderr,
            "reward_accuracy_interval": list(self.accuracy_uncertainty.interval),
            "reward_chosen": self.reward_chosen,
            "reward_rejected": self.reward_rejected,
            "reward_margin": self.reward_chosen - self.reward_rejected,
            "kl": self.kl,
        }

    def lines(self) -> list[str]:
        """Return the scores for people."""
        loss = figure_with_interval(
            self.loss, None if self.loss_uncertainty is None else self.loss_uncertainty.interval
        )
        accuracy = figure_with_interval(self.accuracy, self.accuracy_uncertainty.interval)
        rewards = f"{self.reward_chosen:.3f} chosen, {self.reward_rejected:.3f} rejected"
        return [
            f"preferences      {quantity(self.pairs, 'pair')}, rewards against {self.reference}",
            f"DPO loss         {loss} nats per pair (beta {self.beta:g})",
            f"accuracy         {accuracy} of the pairs have the chosen answer ahead",
            f"rewards          {rewards}, margin {self.reward_chosen - self.reward_rejected:.3f}",
            f"divergence       {self.kl:.3f} nats per answer from the reference (to second order)",
        ]


def score_preferences(pairs: Sequence[Pair], model: GPT, run: RunDirectory, scorer_of: ScorerOf) -> PreferenceScores:
    """Score preferences by a model of `run`.

    Raises:
        CheckpointError: the model that the run started from is missing, or another one.
    """
    settings = objective_of(run)
    reference = reference_of(run, model)
    before = answer_nats(pairs, scorer_of(reference.model))
    ratios = [base - own for base, own in zip(before, answer_nats(pairs, scorer_of(model)), strict=True)]
    sums = np.array([ratio.sum() for ratio in ratios]).reshape(-1, 2)
    margins = settings.beta * (sums[:, 0] - sums[:, 1])
    smoothing = settings.label_smoothing
    losses = (1 - smoothing) * np.logaddexp(0, -margins) + smoothing * np.logaddexp(0, margins)
    right = int((margins > 0).sum())
    return PreferenceScores(
        reference=reference.source,
        pairs=len(pairs),
        beta=settings.beta,
        loss=float(losses.mean()),
        loss_uncertainty=bootstrap_ratio(losses, np.ones(len(losses), dtype=np.int64), "pairs"),
        accuracy=right / len(pairs),
        accuracy_uncertainty=proportion(right, len(pairs), "pairs"),
        reward_chosen=float(settings.beta * sums[:, 0].mean()),
        reward_rejected=float(settings.beta * sums[:, 1].mean()),
        kl=float(np.mean([np.square(ratio).sum() / 2 for ratio in ratios])),
    )


def answer_nats(pairs: Sequence[Pair], scorer: Scorer) -> list[np.ndarray]:
    """Return the nats of each token of each answer, (tokens of the answer,) each."""
    documents = (document for pair in pairs for document in pair)
    with evaluation_mode(scorer.model):
        scored = scorer.score((document, document.ids) for document in documents)
        return [one.losses[one.key.in_loss[1:]] for one in scored]


def objective_of(run: RunDirectory) -> DPOConfig:
    """Return the settings of the objective of a run that was trained on preferences."""
    return validate(
        DPOConfig, with_origin(read_toml(run.config_path).values.get("objective", {}), str(run.config_path))
    )


def reference_of(run: RunDirectory, model: GPT) -> LoadedModel:
    """Return the model that a run started from, on the device of `model`.

    Raises:
        CheckpointError: it is missing, or another one.
    """
    device = model.embedding.weight.device
    if (run.path / COPY).is_dir():
        return load_model(run.path / COPY, device=device)
    base, _ = open_base(BaseReference.open(run.path), run.path)
    grown, _ = with_rows(base, run_tokenizer(run))
    weights = {name: tensor.to(device) for name, tensor in grown.state_dict().items()}
    return replace(base, model=model_with(grown.config, weights))


def holds_preferences(sources: Sequence[str], config: DataConfig) -> bool:
    """Return whether the first row of the files is a preference."""
    for file in find_files(sources, config, default_cache_dir()).files:
        for _, row in chosen_rows(file, config, "examples", Decoding.of(config)):
            return CHOSEN in row and REJECTED in row
    return False


def encoded_pairs(encoder: ChatEncoder, sources: Sequence[str], config: DataConfig, longest: int) -> list[Pair]:
    """Return the preferences of files whose two answers have at most `longest` tokens; say how many are left out.

    Raises:
        DataError, StorageError: as `rows_in`; or the template fails on a preference, or none can be scored.
    """
    encode, counts = preference_encoder(encoder, longest), ExampleCounts()
    units = [encode(preference, place, counts) for place, preference in rows_in(sources, config, read_preferences)]
    pairs = [unit.documents for unit in units if unit is not None]
    if len(pairs) < len(units):
        say(f"{quantity(len(units) - len(pairs), 'preference')} left out: {left_out_words(vars(counts))}")
    if not pairs:
        raise DataError("there is no pair of answers to score", "give preferences with two different answers")
    return pairs


def stored_pairs(shards: TokenShards) -> list[Pair]:
    """Return the preferences of a split."""
    documents = list(stored_examples(shards))
    return list(zip(documents[::2], documents[1::2], strict=True))
