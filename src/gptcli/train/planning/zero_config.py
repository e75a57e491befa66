"""The zero-config rule: what `gptcli train book.txt` chooses from the size of the corpus and the device.

docs/architecture.md says how the numbers were found. The rule works on plain numbers, and what the user set stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gptcli.config import RawConfig, merge
from gptcli.config.load import with_origin
from gptcli.train.planning.small_text import (
    SMALL_TEXT,
    SmallShape,
    small_decay,
    small_dropout,
    small_shape,
    small_steps,
    small_warmup,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ZERO_CONFIG = "the zero-config rule"
Number = TypeVar("Number", float, "npt.NDArray[np.float64]")
Value = TypeVar("Value", int, float)


class ModelShape(NamedTuple):
    """The size of a model."""

    n_layer: int
    n_embd: int
    context_length: int


class Shape(NamedTuple):
    """The model and the run for training splits of at least `minimum_bytes`. small_text.py has those for less."""

    minimum_bytes: int
    n_layer: int
    n_embd: int
    context_length: int
    tokens_per_step: int
    max_steps: int


# On a CPU the shape is one that two cores train in three to five minutes; more text only makes longer runs worthwhile.
CPU_SHAPES = (
    Shape(SMALL_TEXT, n_layer=4, n_embd=128, context_length=128, tokens_per_step=1024, max_steps=2500),
    Shape(4_000_000, n_layer=4, n_embd=192, context_length=256, tokens_per_step=2048, max_steps=1200),
)
# On a GPU the shape grows with the corpus, at roughly 20 tokens a parameter (Hoffmann et al. 2022).
GPU_SHAPES = (
    Shape(SMALL_TEXT, n_layer=4, n_embd=256, context_length=128, tokens_per_step=8192, max_steps=1000),
    Shape(500_000, n_layer=6, n_embd=384, context_length=256, tokens_per_step=16384, max_steps=2500),
    Shape(20_000_000, n_layer=8, n_embd=512, context_length=512, tokens_per_step=65536, max_steps=5000),
    Shape(500_000_000, n_layer=12, n_embd=768, context_length=1024, tokens_per_step=262144, max_steps=10000),
)
MAX_EPOCHS = 40
MEMORISED_EPOCHS, MEMORISED_POWER = 38.0, 0.35
"""Epochs after which a model with one block weight for each token has memorised the text, and the power with which
they fall as weights are added (docs/benchmarks.md)."""
LEAST_STEPS = 100
"""Fewest steps of a run that is bounded by its epochs."""
BYTES_PER_TOKEN = 3
"""Bytes of a token of BPE on prose, about. This only bounds the epochs, so it need not be exact."""
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 512, 32768
USUAL_VOCABULARY = 4096
"""Vocabulary of a BPE tokenizer whose settings do not name one."""
BYTES_AT_SMALLEST, BYTES_PER_DOUBLING, FEWEST_BYTES = 2, 0.4, 1.5
"""Bytes of a token of BPE on prose: with the smallest vocabulary, added by each doubling of it, and at least."""
HEAD_WIDTH = 32
TUNED_WIDTH = 128
"""Width at which the learning rates were found."""
TUNED_STEPS = 900
"""Steps up to which those rates hold; Muon's rate falls with the fourth root of the steps beyond them."""
MUON_LR, ADAMW_LR, EMBEDDING_LR, HEAD_LR = 1e-2, 1e-2, 3e-2, 2e-2
"""Muon's learning rates at TUNED_WIDTH: of hidden matrices, norms, the embedding and the untied head."""
ONLY_ADAMW_LR, ONLY_ADAMW_LR_TIMES_WIDTH = 4e-3, 0.5
"""Largest learning rate of AdamW alone, and its product with the width of wider models."""
ADAMW_DECAY, ADAMW_DECAY_PER_EPOCH = (0.1, 0.8), 0.08
MUON_DECAY = (0.1, 4.0)
DECAY_SCALE, DECAY_EPOCHS_POWER, DECAY_WEIGHTS_POWER = 0.28, 1.5, 0.25
"""Cumulative decay of one epoch at one block weight for each token, and the powers with which both raise it."""
MOST_CUMULATIVE_DECAY = 20.0
"""Sum of rate x decay over a run, beyond which nothing more is gained."""
MANY_EPOCHS, DROPOUT = 13, 0.1
"""Epochs from which on dropout helps beside the decay; at eleven it did not (docs/benchmarks.md)."""
LONG_RUN, SHORT_MOMENTUM, LONG_MOMENTUM = 5000, 0.9, 0.95
"""Steps below which a smaller momentum learns faster, and both momentums."""
START_LR_FACTOR = 0.1
"""Factor of the learning rates where training starts from a model: at the full rates its first steps would undo what it
has learnt (Ibrahim et al. 2024, arXiv:2403.08763, measure how much); a tenth is customary."""
WARMUP_STEPS = 50
EVALUATIONS, SAMPLES, LOG_LINES = 10, 4, 200
"""Evaluations, which each come with a checkpoint, samples of generated text, and lines of metrics.jsonl in a run."""
MICRO_BATCH_TOKENS = {"cpu": 2048, "gpu": 16384}
DEFAULT_NAMES = RawConfig({"optim": {"name": "muon"}, "schedule": {"name": "linear"}})
"""The optimizer and the schedule where the user names none, so that their keys may be set without their names."""


