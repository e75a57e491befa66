"""The assembled model against invariants, in float64, over all slots."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptcli.errors import ConfigError, UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.nn.state import PLAIN

VOCAB, T = 17, 12
SMALL: dict[str, Any] = {"vocab_size": VOCAB, "context_length": 32, "n_layer": 2, "n_head": 4, "n_embd": 16}
GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu_tanh",
    "qk_norm": False,
    "bias": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "gpt2": GPT2,
    "gpt3": {**GPT2, "window_pattern": (0, 3)},
    "llama_gqa": {"qk_norm": False, "n_kv_head": 2, "norm_eps": 1e-5},
    "mqa_untied_geglu": {"n_kv_head": 1, "tie_embeddings": False, "mlp": "geglu"},
    "neox": {**GPT2, "mlp": "gelu", "position": "rope", "rotary_fraction": 0.5, "parallel_residual": True},
    "olmo2": {"norm_place": "after", "qk_norm_over": "heads", "n_kv_head": 2},
    "qwen2_yarn": {
        "qk_norm": False,
        "qkv_bias": True,
        "rope_scaling": {"name": "yarn", "factor": 4.0, "original_context_length": 8},
    },
    "parallel_norm_after": {"parallel_residual": True, "norm_place": "after"},
    "nanochat": {
        "norm_weight": False,
        "embedding_norm": True,
        "mlp": "relu2",
        "tie_embeddings": False,
        "logit_softcap": 5.0,
    },
    "no_position_relu2": {"position": "none", "mlp": "relu2", "head_dim": 6, "intermediate_size": 20},
    "windows_softcap": {"window_pattern": (3, 5), "logit_softcap": 2.0, "rope_theta": 500.0},
    "bigrams": {"smear": True, "bigram_buckets": 1000, "tie_embeddings": False},
    "hashed_bigrams": {"smear": True, "bigram_buckets": 7, "position": "learned"},
    "reference": {"attention": "reference", "n_kv_head": 2, "window_pattern": (0, 4)},
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def small_model(seed: int = 0, **changes: Any) -> GPT:
    """In float64, with weights large enough that every part matters."""
    model = build_model(ModelConfig(**{**SMALL, "init_std": 0.3, **changes}), seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed + 1)
    for info in model.parameter_infos():
        if info.kind == "vector" or not info.tensor.any():
            info.tensor.data += 0.1 * torch.randn(info.tensor.shape, generator=generator, dtype=torch.float64)
    return model.eval()


def random_ids(rows: int = 3, count: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, count), generator=torch.Generator().manual_seed(seed))


@every_shape
def test_future_token_does_not_change_past_logits(shape: dict) -> None:
    model, ids = small_model(**shape), random_ids()
    changed = ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % VOCAB
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@every_shape
@torch.no_grad()
def test_cached_decode_matches_full_forward(shape: dict) -> None:
    model, ids = small_model(**shape), random_ids()
    full = model(ids)
    for sizes in ([1] * T, [5, 4, 1, 2], [T]):
        cache = model.new_cache(3, T)
        pieces = [model(chunk, cache=cache) for chunk in ids.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), full, rtol=0, atol=1e-11)
        assert cache.length == T
    cache = model.new_cache(3, T)
    torch.testing.assert_close(model.last_logits(ids, cache), full[:, -1], rtol=0, atol=1e-11)


@every_shape
@torch.no_grad()
def test_rows_of_different_length_decode_like_each_alone(shape: dict) -> None:
    """Rows are padded on the right, take back tokens, and go on from where each stands."""
    model, ids = small_model(**shape), random_ids()
    full = model(ids)
    cache = model.new_cache(3, T)
    counts = [7, 2, 4]
    last = model.last_logits(ids[:, :7], cache, counts)
    assert cache.lengths == counts
    torch.testing.assert_close(last, full[range(3), [count - 1 for count in counts]], rtol=0, atol=1e-11)
    for read, kept in ((3, (1, 3, 2)), (1, (1, 1, 0)), (2, (2, 1, 2))):
        new = torch.stack([row[length : length + read] for row, length in zip(ids, cache.lengths, strict=True)])
        starts = cache.lengths
        logits = model(new, cache)
        for row, start in enumerate(starts):
            torch.testing.assert_close(logits[row], full[row, start : start + read], rtol=0, atol=1e-11)
        cache.truncate([start + count for start, count in zip(starts, kept, strict=True)])


@every_shape
def test_fast_and_reference_attention_give_the_same_logits(shape: dict) -> None:
    ids, segments = random_ids(), torch.tensor([[0] * 5 + [1] * 7, [0] * 12, [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]])
    fast, reference = (small_model(**{**shape, "attention": name}) for name in ("fast", "reference"))
    for segment_ids in (None, segments):
        torch.testing.assert_close(
            fast(ids, segment_ids=segment_ids), reference(ids, segment_ids=segment_ids), rtol=0, atol=1e-11
        )


@every_shape
def test_gradients_agree_with_finite_differences(shape: dict) -> None:
    model, ids = small_model(**{**shape, "n_layer": 1}), random_ids(2, 6)
    targets = random_ids(2, 6, seed=1)
    targets[0, 3] = IGNORE_INDEX
    infos = model.parameter_infos()
    loss = model.loss_sum(ids, targets)
    gradients = torch.autograd.grad(loss, [info.tensor for info in infos])
    generator = torch.Generator().manual_seed(0)
    step = 1e-5
    for info, gradient in zip(infos, gradients, strict=True):
        direction = torch.randn(info.tensor.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            info.tensor.add_(direction, alpha=step)
            above = model.loss_sum(ids, targets)
            info.tensor.sub_(direction, alpha=2 * step)
            below = model.loss_sum(ids, targets)
            info.tensor.add_(direction, alpha=step)
        measured = ((above - below) / (2 * step)).item()
        assert (gradient * direction).sum().item() == pytest.approx(measured, rel=1e-5, abs=1e-7), info.name


def test_loss_passes_gradcheck() -> None:
    model = small_model(n_embd=4, n_head=2, n_layer=1, n_kv_head=1, intermediate_size=3, vocab_size=5)
    ids = random_ids(2, 4) % 5
    names = ["blocks.0.attention.qkv.weight", "blocks.0.attention.q_norm.weight", "blocks.0.mlp.up.weight"]
    names += ["embedding.weight", "final_norm.weight"]
    parameters = dict(model.named_parameters())

    class Loss(torch.nn.Module):
        """loss_sum as a forward, for functional_call."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> torch.Tensor:
            return self.model.loss_sum(ids, ids.flip(1))

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        weights = {f"model.{name}": tensor for name, tensor in zip(names, tensors, strict=True)}
        return torch.func.functional_call(Loss(), weights, ())

    assert torch.autograd.gradcheck(loss, [parameters[name].detach().requires_grad_() for name in names])


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    model, ids, order = small_model(), random_ids(4), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(ids[order]), model(ids)[order], rtol=0, atol=1e-12)


