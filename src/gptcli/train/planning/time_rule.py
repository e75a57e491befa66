"""The rule for a deadline: of all tokenizers, shapes and batches, the one with the lowest predicted loss in the time.

For each candidate the step time model (step_time.py) predicts how many steps the time allows, and the scaling law
(scaling_law.py) the loss after them. The rule works on plain numbers: it reads no text and measures nothing. What the
user set is the only candidate for that setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from gptcli.config.load import arrays_as_tuples
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import non_embedding_parameters, parameter_count
from gptcli.models.memory import BatchShape, training_memory_bytes
from gptcli.optim.config import OptimConfig
from gptcli.train.compiling import Compilation
from gptcli.train.planning.scaling_law import Runs, ScalingLaw, excess_bits
from gptcli.train.planning.step_time import StepTimeModel, StepWork, step_work
from gptcli.train.planning.text_sample import TokenizerFacts
from gptcli.train.planning.zero_config import MICRO_BATCH_TOKENS, Shape, block_weights, choose_model, most_epochs

LAYERS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
WIDTHS = (32, 48, 64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
WIDTH_PER_LAYER = (12, 128)
CONTEXTS = (64, 128, 256, 512, 1024)
STEP_TOKENS = tuple(2**power for power in range(8, 20))
SEQUENCES_PER_STEP = 16
"""At least: what one sequence says is too much alike."""
TOKENS_PER_WEIGHT = 0.5
"""A model that could not see so many, even at the machine's limit, is not looked at."""
LEAST_STEPS = 40
"""A candidate that cannot make so many is none."""
TRAINING_PART = 0.88
"""Of the time left when the tokens are prepared, what goes into steps: the rest evaluates, saves and exports."""
EXTRAPOLATION = 4
"""How many times the operations of the largest measured step a candidate's may have."""
MEMORY_PART = 0.7
"""Of the machine's memory, what a candidate may take."""


@dataclass(frozen=True)
class RuleInputs:
    """What the rule decides by."""

    unique_bytes: int
    """UTF-8 bytes of the training split."""
    seconds: float
    """Left for all that is still to come, the tokenizer first."""
    tokenizers: Sequence[TokenizerFacts]
    optim: OptimConfig
    given: Mapping[str, Any]
    """The user's settings, as nested tables."""
    device_type: str
    memory_bytes: int
    least_flop: float
    """Seconds of an operation in a large matrix product: no step is faster."""
    compilation: Compilation | None = None
    """What compiling long runs takes and gives; none where nothing is compiled."""


class Candidate(NamedTuple):
    """One possible run."""

    tokenizer: TokenizerFacts
    model: ModelConfig
    seq_len: int
    tokens_per_step: int
    batch_size: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.model.n_layer, self.model.n_embd

    def __str__(self) -> str:
        size, tokenizer = parameter_count(self.model) / 1e6, self.tokenizer
        return (
            f"{self.model.n_layer} layers of {self.model.n_embd} ({size:.2g} M weights), {tokenizer.config.name} of "
            f"{tokenizer.vocab_size:,}, context {self.seq_len}, steps of {self.tokens_per_step:,} tokens"
        )


class Prediction(NamedTuple):
    """The predicted results of candidate `number`: seconds of compiling (0: it is not compiled) and of a step, steps,
    epochs, bits per byte above the text's entropy."""

    number: int
    candidate: Candidate
    compiling_seconds: float
    step_seconds: float
    steps: int
    epochs: float
    bits: float
    most_steps: int
    """The most steps, even if the machine turns out to be faster: after more the text would be memorised."""