class CorpusFacts(NamedTuple):
    """The facts about a corpus and its device that the rule uses."""

    train_bytes: int
    """UTF-8 bytes of the training split."""
    device_type: str
    """cpu, cuda or mps."""
    bytes_per_token: float | None = None
    """Bytes per token of the tokenizer on this text; None: as many as such a tokenizer has on prose, about."""
    packed_bits: float | None = None
    """The repetition of a small text, as small_text.packed_bits measures it; None: that of prose."""
    sequences: int | None = None
    """Sequences of an epoch; None: not known yet."""
    shape_is_chosen: bool = False
    """Whether the rule for a deadline chose the shape; it may read only a part of a large corpus."""

    @property
    def is_small(self) -> bool:
        """Whether the rule for small texts decides the shape and the steps."""
        return self.train_bytes < SMALL_TEXT and not self.shape_is_chosen

    def tokens(self, tokenizer: Any) -> float:
        """Return the tokens of the training split for these tokenizer settings; an estimate until they are known."""
        return max(self.train_bytes / (self.bytes_per_token or usual_bytes_per_token(tokenizer)), 1)


def choose_tokenizer(train_bytes: int) -> dict[str, Any]:
    """Return settings for BPE with about sqrt(bytes) entries; small texts have the entries of their table, or bytes."""
    if train_bytes < SMALL_TEXT:
        entries = small_shape(train_bytes).vocab_size
        return {"name": "bpe", "vocab_size": entries} if entries else {"name": "byte"}
    return {
        "name": "bpe",
        "vocab_size": within(2 ** round(math.log2(train_bytes) / 2), SMALLEST_VOCABULARY, LARGEST_VOCABULARY),
    }


def usual_bytes_per_token(tokenizer: Any) -> float:
    """Return about how many bytes of prose a token has: more in a larger BPE vocabulary, 1 for characters and bytes."""
    if not isinstance(tokenizer, Mapping) or tokenizer.get("name") not in ("bpe", "char", "byte"):
        return BYTES_PER_TOKEN
    if tokenizer["name"] != "bpe":
        return 1.0
    doublings = math.log2(tokenizer.get("vocab_size", USUAL_VOCABULARY) / SMALLEST_VOCABULARY)
    return max(FEWEST_BYTES, BYTES_AT_SMALLEST + BYTES_PER_DOUBLING * doublings)


def block_weights(layers: int, width: int) -> int:
    """Return about how many weights the blocks have."""
    return 12 * layers * width**2


def most_epochs(weights_per_token: Number) -> Number:
    """Return the epochs after which validation only gets worse, for the weights of the blocks for each token."""
    epochs: Number = MEMORISED_EPOCHS * weights_per_token**-MEMORISED_POWER
    return epochs


def choose_shape(facts: CorpusFacts, given: Mapping[str, Any]) -> Shape | SmallShape:
    """Return the row of the tables for this much text.

    Where training starts from a model it is never one for small texts, since those are for random initial weights.
    """
    if facts.is_small and not given.get("train", {}).get("init_from"):
        return small_shape(facts.train_bytes)
    shapes = CPU_SHAPES if facts.device_type == "cpu" else GPU_SHAPES
    return next((shape for shape in reversed(shapes) if facts.train_bytes >= shape.minimum_bytes), shapes[0])


def zero_config(facts: CorpusFacts, user: RawConfig) -> RawConfig:
    """Return a value for every key that the rule decides and the user did not set.

    The user's values also decide what follows from them.

    Args:
        facts: the corpus and the device.
        user: the merged files and --set values, their keys and types checked. `train.epochs` sets `train.max_steps`.
    """
    shape = choose_shape(facts, user.values)
    chosen: dict[str, Any] = {"data": {"tokenizer": choose_tokenizer(facts.train_bytes)}}
    train_tokens = facts.tokens(merge(RawConfig(chosen), user).values["data"]["tokenizer"])
    chosen |= {
        "model": choose_model(shape, user.values.get("model", {})),
        "train": choose_training(shape, facts, train_tokens, user.values),
        "schedule": {**DEFAULT_NAMES.values["schedule"], "warmup_steps": WARMUP_STEPS, "min_lr": 0.0},
    }
    max_steps = chosen["train"]["max_steps"]
    if isinstance(shape, SmallShape):
        chosen["schedule"]["warmup_steps"] = small_warmup(max_steps)
    settled = merge(RawConfig(chosen), user).values
    epochs = max_steps * settled["train"]["tokens_per_step"] / train_tokens
    chosen["optim"] = choose_optimizer(settled, epochs, train_tokens, shape)
    if "dropout" not in user.values.get("model", {}):
        chosen["model"] |= choose_dropout(shape, epochs, facts.packed_bits)
    return with_origin(without_set(chosen, user), ZERO_CONFIG)