@every_shape
def test_segments_are_read_as_if_they_were_alone(shape: dict) -> None:
    model, ids = small_model(**shape), random_ids(1)
    segment_ids = torch.tensor([[0] * 5 + [1] * 7])
    together = model(ids, segment_ids=segment_ids)
    torch.testing.assert_close(together[:, :5], model(ids[:, :5]), rtol=0, atol=1e-11)
    torch.testing.assert_close(together[:, 5:], model(ids[:, 5:]), rtol=0, atol=1e-6)  # RoPE's tables are fp32


def test_window_blocks_far_tokens_exactly() -> None:
    """Two layers of window 3 reach 2 * (3 - 1) tokens back and not one further."""
    model, ids = small_model(window_pattern=(3,)), random_ids(1)
    for position in range(T):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 1) % VOCAB
        moved = (model(changed) - model(ids)).abs().amax(dim=-1)[0] > 1e-9
        assert moved.tolist() == [position <= t <= position + 4 for t in range(T)]


def test_window_pattern_cycles_over_the_layers() -> None:
    config = ModelConfig(**{**SMALL, "n_layer": 5, "window_pattern": (0, 4)})
    assert [config.window(layer) for layer in range(5)] == [0, 4, 0, 4, 0]
    assert [block.window for block in build_model(config, device="meta").blocks] == [0, 4, 0, 4, 0]


