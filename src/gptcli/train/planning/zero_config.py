"""The zero-config rule: what `gptcli train book.txt` chooses from the size of the corpus and the device.

docs/architecture.md tells how the numbers were found. Knows only plain numbers; anything the user set stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

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

ZERO_CONFIG = "the zero-config rule"


class Shape(NamedTuple):
    """Layers, width, context and tokens of a step, chosen for training splits of at least `minimum_bytes`; below the
    first of them small_text.py decides."""

    minimum_bytes: int
    n_layer: int
    n_embd: int
    context_length: int
    tokens_per_step: int
    max_steps: int


# On a CPU the shape is what two cores train in three to five minutes; more text only makes longer runs worthwhile.
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
MEMORISED = 38.0, 0.35
"""Epochs after which a text is memorised by a model with one weight of its blocks for each token, and the power
with which they fall as weights are added (docs/benchmarks.md)."""
BYTES_PER_TOKEN = 3
"""About, for BPE on prose; it only bounds the epochs, so it need not be exact."""
HEAD_WIDTH = 32
TUNED_WIDTH = 128
"""Width at which the learning rates were found."""
TUNED_STEPS = 900
"""Steps up to which those rates hold; Muon's falls with the fourth root of the steps beyond them."""
MOST_CUMULATIVE_DECAY = 20.0
"""Sum of rate x decay over a run, beyond which nothing more is gained."""
MANY_EPOCHS, DROPOUT = 13, 0.1
"""From so many epochs on dropout pays beside the decay; at eleven it did not (docs/benchmarks.md)."""
LONG_RUN = 5000
"""Below so many steps a shorter memory of gradients (momentum 0.9) learns faster."""
GENTLER = 0.1
"""What the rates of drawn weights are multiplied by where training starts from a model: at the full rates its first
steps would undo what it has learnt (Ibrahim et al. 2024, arXiv:2403.08763, measure how much); a tenth is customary."""
MICRO_BATCH_TOKENS = {"cpu": 2048, "gpu": 16384}
NAMES = RawConfig({"optim": {"name": "muon"}, "schedule": {"name": "linear"}})
"""What the rule takes of the kinds with keys of their own, where the user names none: its keys may be set alone."""


class CorpusFacts(NamedTuple):
    """The facts about a corpus that the rule uses."""

    train_bytes: int
    """UTF-8 bytes of the training split."""
    device_type: str
    """cpu, cuda or mps."""
    bytes_per_token: float | None = None
    """Bytes per token of the tokenizer on this text; None: about as many as such a tokenizer has on prose."""
    packed_bits: float | None = None
    """The repetition of a small text, as small_text.packed_bits measures it; None: that of prose."""
    shape_is_chosen: bool = False
    """Whether the rule for a deadline chose the shape; that rule may read only a part of a large corpus."""

    @property
    def is_small(self) -> bool:
        """Whether the rule for small texts decides the shape and the steps."""
        return self.train_bytes < SMALL_TEXT and not self.shape_is_chosen

    def tokens(self, tokenizer: Any) -> float:
        """Tokens of the training split by this tokenizer's settings, about where they are not known."""
        return max(self.train_bytes / (self.bytes_per_token or usual_bytes_per_token(tokenizer)), 1)


def choose_tokenizer(train_bytes: int) -> dict[str, Any]:
    """BPE with about sqrt(bytes) entries; of a small text as many as its table says, or bytes."""
    if train_bytes < SMALL_TEXT:
        entries = small_shape(train_bytes).vocab_size
        return {"name": "bpe", "vocab_size": entries} if entries else {"name": "byte"}
    return {"name": "bpe", "vocab_size": min(32768, max(512, 2 ** round(math.log2(train_bytes) / 2)))}


def usual_bytes_per_token(tokenizer: Any) -> float:
    """Of BPE with 512 entries on prose 2, and 0.4 more for every doubling; of characters and bytes 1."""
    if not isinstance(tokenizer, Mapping) or tokenizer.get("name") not in ("bpe", "char", "byte"):
        return BYTES_PER_TOKEN
    if tokenizer["name"] != "bpe":
        return 1.0
    return max(1.5, 2 + 0.4 * math.log2(tokenizer.get("vocab_size", 4096) / 512))


def block_weights(layers: int, width: int) -> int:
    """Weights of the blocks, about."""
    return 12 * layers * width**2