class CandidateGrid:
    """All candidates of a situation, and what can be said of each before the machine's prices are known."""

    def __init__(self, situation: RuleInputs) -> None:
        self.situation = situation
        self.candidates: list[Candidate] = []
        self.amounts: list[tuple[float, ...]] = []
        weights: list[int] = []
        for candidate, tokens_of, work in models_with_vocabularies(situation):
            for tokens in tokens_of:
                self.candidates.append(candidate._replace(tokens_per_step=tokens))
                micro_batches = math.ceil(tokens / candidate.seq_len / candidate.batch_size)
                self.amounts.append(work.of_step(tokens, micro_batches))
            weights += [non_embedding_parameters(candidate.model)] * len(tokens_of)
        if not self.candidates:
            raise UsageError("no model fits into this machine's memory with what is set", "set less of it")
        self.columns = np.array(
            [
                (c.model.n_layer, c.model.n_embd, c.seq_len, c.tokenizer.vocab_size, c.tokens_per_step)
                for c in self.candidates
            ],
            dtype=float,
        )
        facts = [candidate.tokenizer for candidate in self.candidates]
        self.weights = np.array(weights, dtype=float)
        self.bytes_per_token = np.array([fact.bytes_per_token for fact in facts])
        self.given_steps = self.steps_that_are_set()
        self.least_steps = np.minimum(LEAST_STEPS, self.given_steps)
        self.preparing = np.array([fact.seconds_per_byte for fact in facts]) * situation.unique_bytes

    def nearest(self, place: Sequence[float]) -> int:
        """The number of the candidate whose (layers, width, context, vocabulary, tokens of a step) are most like it."""
        return int(np.argmin((np.log(self.columns / np.array(place)) ** 2).sum(axis=1)))

    def steps_that_are_set(self) -> np.ndarray:
        """Steps of each candidate by train.max_steps or train.epochs; infinite where neither is set."""
        given = self.situation.given.get("train", {})
        if epochs := given.get("epochs"):
            return np.ceil(epochs * self.situation.unique_bytes / self.bytes_per_token / self.columns[:, 4])
        return np.full(len(self.candidates), given.get("max_steps") or math.inf)

    def most_steps(self) -> np.ndarray:
        """Steps of each candidate after which it would memorise the text, or those that are set if they are fewer."""
        tokens = self.situation.unique_bytes / self.bytes_per_token
        most = np.floor(most_epochs(self.weights / tokens) * tokens / self.columns[:, 4])
        return np.minimum(np.maximum(most, LEAST_STEPS), self.given_steps)

    def rank(self, cost: StepTimeModel, law: ScalingLaw, measured_flops: float) -> list[Prediction]:
        """The best candidate, then the best one with another vocabulary and the best one of another shape.

        Candidates of far more than `measured_flops`, the largest step that was measured, are left out: nothing is
        known of them.

        Raises:
            UsageError: the time suffices for none; says how much more it takes.
        """
        amounts = np.array(self.amounts)
        step_seconds = np.maximum(amounts @ np.array(cost), 1e-6)
        left = self.situation.seconds - self.preparing
        compiling, gain = compiled_part(self.situation.compilation, TRAINING_PART * left)
        left, step_seconds = left - compiling, step_seconds / gain
        affordable = np.floor(TRAINING_PART * left / step_seconds)
        most = self.most_steps()
        steps = np.minimum(affordable, most)
        if (steps < self.least_steps).all():
            needed = self.preparing + compiling + self.least_steps * step_seconds / TRAINING_PART
            raise too_short(float(needed.min()) - self.situation.seconds)
        layers, width, context, vocabulary, tokens = self.columns.T
        bytes_seen = np.maximum(steps, 1) * tokens * self.bytes_per_token
        runs = Runs(
            weights=self.weights,
            layers=layers,
            width=width,
            vocabulary=vocabulary,
            context=context,
            tokens_per_step=tokens,
            bytes_per_token=self.bytes_per_token,
            unique_bytes=float(self.situation.unique_bytes),
            bytes_seen=bytes_seen,
        )
        is_out = (steps < self.least_steps) | (amounts[:, 3] > EXTRAPOLATION * measured_flops)
        bits = np.where(is_out, np.inf, excess_bits(law, runs))
        best = int(np.argmin(bits))
        others = [
            np.where(vocabulary == vocabulary[best], np.inf, bits),
            np.where((layers == layers[best]) & (width == width[best]), np.inf, bits),
        ]
        following = {int(np.argmin(other)) for other in others if np.isfinite(other).any()}
        return [
            Prediction(
                i,
                self.candidates[i],
                float(compiling[i]),
                float(step_seconds[i]),
                int(steps[i]),
                float(bytes_seen[i] / self.situation.unique_bytes),
                float(bits[i]),
                int(most[i]),
            )
            for i in [best, *sorted(following, key=lambda i: bits[i])]
        ]