def test_parallel_residual_adds_both_from_the_same_input() -> None:
    block = small_model(parallel_residual=True, position="none").blocks[0]
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    expected = x + block.attention(block.attention_norm(x)) + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(block(x, PLAIN), expected)


def test_softcap_bounds_the_logits() -> None:
    free, capped = small_model(), small_model(logit_softcap=1.5)
    ids = random_ids()
    torch.testing.assert_close(capped(ids), 1.5 * torch.tanh(free(ids) / 1.5))
    assert capped(ids).abs().max() < 1.5 < free(ids).abs().max()


def test_tied_embeddings_share_storage_and_untied_do_not() -> None:
    tied, untied = small_model(), small_model(tie_embeddings=False)
    assert "head.weight" not in tied.state_dict()
    hidden = torch.randn(2, 16, dtype=torch.float64)
    torch.testing.assert_close(tied.logits(hidden), hidden @ tied.embedding.weight.T)
    torch.testing.assert_close(untied.logits(hidden), hidden @ untied.head.weight.T)
    assert untied.head.weight.data_ptr() != untied.embedding.weight.data_ptr()


def test_loss_sum_is_the_sum_of_the_rows_and_ignores_what_is_ignored() -> None:
    model, ids, targets = small_model(), random_ids(), random_ids(seed=1)
    rows = [model.loss_sum(ids[i : i + 1], targets[i : i + 1]).item() for i in range(3)]
    assert model.loss_sum(ids, targets).item() == pytest.approx(sum(rows), rel=1e-12)
    log_probabilities = model(ids).log_softmax(-1)
    by_hand = -sum(log_probabilities[b, t, targets[b, t]].item() for b in range(3) for t in range(T) if t != 4)
    targets[:, 4] = IGNORE_INDEX
    assert model.loss_sum(ids, targets).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("shape", [{}, GPT2, {"mlp": "relu2"}], ids=["default", "gpt2", "relu2"])
def test_dropout_only_in_training(shape: dict) -> None:
    model, plain, ids = small_model(dropout=0.2, **shape), small_model(**shape), random_ids()
    assert torch.equal(model(ids), plain(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_the_weights_of_attention_are_dropped_with_a_probability_of_their_own() -> None:
    config = ModelConfig(vocab_size=9, dropout=0.2)
    assert config.attention_drop == 0.2
    kept, ids = small_model(dropout=0.2, attention_dropout=0.0).train(), random_ids()
    fused = torch.nn.functional.scaled_dot_product_attention
    probabilities: list[float] = []

    def note(*arguments: object, **named: object) -> torch.Tensor:
        probabilities.append(arguments[4])
        return fused(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
        assert not torch.equal(kept(ids), kept(ids)), "embeddings and outputs are dropped all the same"
    assert set(probabilities) == {0.0}
    only_weights = small_model(attention_dropout=0.5).train()
    assert not torch.equal(only_weights(ids), only_weights(ids))
    assert torch.equal(only_weights.eval()(ids), small_model()(ids))


def test_learned_positions_end_with_a_clear_error() -> None:
    model = small_model(**GPT2)
    with pytest.raises(UsageError, match="learned positions for 32 tokens and was given 33"):
        model(random_ids(1, 33))
    cache = model.new_cache(1, 40)
    model(random_ids(1, 32), cache=cache)
    with pytest.raises(UsageError, match="33"):
        model(random_ids(1, 1), cache=cache)


@torch.no_grad()
def test_rope_reads_past_context_length() -> None:
    model, ids = small_model(context_length=8), random_ids(1, 30)
    longer = small_model(context_length=64)
    torch.testing.assert_close(model(ids), longer(ids), rtol=0, atol=1e-12)


def test_segments_and_cache_together_are_refused() -> None:
    model, ids = small_model(), random_ids()
    with pytest.raises(ValueError, match="segment_ids"):
        model(ids, cache=model.new_cache(3, T), segment_ids=torch.zeros_like(ids))


def test_a_vocabulary_must_be_known() -> None:
    with pytest.raises(ConfigError, match="vocab_size"):
        build_model(ModelConfig())