def most_epochs(weights_per_token: Any) -> Any:
    """Epochs after which validation only gets worse, for a number or an array of weights of the blocks a token."""
    epochs, power = MEMORISED
    return epochs * weights_per_token**-power


def choose_shape(facts: CorpusFacts, given: Mapping[str, Any]) -> Shape | SmallShape:
    """The row of the tables for this much text; where training starts from a model, never that of a small text, which
    is for weights that are drawn."""
    if facts.is_small and not given.get("train", {}).get("init_from"):
        return small_shape(facts.train_bytes)
    shapes = CPU_SHAPES if facts.device_type == "cpu" else GPU_SHAPES
    return next((shape for shape in reversed(shapes) if facts.train_bytes >= shape.minimum_bytes), shapes[0])


def zero_config(facts: CorpusFacts, user: RawConfig) -> RawConfig:
    """The values for every key the rule decides, given what the user already set (which shapes what follows from it).

    Args:
        user: the merged files and --set values, their keys and types checked; what is set there is left out, and
            `train.max_steps` too where `train.epochs` is set.
    """
    shape = choose_shape(facts, user.values)
    chosen: dict[str, Any] = {"data": {"tokenizer": choose_tokenizer(facts.train_bytes)}}
    train_tokens = facts.tokens(merge(RawConfig(chosen), user).values["data"]["tokenizer"])
    chosen |= {
        "model": choose_model(shape, user.values.get("model", {})),
        "train": choose_training(shape, facts, train_tokens, user.values),
        "schedule": {**NAMES.values["schedule"], "warmup_steps": 50, "min_lr": 0.0},
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
    """`chosen` without what the user set, and without the steps where the user set the epochs instead."""
    kept = without_keys(chosen, user.values)
    if "train.epochs" in user.origins:
        kept["train"].pop("max_steps", None)
    return kept


def choose_model(shape: Shape | SmallShape, given: Mapping[str, Any]) -> dict[str, Any]:
    """A shape with heads that divide whatever width the user set."""
    width = given.get("n_embd", shape.n_embd)
    model = {"n_layer": shape.n_layer, "n_embd": width, "context_length": shape.context_length}
    model["tie_embeddings"] = False  # the table and the head want different learning rates
    if "head_dim" not in given:
        heads = max(1, width // HEAD_WIDTH)
        kv_heads = given.get("n_kv_head")
        # Rotary embeddings turn pairs of numbers, so a head's width is even.
        fits = [h for h in range(heads, 0, -1) if width % (2 * h) == 0 and (not kv_heads or h % kv_heads == 0)]
        model["n_head"] = fits[0] if fits else 1
    return model


def choose_training(
    shape: Shape | SmallShape, facts: CorpusFacts, train_tokens: float, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Steps and batch, for whatever sequence length the user set."""
    train, model = given.get("train", {}), given.get("model", {})
    context = model.get("context_length", shape.context_length)
    # A model to start from may see more than there is time or memory to train on.
    longest = (CPU_SHAPES if facts.device_type == "cpu" else GPU_SHAPES)[-1].context_length
    chosen_length = {"seq_len": min(context, longest)} if train.get("init_from") else {}
    seq_len = train.get("seq_len") or chosen_length.get("seq_len", context)
    batch_size = train.get("batch_size") or max(
        1, MICRO_BATCH_TOKENS["cpu" if facts.device_type == "cpu" else "gpu"] // seq_len
    )
    tokens_per_step = max(1, round(shape.tokens_per_step / seq_len)) * seq_len
    max_steps = train.get("max_steps") or choose_steps(shape, facts, train_tokens, tokens_per_step, given)
    every = max(1, max_steps // 10)
    return chosen_length | {
        "max_steps": max_steps,
        "tokens_per_step": tokens_per_step,
        "batch_size": min(batch_size, tokens_per_step // seq_len),
        "eval_every_steps": every,
        "checkpoint_every_steps": every,
        "sample_every_steps": max(1, max_steps // 4),
        "log_every_steps": max(1, max_steps // 200),
    }


def choose_steps(
    shape: Shape | SmallShape,
    facts: CorpusFacts,
    train_tokens: float,
    tokens_per_step: int,
    given: Mapping[str, Any],
) -> int:
    """The steps of the epochs that the user set; else those of the table, but no more than `most_epochs`."""
    tokens_per_step = given.get("train", {}).get("tokens_per_step", tokens_per_step)
    if epochs := given.get("train", {}).get("epochs"):
        return max(1, math.ceil(epochs * train_tokens / tokens_per_step))
    if isinstance(shape, SmallShape):
        return small_steps(shape, facts.packed_bits, train_tokens, tokens_per_step)
    return min(shape.max_steps, longest_run(shape, facts.train_bytes, tokens_per_step, given.get("model", {})))


def longest_run(shape: Shape, train_bytes: int, tokens_per_step: int, given_model: Mapping[str, Any]) -> int:
    """Steps after which a text is memorised: MAX_EPOCHS or `most_epochs`, but 100 steps at least."""
    tokens = max(train_bytes / BYTES_PER_TOKEN, 1)
    weights = block_weights(given_model.get("n_layer", shape.n_layer), given_model.get("n_embd", shape.n_embd))
    return int(max(100, min(MAX_EPOCHS, most_epochs(weights / tokens)) * tokens / tokens_per_step))


def choose_dropout(shape: Shape | SmallShape, epochs: float, packed_bits: float | None) -> dict[str, Any]:
    """Beside the decay, where the text is seen many times. Attention weights are spared: with them dropped a CPU could
    not use its fused kernel."""
    if isinstance(shape, SmallShape):
        return {"dropout": small_dropout(shape, packed_bits), "attention_dropout": 0.0}
    return {} if epochs < MANY_EPOCHS else {"dropout": DROPOUT, "attention_dropout": 0.0}


def choose_optimizer(
    settled: Mapping[str, Any], epochs: float, train_tokens: float, shape: Shape | SmallShape
) -> dict[str, Any]:
    """Muon, or AdamW where the user named it. The decay grows with the epochs: text that is seen ten times is memorised
    unless the decay is strong.

    Args:
        settled: all that was chosen before, under what the user set.
    """
    model, train = settled["model"], settled["train"]
    width, steps, gentler = model["n_embd"], train["max_steps"], GENTLER if train.get("init_from") else 1.0
    if settled.get("optim", {}).get("name") == "adamw":
        return {
            "name": "adamw",
            "lr": significant(gentler * min(4e-3, 0.5 / width)),
            "weight_decay": round(min(0.8, max(0.1, 0.08 * epochs)), 2),
        }
    rate = choose_muon(width, steps, 1.0)["lr"]
    if isinstance(shape, SmallShape):
        decay = small_decay(shape, rate, steps)
    else:
        decay = muon_decay(epochs, block_weights(model["n_layer"], width) / train_tokens, rate * steps)
    return choose_muon(width, steps, gentler) | {"weight_decay": decay}


def muon_decay(epochs: float, weights_per_token: float, rate_steps: float) -> float:
    """The more often a text is seen, and the more weights of the blocks there are for each of its tokens, the stronger.

    A model that can learn the text by heart must be kept from it: Kim et al. 2025 (arXiv:2509.14786) find decays thirty
    times the usual. What counts is how much is forgotten over the whole run, the sum of rate x decay over its steps
    (Wang & Aitchison 2024, arXiv:2405.13698): that sum is what was measured (docs/benchmarks.md).

    Args:
        rate_steps: the highest rate times the steps, of which a rate that falls to nothing makes half.
    """
    cumulative_decay = min(MOST_CUMULATIVE_DECAY, 0.28 * epochs**1.5 * weights_per_token**0.25)
    return round(min(4.0, max(0.1, 2 * cumulative_decay / rate_steps)), 2)


def choose_muon(width: int, max_steps: int, gentler: float) -> dict[str, Any]:
    """Muon's settings; the rates were found at TUNED_WIDTH and TUNED_STEPS.

    The embedding's rate holds at any width; a hidden matrix's falls with the square root of it, so that an update, all
    of whose singular values are equal, keeps its size; the head's falls with the width (Yang et al. 2022,
    arXiv:2203.03466).
    """
    narrower, longer = TUNED_WIDTH / width, max(1.0, max_steps / TUNED_STEPS)
    return {
        **NAMES.values["optim"],
        "lr": significant(gentler * 1e-2 * narrower**0.5 / longer**0.25),
        "adamw_lr": significant(gentler * 1e-2),
        "embedding_lr": significant(gentler * 3e-2),
        "head_lr": significant(gentler * 2e-2 * narrower),
        "momentum": 0.9 if max_steps < LONG_RUN else 0.95,
    }


def significant(value: float) -> float:
    """Rounded to two significant digits, as a person would write it."""
    return float(f"{value:.2g}")


def without_keys(chosen: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`chosen` without every leaf that `given` sets; a table given under another `name` is left out whole."""
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