def compiled_part(compilation: Compilation | None, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each run, of so many seconds of training: seconds that go into compiling, and how many times faster it is."""
    if compilation is None:
        return np.zeros_like(training), np.ones_like(training)
    is_long = training >= compilation.least_run
    return np.where(is_long, compilation.seconds, 0.0), np.where(is_long, compilation.gain, 1.0)


def models_with_vocabularies(situation: RuleInputs) -> Iterator[tuple[Candidate, Sequence[int], StepWork]]:
    """Every model that fits into memory, with the tokens that a step of it may have."""
    given_train = situation.given.get("train", {})
    micro_batch = MICRO_BATCH_TOKENS["cpu" if situation.device_type == "cpu" else "gpu"]
    # 6 operations for each weight and token, the tokens being a multiple of the weights: a bound on the weights.
    affordable = (situation.seconds / (6 * TOKENS_PER_WEIGHT * situation.least_flop)) ** 0.5
    for model, seq_len in models(situation.given, affordable):
        batch_size = given_train.get("batch_size") or max(1, micro_batch // seq_len)
        tokens_of = step_tokens(given_train, seq_len)
        for facts in situation.tokenizers:
            sized = model.model_copy(update={"vocab_size": max(model.vocab_size, facts.vocab_size)})
            needed = training_memory_bytes(sized, 2 * parameter_count(sized), BatchShape(batch_size, seq_len))
            if needed <= MEMORY_PART * situation.memory_bytes:
                yield (
                    Candidate(facts, sized, seq_len, 0, batch_size),
                    tokens_of,
                    step_work(sized, situation.optim, seq_len),
                )


def models(given: Mapping[str, Any], affordable: float) -> Iterator[tuple[ModelConfig, int]]:
    """Every model in question, without a vocabulary, and the length of its sequences; of at most about `affordable`
    weights, where the user has not set its shape."""
    given_model, given_len = dict(given.get("model", {})), given.get("train", {}).get("seq_len")
    n_layer, n_embd, context = (given_model.get(name) for name in ("n_layer", "n_embd", "context_length"))
    low, high = WIDTH_PER_LAYER
    for layers in [n_layer] if n_layer else LAYERS:
        for width in [n_embd] if n_embd else WIDTHS:
            is_sensible = low <= width / layers <= high and block_weights(layers, width) <= affordable
            if not (n_layer and n_embd) and not is_sensible and (layers, width) != (LAYERS[0], WIDTHS[0]):
                continue
            for length in [context or given_len] if context or given_len else CONTEXTS:
                values = choose_model(Shape(0, layers, width, length, 0, 0), given_model) | given_model
                try:
                    yield ModelConfig.model_validate(arrays_as_tuples(values)), given_len or length
                except ValidationError:  # what the user set does not allow this width
                    continue


def step_tokens(given_train: Mapping[str, Any], seq_len: int) -> Sequence[int]:
    """Tokens that a step may have: whole sequences, and several of them."""
    if given_train.get("tokens_per_step"):
        return [given_train["tokens_per_step"]]
    fitting = [tokens for tokens in STEP_TOKENS if tokens % seq_len == 0 and tokens >= SEQUENCES_PER_STEP * seq_len]
    return fitting or [SEQUENCES_PER_STEP * seq_len]


def too_short(missing: float) -> UsageError:
    """The error for a deadline that is `missing` seconds too early for any training."""
    more = max(1, math.ceil(missing))
    return UsageError(f"--time is about {more} s too short for any training on this corpus", f"give {more} s more")
