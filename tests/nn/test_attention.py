"""The fast path against the plain formula, both against loops, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gptcli.nn import attention
from gptcli.nn.attention import Attention, attention_by_matmuls, attention_fast, attention_reference
from gptcli.nn.cache import KVCache
from gptcli.nn.mask import attention_mask
from gptcli.nn.rope import RotaryEmbedding
from gptcli.nn.state import BlockState

B, H, T, D = 3, 4, 9, 6
SEGMENTS = torch.tensor([[0] * 4 + [1] * 5, [0] * 9, [3, 3, 1, 1, 1, 1, 2, 2, 2]])
MASKS = {
    "causal": {},
    "window": {"window": 3},
    "window_of_one": {"window": 1},
    "segments": {"segment_ids": SEGMENTS},
    "everything": {"window": 4, "segment_ids": SEGMENTS},
}


def random_qkv(kv_heads: int, queries: int, keys: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, queries, D), (B, kv_heads, keys, D), (B, kv_heads, keys, D))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def may_look(row: int, query: int, key: int, window: int = 0, segment_ids=None) -> bool:
    """The rule in words, one pair at a time."""
    allowed = key <= query
    if window:
        allowed = allowed and query - key < window
    if segment_ids is not None:
        allowed = allowed and bool(segment_ids[row, key] == segment_ids[row, query])
    return allowed


def attention_by_loops(q, k, v, rule: dict, positions: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k / sqrt(D)) v with scalar loops over rows, heads and queries, which stand at `positions` (B, T), or
    in the last T slots."""
    out = torch.zeros_like(q)
    queries, keys, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    for row in range(q.shape[0]):
        for head in range(q.shape[1]):
            for i in range(queries):
                slot = keys - queries + i if positions is None else int(positions[row, i])
                seen = [j for j in range(keys) if may_look(row, slot, j, **rule)]
                scores = [float(q[row, head, i] @ k[row, head // group, j]) / math.sqrt(q.shape[-1]) for j in seen]
                weights = [math.exp(score) for score in scores]
                for weight, j in zip(weights, seen, strict=True):
                    out[row, head, i] += weight / sum(weights) * v[row, head // group, j]
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("rule", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("function", [attention_reference, attention_fast])
def test_attention_is_the_formula(function, rule: dict, kv_heads: int) -> None:
    q, k, v = random_qkv(kv_heads, T, T)
    mask = attention_mask(T, T, **rule)
    torch.testing.assert_close(function(q, k, v, mask), attention_by_loops(q, k, v, rule), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("rule", [MASKS["causal"], MASKS["window"]])
@pytest.mark.parametrize("function", [attention_reference, attention_fast])
def test_the_last_queries_see_all_filled_slots(function, rule: dict, queries: int, kv_heads: int) -> None:
    q, k, v = random_qkv(kv_heads, queries, T)
    mask = attention_mask(queries, T, **rule)
    torch.testing.assert_close(function(q, k, v, mask), attention_by_loops(q, k, v, rule), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", [MASKS["causal"], MASKS["window"]])
@pytest.mark.parametrize("function", [attention_reference, attention_fast])
def test_queries_of_different_rows_may_stand_at_different_slots(function, rule: dict) -> None:
    q, k, v = random_qkv(2, 3, T)
    positions = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    mask = attention_mask(3, T, positions=positions, **rule)
    expected = attention_by_loops(q, k, v, rule, positions)
    torch.testing.assert_close(function(q, k, v, mask), expected, rtol=0, atol=1e-12)


def test_reference_and_fast_have_the_same_gradients() -> None:
    mask = attention_mask(T, T, **MASKS["everything"])
    gradients = []
    for function in (attention_reference, attention_fast):
        inputs = [x.requires_grad_() for x in random_qkv(2, T, T)]
        function(*inputs, mask).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["mha", "gqa"])
@pytest.mark.parametrize("rule", MASKS.values(), ids=MASKS)
def test_written_out_in_bf16_it_is_the_formula_to_three_digits(rule: dict, kv_heads: int) -> None:
    inputs = [x.bfloat16().double().requires_grad_() for x in random_qkv(kv_heads, T, T)]
    mask = attention_mask(T, T, **rule)
    exact = attention_reference(*inputs, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention_by_matmuls(*inputs, mask)
    assert found.dtype == torch.bfloat16
    results = zip(gradients_of(found, inputs), gradients_of(exact, inputs), strict=True)
    for one, other in ((found, exact), *results):
        assert (one - other).norm() <= 0.01 * other.norm()


def gradients_of(y: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(y.double().square().sum(), inputs)


def test_on_a_cpu_short_sequences_are_written_out_in_bf16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attention_by_matmuls", lambda *inputs: None)
    q, k, v = (x.float() for x in random_qkv(H, T, T))
    assert attention_fast(q, k, v) is not None
    assert attention_fast(q.bfloat16(), k.bfloat16(), v.bfloat16()) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert attention_fast(q, k, v) is None
        assert attention_fast(q[:, :, -1:], k, v) is not None, "there is but one row of scores"
        monkeypatch.setattr(attention, "MAX_MATMUL_SCORES", T * T - 1)
        assert attention_fast(q, k, v) is not None


def test_no_mask_is_built_where_plain_causal_attention_suffices() -> None:
    assert attention_mask(8, 8) is None
    assert attention_mask(1, 8) is None
    assert attention_mask(8, 8, window=8) is None, "the window holds every key"
    assert attention_mask(4, 8) is not None
    assert attention_mask(8, 8, window=7) is not None
    assert attention_mask(1, 8, positions=torch.tensor([[1]])) is not None


@pytest.mark.parametrize("function", [attention_reference, attention_fast, attention_by_matmuls])
def test_dropout_drops_and_keeps_the_mean(function) -> None:
    q, k, v = random_qkv(4, T, T)
    torch.manual_seed(0)
    mean = torch.stack([function(q, k, v, None, 0.3) for _ in range(3000)]).mean(0)
    dropped = function(q, k, v, None, 0.3)
    exact = function(q, k, v, None, 0.0)
    assert not torch.allclose(dropped, exact)
    # One weight has standard deviation sqrt(0.3 / 0.7); 3000 draws of at most |v| ~ 3 average to within 0.12.
    torch.testing.assert_close(mean, exact, rtol=0, atol=0.12)


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
def test_module_paths_agree_with_and_without_cache(
    drawn: Callable[[nn.Module], nn.Module], kv_heads: int, window: int
) -> None:
    """Both paths of the whole module, fed at once and in chunks, give the same numbers in float64."""
    torch.manual_seed(0)
    n_embd = 10
    fast = drawn(Attention(n_embd, H, kv_heads, D, bias=True, qk_norm_widths=(D, D)))
    reference = Attention(
        n_embd, H, kv_heads, D, bias=True, qk_norm_widths=(D, D), function=attention_reference
    ).double()
    reference.load_state_dict(fast.state_dict())
    rope = RotaryEmbedding(D, 10000.0, T)
    x = torch.randn(B, T, n_embd, dtype=torch.float64)
    state = BlockState(rope(slice(T), T, x.device), attention_mask(T, T, window=window))
    whole = reference(x, state)
    torch.testing.assert_close(fast(x, state), whole, rtol=0, atol=1e-12)
    for module in (fast, reference):
        cache = KVCache(1, B, T, kv_heads, D, dtype=torch.float64)
        pieces = []
        for chunk in x.split([4, 1, 3, 1], dim=1):
            count = chunk.shape[1]
            view = cache.extend(count)
            mask = attention_mask(count, view.end, window=window)
            layer = view.layer(0, [mask])
            pieces.append(module(chunk, BlockState(rope(view.places, view.end, x.device), None, layer)))
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-12)


def test_grouped_query_attention_equals_multi_head_with_repeated_kv_weights(
    drawn: Callable[[nn.Module], nn.Module],
) -> None:
    torch.manual_seed(0)
    grouped = drawn(Attention(10, H, 2, D))
    multi = Attention(10, H, H, D).double()
    q, k, v = grouped.qkv.weight.detach().split([H * D, 2 * D, 2 * D])
    repeat = [w.view(2, D, 10).repeat_interleave(2, dim=0).reshape(H * D, 10) for w in (k, v)]
    multi.load_state_dict({"qkv.weight": torch.cat([q, *repeat]), "output.weight": grouped.output.weight.detach()})
    x = torch.randn(B, T, 10, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), multi(x), rtol=0, atol=1e-12)
