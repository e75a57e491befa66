"""The rule for a deadline: of all tokenizers, shapes and batches, the one with the lowest predicted loss in the time.

For each candidate the step time model (step_time.py) predicts how many steps the time allows, and the scaling law
(scaling_law.py) the loss after them. The rule works on plain numbers: it reads no text and measures nothing. What the
user set is the only candidate for that setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from gptcli.config.load import arrays_as_tuples
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import non_embedding_parameters, parameter_count
from gptcli.models.memory import BatchShape, training_memory_bytes
from gptcli.optim.config import OptimConfig
from gptcli.train.compiling import Compilation
from gptcli.train.planning.scaling_law import Runs, ScalingLaw, excess_bits
from gptcli.train.planning.step_time import StepAmounts, StepTimeModel, step_work
from gptcli.train.planning.text_sample import TokenizerFacts
from gptcli.train.planning.zero_config import (
    ModelShape,
    block_weights,
    choose_model,
    micro_batch_sequences,
    most_epochs,
)

LAYERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
WIDTHS = (32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
WIDTH_PER_LAYER = (12, 128)
CONTEXTS = (64, 128, 256, 512, 1024)
STEP_TOKENS = tuple(2**power for power in range(8, 20))
SEQUENCES_PER_STEP = 16
"""Fewest sequences of a step: the tokens of one sequence are too much alike."""
TOKENS_PER_WEIGHT = 0.5
"""Fewest tokens for each weight that a candidate could see if the machine computed at its limit all the time."""
FLOPS_PER_WEIGHT = 6
"""Operations of one weight for one token, forward and backward."""
LEAST_STEPS = 40
"""Fewest steps of a candidate."""
TRAINING_PART = 0.88
"""Part of the time left after the tokens are prepared that is for steps; the rest evaluates, saves and exports."""
EXTRAPOLATION = 4
"""Most operations of a candidate's step, as a multiple of those of the largest measured step."""
MEMORY_PART = 0.7
"""Part of the machine's memory that a candidate may need."""
SHORTEST_STEP = 1e-6
"""Least predicted seconds of a step."""
MOMENTS = 2
"""Numbers that the optimizer keeps for each weight, at most."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RuleInputs:
    """The facts by which the rule decides."""

    unique_bytes: int
    """UTF-8 bytes of the training split."""
    seconds: float
    """The time left for everything that is still to come, first of all the training of the tokenizer."""
    tokenizers: Sequence[TokenizerFacts]
    optim: OptimConfig
    given: Mapping[str, Any]
    """The user's settings, as nested tables."""
    device_type: str
    memory_bytes: int
    least_flop: float
    """Seconds of an operation in a large matrix product; no step is faster."""
    compilation: Compilation | None = None
    """The cost and the gain of compiling long runs; None if nothing is compiled."""


class Candidate(NamedTuple):
    """One possible run."""

    tokenizer: TokenizerFacts
    model: ModelConfig
    seq_len: int
    tokens_per_step: int
    batch_size: int

    def __str__(self) -> str:
        size, tokenizer = parameter_count(self.model) / 1e6, self.tokenizer
        return (
            f"{self.model.n_layer} layers of {self.model.n_embd} ({size:.2g} M weights), {tokenizer.config.name} of "
            f"{tokenizer.vocab_size:,}, context {self.seq_len}, steps of {self.tokens_per_step:,} tokens"
        )


class GridPoint(NamedTuple):
    """The place of a candidate in the grid."""

    layers: int
    width: int
    context: int
    vocabulary: int
    tokens_per_step: int

    @classmethod
    def of(cls, candidate: Candidate) -> GridPoint:
        """Return the place of a candidate."""
        model, tokenizer = candidate.model, candidate.tokenizer
        return cls(model.n_layer, model.n_embd, candidate.seq_len, tokenizer.vocab_size, candidate.tokens_per_step)


class Prediction(NamedTuple):
    """The predicted results of candidate `number`."""

    number: int
    candidate: Candidate
    compiling_seconds: float
    """Seconds of compiling; 0 if it is not compiled."""
    step_seconds: float
    steps: int
    epochs: float
    bits: float
    """Bits per byte above the text's entropy."""
    most_steps: int
    """The most steps, even if the machine turns out to be faster: after more the text would be memorised."""


class Forecast(NamedTuple):
    """The predicted results of all candidates, each an array with one number a candidate; see `Prediction`."""

    compiling_seconds: Floats
    step_seconds: Floats
    steps: Floats
    bytes_seen: Floats
    bits: Floats
    """Infinite for candidates that are left out."""
    most_steps: Floats


