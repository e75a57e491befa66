"""However the ranks share a training, it sees the same tokens and follows the same curve as one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallel.curves import FSDP, LIMIT, WAYS, Way, curve, reference
from tiny_base import write_tiny_base

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference(tmp_path_factory.mktemp("curves"))


TESTED = [way for way in WAYS if (way.name, way.ranks) not in (("ddp", 4), ("tensor", 2))]
"""The ways that cut up a model differently; `scripts/curves` runs the others too."""


@pytest.mark.parametrize("way", TESTED, ids=lambda way: f"{way.name.partition(':')[0]}-{way.ranks}")
def test_ranks_follow_the_curve_of_one_process(way: Way, one: Path) -> None:
    found = curve(way, one)
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
def test_every_slot_is_cut_up_right(shape: dict[str, object], tmp_path: Path) -> None:
    settings = {key.replace(".", "__"): value for key, value in shape.items()} | {"train__max_steps": 12}
    one = reference(tmp_path, **settings)
    found = curve(Way("fsdp + tensor", 4, {**FSDP, "parallel.tensor": 2}), one, **settings)
    assert found.is_same_tokens
    assert found.loss < LIMIT and found.val_loss < LIMIT and found.grad_norm < 1e-3


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_blocks_that_are_compiled_by_themselves_follow_the_curve(tmp_path: Path) -> None:
    one = reference(tmp_path, train__max_steps=6)
    found = curve(Way("fsdp", 2, {**FSDP, "train.compile": "true"}), one, train__max_steps=6)
    assert found.loss < LIMIT and found.val_loss < LIMIT


def test_two_ranks_that_train_an_adapter_follow_the_curve_of_one_process(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base", n_head=8, n_kv_head=4)  # the shape in parallel.ranks
    adapter = {"train__init_from": base, "data__tokenizer__name": None, "adapter__name": "lora"}
    one = reference(tmp_path, **adapter, train__max_steps=8)
    found = curve(Way("ddp", 2), one, **adapter, train__max_steps=8)
    assert found.is_same_tokens
    assert found.loss < LIMIT and found.val_loss < LIMIT and found.grad_norm < 1e-3