def without_set(chosen: Mapping[str, Any], user: RawConfig) -> dict[str, Any]:
    """Return `chosen` without what the user set, and without the steps if the user set the epochs instead."""
    kept = without_keys(chosen, user.values)
    if "train.epochs" in user.origins:
        kept["train"].pop("max_steps", None)
    return kept


def choose_model(shape: ModelShape | Shape | SmallShape, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model of this shape, with heads that divide its width or the width that the user set."""
    width = given.get("n_embd", shape.n_embd)
    model = {"n_layer": shape.n_layer, "n_embd": width, "context_length": shape.context_length}
    model["tie_embeddings"] = False  # the embedding and the head need different learning rates
    if "head_dim" not in given:
        heads = max(1, width // HEAD_WIDTH)
        kv_heads = given.get("n_kv_head")
        # Rotary embeddings rotate pairs of numbers, so a head's width is even.
        fits = [h for h in range(heads, 0, -1) if width % (2 * h) == 0 and (not kv_heads or h % kv_heads == 0)]
        model["n_head"] = fits[0] if fits else 1
    return model


def choose_training(
    shape: Shape | SmallShape, facts: CorpusFacts, train_tokens: float, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of the steps and batches, for the sequence length that the user set, if any."""
    train, model = given.get("train", {}), given.get("model", {})
    context = model.get("context_length", shape.context_length)
    # A model to start from may have a longer context than there is time or memory to train on.
    longest = (CPU_SHAPES if facts.device_type == "cpu" else GPU_SHAPES)[-1].context_length
    chosen_length = {"seq_len": min(context, longest)} if train.get("init_from") else {}
    seq_len = train.get("seq_len") or chosen_length.get("seq_len", context)
    batch_size = train.get("batch_size") or micro_batch_sequences(facts.device_type, seq_len)
    tokens_per_step = max(1, round(shape.tokens_per_step / seq_len)) * seq_len
    max_steps = train.get("max_steps") or choose_steps(shape, facts, train_tokens, tokens_per_step, given)
    every = max(1, max_steps // EVALUATIONS)
    return chosen_length | {
        "max_steps": max_steps,
        "tokens_per_step": tokens_per_step,
        "batch_size": min(batch_size, tokens_per_step // seq_len),
        "eval_every_steps": every,
        "checkpoint_every_steps": every,
        "sample_every_steps": max(1, max_steps // SAMPLES),
        "log_every_steps": max(1, max_steps // LOG_LINES),
    }


def micro_batch_sequences(device_type: str, seq_len: int) -> int:
    """Return the sequences of a micro-batch that suit the device."""
    return max(1, MICRO_BATCH_TOKENS["cpu" if device_type == "cpu" else "gpu"] // seq_len)


def choose_steps(
    shape: Shape | SmallShape, facts: CorpusFacts, train_tokens: float, tokens_per_step: int, given: Mapping[str, Any]
) -> int:
    """Return the steps of the epochs that the user set, else those of the table, but at most `most_epochs`."""
    tokens_per_step = given.get("train", {}).get("tokens_per_step", tokens_per_step)
    if epochs := given.get("train", {}).get("epochs"):
        return int(max(1, math.ceil(epochs * train_tokens / tokens_per_step)))
    if isinstance(shape, SmallShape):
        return small_steps(shape, facts.packed_bits, train_tokens, tokens_per_step)
    return min(shape.max_steps, longest_run(shape, facts.train_bytes, tokens_per_step, given.get("model", {})))


def longest_run(shape: Shape, train_bytes: int, tokens_per_step: int, given_model: Mapping[str, Any]) -> int:
    """Return the steps after which a text is memorised: MAX_EPOCHS or `most_epochs`, but at least LEAST_STEPS."""
    tokens = max(train_bytes / BYTES_PER_TOKEN, 1)
    weights = block_weights(given_model.get("n_layer", shape.n_layer), given_model.get("n_embd", shape.n_embd))
    return int(max(LEAST_STEPS, min(MAX_EPOCHS, most_epochs(weights / tokens)) * tokens / tokens_per_step))


def choose_dropout(shape: Shape | SmallShape, epochs: float, packed_bits: float | None) -> dict[str, Any]:
    """Return the dropout that is used beside the decay where the text is seen many times.

    Attention weights have none, since with it a CPU could not use its fused kernel.
    """
    if isinstance(shape, SmallShape):
        return {"dropout": small_dropout(shape, packed_bits), "attention_dropout": 0.0}
    return {} if epochs < MANY_EPOCHS else {"dropout": DROPOUT, "attention_dropout": 0.0}


def choose_optimizer(
    settled: Mapping[str, Any], epochs: float, train_tokens: float, shape: Shape | SmallShape
) -> dict[str, Any]:
    """Return the settings of Muon, or of AdamW if the user named it.

    The decay grows with the epochs: a text that is seen ten times is memorised unless the decay is strong.

    Args:
        settled: everything that was chosen before, under the user's settings.
        epochs: how often the run sees the text.
        train_tokens: the tokens of the training split.
        shape: the row of the tables.
    """
    model, train = settled["model"], settled["train"]
    width, steps = model["n_embd"], train["max_steps"]
    lr_factor = START_LR_FACTOR if train.get("init_from") else 1.0
    if settled.get("optim", {}).get("name") == "adamw":
        return {
            "name": "adamw",
            "lr": significant(lr_factor * min(ONLY_ADAMW_LR, ONLY_ADAMW_LR_TIMES_WIDTH / width)),
            "weight_decay": round(within(ADAMW_DECAY_PER_EPOCH * epochs, *ADAMW_DECAY), 2),
        }
    rate = choose_muon(width, steps, 1.0)["lr"]
    if isinstance(shape, SmallShape):
        decay = small_decay(shape, rate, steps)
    else:
        decay = muon_decay(epochs, block_weights(model["n_layer"], width) / train_tokens, rate * steps)
    return choose_muon(width, steps, lr_factor) | {"weight_decay": decay}


def muon_decay(epochs: float, weights_per_token: float, rate_steps: float) -> float:
    """Return Muon's weight decay, which grows with the epochs and with the block weights for each token.

    A model that can memorise the text must be kept from it: Kim et al. 2025 (arXiv:2509.14786) find decays thirty times
    the usual. The decisive quantity is the cumulative decay, the sum of rate x decay over the steps of a run (Wang &
    Aitchison 2024, arXiv:2405.13698), so that sum was measured (docs/benchmarks.md).

    Args:
        epochs: how often the run sees the text.
        weights_per_token: the weights of the blocks divided by the tokens of the text.
        rate_steps: the highest rate times the steps; with a rate that falls to zero the sum of rates is half of it.
    """
    wanted: float = DECAY_SCALE * epochs**DECAY_EPOCHS_POWER * weights_per_token**DECAY_WEIGHTS_POWER
    return round(within(2 * min(MOST_CUMULATIVE_DECAY, wanted) / rate_steps, *MUON_DECAY), 2)


def choose_muon(width: int, max_steps: int, lr_factor: float) -> dict[str, Any]:
    """Return Muon's settings; the rates were found at TUNED_WIDTH and TUNED_STEPS.

    The embedding's rate holds at any width. A hidden matrix's rate falls with the square root of the width, so that an
    update, all of whose singular values are equal, keeps its size. The head's rate falls with the width (Yang et al.
    2022, arXiv:2203.03466).
    """
    narrower, longer = TUNED_WIDTH / width, max(1.0, max_steps / TUNED_STEPS)
    return {
        **DEFAULT_NAMES.values["optim"],
        "lr": significant(lr_factor * MUON_LR * narrower**0.5 / longer**0.25),
        "adamw_lr": significant(lr_factor * ADAMW_LR),
        "embedding_lr": significant(lr_factor * EMBEDDING_LR),
        "head_lr": significant(lr_factor * HEAD_LR * narrower),
        "momentum": SHORT_MOMENTUM if max_steps < LONG_RUN else LONG_MOMENTUM,
    }


def significant(value: float) -> float:
    """Return `value` rounded to two significant digits, as a person would write it."""
    return float(f"{value:.2g}")


def within(value: Value, least: Value, most: Value) -> Value:
    """Return `value`, or the bound that it exceeds."""
    return min(max(value, least), most)


def without_keys(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `chosen` without the leaves that `given` sets; a table given under another `name` is left out whole."""
    kept: dict[str, Any] = {}
    for key, value in chosen.items():
        other = given.get(key)
        if key not in given:
            kept[key] = value
        elif (
            isinstance(value, Mapping)
            and isinstance(other, Mapping)
            and other.get("name", value.get("name")) == value.get("name")
        ):
            kept[key] = without_keys(value, other)
    return kept
