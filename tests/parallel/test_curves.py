"""However the ranks share a training, it sees the same tokens and follows the same curve as one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.nursery import Nursery
from parallel.curves import FSDP, LIMIT, WAYS, Way, curve, reference
from parallel.forked_ranks import rank_nursery
from tiny_base import write_tiny_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with rank_nursery(tmp_path_factory.mktemp("cache")) as started:
        yield started


SHORTER = {
    "train__max_steps": 24,
    "train__eval_every_steps": 12,
    "train__checkpoint_every_steps": 12,
    "train__sample_every_steps": 12,
}
"""A rank that had another part of the model or of a batch than it should would leave the curve in the first steps."""


@pytest.fixture(scope="module")
def one(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference(nursery, tmp_path_factory.mktemp("curves"), **SHORTER)


TESTED = [way for way in WAYS if (way.name, way.ranks) not in (("ddp", 4), ("tensor", 2))]
"""The ways that cut up a model differently; `scripts/curves` runs the others too."""


@pytest.mark.parametrize("way", TESTED, ids=lambda way: f"{way.name.partition(':')[0]}-{way.ranks}")
def test_ranks_follow_the_curve_of_one_process(nursery: Nursery, way: Way, one: Path) -> None:
    found = curve(nursery, way, one, **SHORTER)
    assert found.is_same_tokens
    assert found.loss < LIMIT and found.val_loss < LIMIT and found.grad_norm < 1e-3


OTHER_SHAPES = {
    "the fast family's slots, AdamW": {
        "model.smear": "true", "model.bigram_buckets": 64, "model.mlp": "relu2", "model.tie_embeddings": "false",
        "optim.name": "adamw", "optim.ns_precision": None,
    },
    "GPT-2's shape, documents apart, ragged batches": {
        "model.norm": "layernorm", "model.position": "learned", "model.mlp": "gelu_tanh", "model.qk_norm": "false",
        "model.bias": "true", "data.pack": "document", "train.batch_size": 3,
    },
    "recomputed blocks": {"train.activation_checkpointing": "selective"},
}  # fmt: skip


@pytest.mark.parametrize("shape", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_every_slot_is_cut_up_right(nursery: Nursery, shape: dict[str, object], tmp_path: Path) -> None:
    settings = {key.replace(".", "__"): value for key, value in shape.items()} | {"train__max_steps": 8}
    one = reference(nursery, tmp_path, **settings)
    found = curve(nursery, Way("fsdp + tensor", 4, {**FSDP, "parallel.tensor": 2}), one, **settings)
    assert found.is_same_tokens
    assert found.loss < LIMIT and found.val_loss < LIMIT and found.grad_norm < 1e-3


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_blocks_that_are_compiled_by_themselves_follow_the_curve(nursery: Nursery, tmp_path: Path) -> None:
    one = reference(nursery, tmp_path, train__max_steps=6)
    found = curve(nursery, Way("fsdp", 2, {**FSDP, "train.compile": "true"}), one, train__max_steps=6)
    assert found.loss < LIMIT and found.val_loss < LIMIT


def test_two_ranks_that_train_an_adapter_follow_the_curve_of_one_process(nursery: Nursery, tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base", n_head=8, n_kv_head=4)  # the shape in parallel.ranks
    adapter = {"train__init_from": base, "data__tokenizer__name": None, "adapter__name": "lora"}
    one = reference(nursery, tmp_path, **adapter, train__max_steps=8)
    found = curve(nursery, Way("ddp", 2), one, **adapter, train__max_steps=8)
    assert found.is_same_tokens
    assert found.loss < LIMIT and found.val_loss < LIMIT and found.grad_norm < 1e-3