class CandidateGrid:
    """All candidates, with everything about them that does not depend on the step time model."""

    def __init__(self, inputs: RuleInputs) -> None:
        self.inputs = inputs
        self.candidates: list[Candidate] = []
        self.amounts: list[StepAmounts] = []
        for tokenizer, model, seq_len in models_with_vocabularies(inputs):
            work = step_work(model, inputs.optim, seq_len)
            batch_size = sequences_at_once(inputs, seq_len)
            for tokens in step_tokens(inputs.given.get("train", {}), seq_len):
                self.candidates.append(Candidate(tokenizer, model, seq_len, tokens, batch_size))
                self.amounts.append(work.of_step(tokens, math.ceil(tokens / seq_len / batch_size)))
        if not self.candidates:
            raise UsageError("no model fits into this machine's memory with what is set", "set less of it")
        places = np.array([GridPoint.of(candidate) for candidate in self.candidates], dtype=float)
        self.places = places
        self.layers, self.width, self.context, self.vocabulary, self.tokens_per_step = places.T
        self.weights = np.array([non_embedding_parameters(one.model) for one in self.candidates], dtype=float)
        self.flops = np.array([amounts.flops for amounts in self.amounts])
        facts = [candidate.tokenizer for candidate in self.candidates]
        self.bytes_per_token = np.array([fact.bytes_per_token for fact in facts])
        self.preparing = np.array([fact.seconds_per_byte for fact in facts]) * inputs.unique_bytes
        self.given_steps = self.steps_that_are_set()
        self.least_steps = np.minimum(LEAST_STEPS, self.given_steps)

    def nearest(self, place: GridPoint) -> int:
        """Return the number of the candidate that is nearest to a place, by the logarithms of its coordinates."""
        return int(np.argmin((np.log(self.places / np.array(place)) ** 2).sum(axis=1)))

    def steps_that_are_set(self) -> Floats:
        """Return each candidate's steps by train.max_steps or train.epochs; infinite if neither is set."""
        given = self.inputs.given.get("train", {})
        steps = np.full(len(self.candidates), given.get("max_steps") or math.inf)
        if epochs := given.get("epochs"):
            steps = np.ceil(epochs * self.inputs.unique_bytes / self.bytes_per_token / self.tokens_per_step)
        return steps

    def most_steps(self) -> Floats:
        """Return each candidate's steps after which the text would be memorised, or the set ones if they are fewer."""
        tokens = self.inputs.unique_bytes / self.bytes_per_token
        most = np.floor(most_epochs(self.weights / tokens) * tokens / self.tokens_per_step)
        return cast(Floats, np.minimum(np.maximum(most, LEAST_STEPS), self.given_steps))

    def forecast(self, time_model: StepTimeModel, law: ScalingLaw, measured_flops: float) -> Forecast:
        """Return what each candidate would reach.

        Raises:
            UsageError: the time suffices for none; the message says how much is missing.
        """
        step_seconds = np.maximum(np.array(self.amounts) @ np.array(time_model), SHORTEST_STEP)
        left = self.inputs.seconds - self.preparing
        compiling, gain = compiled_part(self.inputs.compilation, TRAINING_PART * left)
        left, step_seconds = left - compiling, step_seconds / gain
        affordable = np.floor(TRAINING_PART * left / step_seconds)
        most = self.most_steps()
        steps = np.minimum(affordable, most)
        if (steps < self.least_steps).all():
            needed = self.preparing + compiling + self.least_steps * step_seconds / TRAINING_PART
            raise too_short(float(needed.min()) - self.inputs.seconds)
        bytes_seen = np.maximum(steps, 1) * self.tokens_per_step * self.bytes_per_token
        runs = Runs(
            weights=self.weights,
            layers=self.layers,
            width=self.width,
            vocabulary=self.vocabulary,
            context=self.context,
            tokens_per_step=self.tokens_per_step,
            bytes_per_token=self.bytes_per_token,
            unique_bytes=float(self.inputs.unique_bytes),
            bytes_seen=bytes_seen,
        )
        is_out = (steps < self.least_steps) | (self.flops > EXTRAPOLATION * measured_flops)
        bits = np.where(is_out, np.inf, excess_bits(law, runs))
        return Forecast(compiling, step_seconds, steps, bytes_seen, bits, most)

    def rank(self, time_model: StepTimeModel, law: ScalingLaw, measured_flops: float) -> list[Prediction]:
        """Return the best candidate, then the best one with another vocabulary and the best one of another shape.

        Candidates whose steps need far more than `measured_flops`, the operations of the largest measured step, are
        left out, since the step time model may not hold for them.

        Raises:
            UsageError: the time suffices for none; the message says how much is missing.
        """
        forecast = self.forecast(time_model, law, measured_flops)
        best = int(np.argmin(forecast.bits))
        is_same_shape = (self.layers == self.layers[best]) & (self.width == self.width[best])
        others = [
            np.where(is_same, np.inf, forecast.bits)
            for is_same in (self.vocabulary == self.vocabulary[best], is_same_shape)
        ]
        following = {int(np.argmin(other)) for other in others if np.isfinite(other).any()}
        ranked = [best, *sorted(following, key=lambda number: float(forecast.bits[number]))]
        return [self.prediction(forecast, number) for number in ranked]

    def prediction(self, forecast: Forecast, number: int) -> Prediction:
        """Return the predicted results of one candidate."""
        return Prediction(
            number=number,
            candidate=self.candidates[number],
            compiling_seconds=float(forecast.compiling_seconds[number]),
            step_seconds=float(forecast.step_seconds[number]),
            steps=int(forecast.steps[number]),
            epochs=float(forecast.bytes_seen[number] / self.inputs.unique_bytes),
            bits=float(forecast.bits[number]),
            most_steps=int(forecast.most_steps[number]),
        )


