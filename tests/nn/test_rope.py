"""The rotation against complex numbers and against Hugging Face's Llama."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from gptcli.nn.rope import (
    RotaryEmbedding,
    apply_rotary,
    scale_linear,
    scale_llama3,
    scale_yarn,
    yarn_attention_factor,
)
from gptcli.nn.thresholds import FIRST_TABLE

CPU = torch.device("cpu")


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    turned = apply_rotary(x, RotaryEmbedding(8, 100.0, 7)(slice(7), 7, CPU))
    for position in range(7):
        for pair in range(4):
            angle = torch.tensor(position * 100.0 ** (-2 * pair / 8), dtype=torch.float64)
            number = torch.complex(x[:, :, position, pair], x[:, :, position, pair + 4]) * torch.polar(
                torch.ones((), dtype=torch.float64), angle
            )
            torch.testing.assert_close(turned[:, :, position, pair], number.real, rtol=0, atol=1e-6)
            torch.testing.assert_close(turned[:, :, position, pair + 4], number.imag, rtol=0, atol=1e-6)


def test_rotation_agrees_with_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=32)
    q, k = torch.randn(2, 4, 32, 16), torch.randn(2, 4, 32, 16)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(32)[None])
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    rotary = RotaryEmbedding(16, 10000.0, 32)(slice(32), 32, CPU)
    torch.testing.assert_close((apply_rotary(q, rotary), apply_rotary(k, rotary)), expected, rtol=0, atol=1e-6)


SCALINGS = {
    "linear": (partial(scale_linear, factor=3.0), {"factor": 3.0}),
    "llama3": (
        partial(scale_llama3, factor=8.0, length=100, turns=(1.0, 4.0)),
        {"factor": 8.0, "original_max_position_embeddings": 100, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "yarn": (
        partial(scale_yarn, theta=500.0, factor=4.0, length=100, turns=(1.0, 32.0), truncate=True),
        {"factor": 4.0, "original_max_position_embeddings": 100},
    ),
    "yarn, not truncated": (
        partial(scale_yarn, theta=500.0, factor=4.0, length=100, turns=(0.5, 5.0), truncate=False),
        {"factor": 4.0, "original_max_position_embeddings": 100, "beta_slow": 0.5, "beta_fast": 5.0, "truncate": False},
    ),
}


@pytest.mark.parametrize(("scale", "parameters"), SCALINGS.values(), ids=SCALINGS)
def test_scaled_frequencies_are_those_of_transformers(scale, parameters) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = scale.func.__name__.removeprefix("scale_")
    rope = {"rope_type": kind, "rope_theta": 500.0, **parameters}
    config = LlamaConfig(hidden_size=96, num_attention_heads=4, max_position_embeddings=400, rope_parameters=rope)
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config)
    exponents = torch.arange(0, 24, 2, dtype=torch.float64) / 24
    found = scale(500.0**-exponents)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=0)
    assert not torch.allclose(found, 500.0**-exponents, rtol=1e-2), "the example must scale something"
    assert factor == pytest.approx(yarn_attention_factor(4.0) if kind == "yarn" else 1.0)


def test_attention_factor_lengthens_what_is_turned_and_nothing_else() -> None:
    x = torch.randn(1, 2, 5, 16)
    turned = apply_rotary(x, RotaryEmbedding(8, 100.0, 5, attention_factor=1.5)(slice(5), 5, CPU))
    torch.testing.assert_close(turned[..., :8].norm(dim=-1), 1.5 * x[..., :8].norm(dim=-1))
    assert torch.equal(turned[..., 8:], x[..., 8:])


def test_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 16, dtype=torch.float64), torch.randn(1, 1, 1, 16, dtype=torch.float64)
    rope = RotaryEmbedding(16, 10000.0, 64)

    def score(i: int, j: int) -> float:
        turned_q = apply_rotary(q, rope(slice(i, i + 1), i + 1, CPU))
        turned_k = apply_rotary(k, rope(slice(j, j + 1), j + 1, CPU))
        return float((turned_q * turned_k).sum())

    assert score(3, 1) == pytest.approx(score(50, 48), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(50, 40), abs=1e-3)


def test_only_the_rotary_part_of_a_head_is_turned() -> None:
    x = torch.randn(1, 2, 5, 16)
    rotary = RotaryEmbedding(4, 10000.0, 5)(slice(5), 5, CPU)
    turned = apply_rotary(x, rotary)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    torch.testing.assert_close(turned[..., :4], apply_rotary(x[..., :4], rotary))


def test_tables_grow_past_their_length_and_survive_a_cast() -> None:
    long = RotaryEmbedding(8, 10000.0, 100)
    short = RotaryEmbedding(8, 10000.0, 10)
    assert all(map(torch.equal, short(slice(90, 100), 100, CPU), long(slice(90, 100), 100, CPU)))
    cast = RotaryEmbedding(8, 10000.0, 100).to(torch.bfloat16)
    assert all(map(torch.equal, cast(slice(100), 100, CPU), long(slice(100), 100, CPU)))
    assert not list(short.state_dict())


def test_tables_grow_with_the_positions_that_are_used_not_with_the_context() -> None:
    claimed = RotaryEmbedding(64, 10000.0, 2**27)
    assert claimed.cos.numel() == claimed.sin.numel() == 0
    exact = RotaryEmbedding(64, 10000.0, 1)
    exact.fill(70_000, CPU)
    lengths = set()
    for end in range(1, 70_001, 997):
        assert all(map(torch.equal, claimed(slice(end - 1, end), end, CPU), exact(slice(end - 1, end), end, CPU)))
        lengths.add(claimed.cos.shape[0])
    assert sorted(lengths) == [FIRST_TABLE // 64 * factor for factor in (1, 2, 4, 8)]
    short = RotaryEmbedding(64, 10000.0, 100)
    short.reserve(1, CPU)
    assert short.cos.shape == (100, 64)
    short.reserve(101, CPU)
    assert short.cos.shape == (101, 64)


def test_rows_may_stand_at_different_positions() -> None:
    rope = RotaryEmbedding(8, 10000.0, 16)
    plain_cos, plain_sin = rope(slice(16), 16, CPU)
    positions = torch.tensor([[0, 1, 2], [9, 10, 11]])
    cos, sin = rope(positions, 12, CPU)
    assert cos.shape == (2, 1, 3, 8)
    assert torch.equal(cos[:, 0], plain_cos[positions]) and torch.equal(sin[:, 0], plain_sin[positions])


def test_the_gradient_of_a_rotation_is_turned_back() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    rotary = RotaryEmbedding(6, 100.0, 5)(slice(5), 5, CPU)
    assert torch.autograd.gradcheck(lambda x: apply_rotary(x, tuple(table.double() for table in rotary)), x)
