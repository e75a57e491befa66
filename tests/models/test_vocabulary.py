"""Rows for new tokens: the logits of the others stay, and padding is used first and kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model, model_with
from gptcli.models.vocabulary import add_tokens

SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "pairs": {"smear": True, "bigram_buckets": 2000, "tie_embeddings": False},
    "hashed pairs": {"smear": True, "bigram_buckets": 7},
}


def model(vocab_size: int, **slots: Any) -> GPT:
    config = ModelConfig(vocab_size=vocab_size, context_length=16, n_layer=1, n_head=2, n_embd=16, **slots)
    built = build_model(config, seed=3)
    for info in built.parameter_infos():  # tables of pairs start at 0
        torch.nn.init.normal_(info.tensor, generator=torch.Generator().manual_seed(len(info.name)))
    return built.eval()


@pytest.mark.parametrize("slots", SHAPES.values(), ids=SHAPES)
def test_new_tokens_change_no_logit_of_another_and_have_the_mean_of_all(slots: dict[str, Any]) -> None:
    base = model(30, **slots)
    grown = add_tokens(base.config, base.state_dict(), known=30, wanted=33)
    assert grown.config.vocab_size == 33 and grown.spare == 0
    larger = model_with(grown.config, grown.weights).eval()
    ids = torch.randint(30, (2, 16), generator=torch.Generator().manual_seed(1))
    before, after = base(ids), larger(ids)
    torch.testing.assert_close(after[..., :30], before, rtol=0, atol=1e-6)
    for new in (30, 31, 32):
        torch.testing.assert_close(larger.embedding.weight[new], base.embedding.weight.mean(dim=0))
        torch.testing.assert_close(after[..., new], before.mean(dim=-1), rtol=1e-4, atol=1e-4)


def test_spare_rows_are_used_first_and_leave_the_shape() -> None:
    base = model(64, tie_embeddings=False)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    grown = add_tokens(base.config, base.state_dict(), known=60, wanted=62)
    assert grown.config == base.config and grown.spare == 2
    for name in ("embedding.weight", "head.weight"):
        torch.testing.assert_close(grown.weights[name][60:62], before[name][:60].mean(dim=0).expand(2, -1))
        assert torch.equal(grown.weights[name][62:], before[name][62:])
        assert torch.equal(base.state_dict()[name], before[name])


@pytest.mark.parametrize(("rows", "known", "wanted", "size"), [(64, 60, 65, 128), (48, 45, 50, 64), (60, 60, 61, 61)])
def test_a_padded_vocabulary_stays_padded(rows: int, known: int, wanted: int, size: int) -> None:
    base = model(rows)
    assert add_tokens(base.config, base.state_dict(), known, wanted).config.vocab_size == size


def test_tokens_that_are_added_twice_keep_the_numbers_of_pairs() -> None:
    base = model(30, **SHAPES["pairs"])
    once = add_tokens(base.config, base.state_dict(), 30, 32)
    twice = add_tokens(once.config, once.weights, 32, 40)
    assert twice.config.bigram_vocab_size == 30