def compiled_part(compilation: Compilation | None, training: Floats) -> tuple[Floats, Floats]:
    """Return the seconds of compiling and the gain in speed for runs of so many seconds of training."""
    if compilation is None:
        return np.zeros_like(training), np.ones_like(training)
    is_long = training >= compilation.least_run
    return np.where(is_long, compilation.seconds, 0.0), np.where(is_long, compilation.gain, 1.0)


def models_with_vocabularies(inputs: RuleInputs) -> Iterator[tuple[TokenizerFacts, ModelConfig, int]]:
    """Yield every model that fits into memory with each tokenizer, and the length of its sequences."""
    # The tokens are a multiple of the weights, so the time bounds the square of the weights.
    affordable = (inputs.seconds / (FLOPS_PER_WEIGHT * TOKENS_PER_WEIGHT * inputs.least_flop)) ** 0.5
    for model, seq_len in models(inputs.given, affordable):
        batch = BatchShape(sequences_at_once(inputs, seq_len), seq_len)
        for facts in inputs.tokenizers:
            sized = model.model_copy(update={"vocab_size": max(model.vocab_size, facts.vocab_size)})
            needed = training_memory_bytes(sized, MOMENTS * parameter_count(sized), batch)
            if needed <= MEMORY_PART * inputs.memory_bytes:
                yield facts, sized, seq_len


def sequences_at_once(inputs: RuleInputs, seq_len: int) -> int:
    """Return the sequences of a micro-batch: those that are set, or as many as suit the device."""
    given = inputs.given.get("train", {}).get("batch_size")
    return int(given) if given else micro_batch_sequences(inputs.device_type, seq_len)


def models(given: Mapping[str, Any], affordable: float) -> Iterator[tuple[ModelConfig, int]]:
    """Yield every model in question, without a vocabulary, and the length of its sequences.

    Models of more than about `affordable` weights are left out unless the user has set their shape.
    """
    given_model, given_len = dict(given.get("model", {})), given.get("train", {}).get("seq_len")
    n_layer, n_embd, context = (given_model.get(name) for name in ("n_layer", "n_embd", "context_length"))
    low, high = WIDTH_PER_LAYER
    for layers in [n_layer] if n_layer else LAYERS:
        for width in [n_embd] if n_embd else WIDTHS:
            is_sensible = low <= width / layers <= high and block_weights(layers, width) <= affordable
            if not (n_layer and n_embd) and not is_sensible and (layers, width) != (LAYERS[0], WIDTHS[0]):
                continue
            for length in [context or given_len] if context or given_len else CONTEXTS:
                values = choose_model(ModelShape(layers, width, length), given_model) | given_model
                try:
                    yield ModelConfig.model_validate(arrays_as_tuples(values)), given_len or length
                except ValidationError:  # the user's settings do not allow this width
                    continue


def step_tokens(given_train: Mapping[str, Any], seq_len: int) -> Sequence[int]:
    """Return the numbers of tokens that a step may have: whole sequences, and several of them."""
    if given_train.get("tokens_per_step"):
        return [given_train["tokens_per_step"]]
    fitting = [tokens for tokens in STEP_TOKENS if tokens % seq_len == 0 and tokens >= SEQUENCES_PER_STEP * seq_len]
    return fitting or [SEQUENCES_PER_STEP * seq_len]


def too_short(missing: float) -> UsageError:
    """Return the error for a deadline that is `missing` seconds too early for any training."""
    more = max(1, math.ceil(missing))
    return UsageError(f"--time is about {more} s too short for any training on this corpus", f"give {more} s more")
