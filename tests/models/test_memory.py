"""What training is said to keep, against the storages that autograd saves and the peak that torch's tracker finds."""

from __future__ import annotations

import contextlib
import gc
from functools import partial
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F

from gptcli.models.adapter_config import AdapterTargets, LoraConfig
from gptcli.models.adapters import add_adapter
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import adapter_shape, parameter_count
from gptcli.models.gpt import GPT, build_model
from gptcli.models.memory import (
    BatchShape,
    ComputeFormat,
    Recompute,
    activations,
    token_loss_bytes,
    training_memory_bytes,
)
from gptcli.nn.norm import FewPassesRMSNorm, RMSNorm
from gptcli.nn.recompute import recomputed
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.unfused import unfuse
from peaks import tracked_peak

GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True}
SMALL: dict[str, Any] = {"vocab_size": 2000, "n_embd": 64, "n_head": 4, "context_length": 64, "n_layer": 2}
SHAPES = [
    {},
    {"n_kv_head": 2},
    GPT2,
    {**GPT2, "window_pattern": (0, 8)},
    {"window_pattern": (0, 8), "n_kv_head": 1},
    {"dropout": 0.1, "n_kv_head": 2, "qk_norm": False},
    {"dropout": 0.1, "attention_dropout": 0.0},
    {"norm_weight": False},
    {"attention": "reference"},
    {"attention": "reference", "attention_dropout": 0.1, "n_kv_head": 2},
    {"norm_place": "after", "qk_norm_over": "heads"},
    {"norm_place": "after", "parallel_residual": True},
    {"parallel_residual": True, "norm": "layernorm", "rotary_fraction": 0.25, "mlp": "gelu"},
    {"mlp": "relu2", "qk_norm": False, "position": "none"},
    {"smear": True, "bigram_buckets": 100, "embedding_norm": True},
    {"vocab_size": 65, "mlp": "geglu"},
    {"vocab_size": 65, "logit_softcap": 15.0},
    {"tie_embeddings": False, "logit_softcap": 15.0, "head_dim": 32},
]
BATCH = BatchShape(4, 64)
BF16 = ComputeFormat(compute_bytes=2)


def shape(**values: Any) -> ModelConfig:
    return ModelConfig(**{**SMALL, **values})


def computing(numbers: ComputeFormat) -> contextlib.AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if numbers.is_mixed else contextlib.nullcontext()


def saved_bytes(model: GPT, batch: BatchShape, numbers: ComputeFormat) -> int:
    """Bytes of the storages that a forward pass leaves for its backward pass, each once, weights and tables aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}  # holding the tensors, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(model.config.vocab_size, batch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), computing(numbers):
        model.loss_sum(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("slot", ["norm", "mlp", "position"])
def test_every_value_of_a_slot_is_in_a_shape(slot: str) -> None:
    values = get_args(ModelConfig.model_fields[slot].annotation)
    assert {getattr(shape(**values), slot) for values in SHAPES} == set(values)


@pytest.mark.parametrize("numbers", [ComputeFormat(), BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("values", SHAPES, ids=str)
def test_activations_are_the_storages_that_autograd_saves(values: dict, numbers: ComputeFormat) -> None:
    model = build_model(shape(**values))
    assert activations(model.config, BATCH, numbers).kept == pytest.approx(saved_bytes(model, BATCH, numbers), rel=0.01)


@pytest.mark.parametrize(
    "numbers", [ComputeFormat(is_unfused=True), BF16._replace(is_unfused=True)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("values", [{"n_kv_head": 2}, {"norm_place": "after"}, GPT2], ids=str)
def test_matrices_held_apart_have_their_input_copied_for_each(values: dict, numbers: ComputeFormat) -> None:
    model = build_model(shape(**values), device="meta")
    unfuse(model)
    model.to_empty(device="cpu")
    assert activations(model.config, BATCH, numbers).kept == pytest.approx(saved_bytes(model, BATCH, numbers), rel=0.01)


@pytest.fixture
def cudas_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes by CUDA's rules, as autocast_mode.h lists them and nn.attention chooses: norms and powers in
    fp32, and keys repeated for kernels that take masks or fp32 but no groups."""

    def rms_norm(self: RMSNorm, x: torch.Tensor) -> torch.Tensor:
        # Which keeps what CUDA's fused kernel keeps: its input, the weight, and a scale for each row.
        return FewPassesRMSNorm.apply(x.float(), self.weight.float(), self.eps)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = None, dropout: float = 0) -> torch.Tensor:
        groups = q.shape[1] // k.shape[1]
        if groups > 1 and (mask is not None or not torch.is_autocast_enabled("cpu")):
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=k.shape[1] < q.shape[1])

    monkeypatch.setattr(RMSNorm, "forward", rms_norm)
    monkeypatch.setattr("gptcli.models.block.attention_fast", attend)
    monkeypatch.setattr("gptcli.models.block.relu2", lambda x: F.relu(x).float().square())


CUDA_RULES = [
    {},
    {"n_kv_head": 2},
    {"n_kv_head": 2, "window_pattern": (0, 8)},
    {"n_kv_head": 2, "window_pattern": (8,), "qk_norm": False, "position": "none"},
    {"n_kv_head": 1, "qk_norm": False},
    {"norm_place": "after", "qk_norm_over": "heads"},
    {"mlp": "relu2", "parallel_residual": True},
    GPT2,
]


@pytest.mark.parametrize("compute_bytes", [4, 2], ids=["fp32", "bf16"])
@pytest.mark.parametrize("values", CUDA_RULES, ids=str)
def test_by_cudas_rules_activations_are_what_autograd_saves(
    cudas_rules: None, values: dict, compute_bytes: int
) -> None:
    model, numbers = build_model(shape(**values)), ComputeFormat(compute_bytes, on_cuda=True)
    assert activations(model.config, BATCH, numbers).kept == pytest.approx(saved_bytes(model, BATCH, numbers), rel=0.01)


def recomputing(model: GPT, mode: str) -> GPT:
    """The model with blocks that keep their input alone, or with it what products and attention give."""
    for block in model.blocks:
        block.forward = partial(recomputed, block.forward, mode)
    return model


@pytest.mark.parametrize("numbers", [ComputeFormat(), BF16], ids=["fp32", "bf16"])
def test_a_checkpointed_block_keeps_its_input_alone(numbers: ComputeFormat) -> None:
    model = recomputing(build_model(shape(n_layer=6)), "full")
    kept = activations(model.config, BATCH, numbers, "full")
    head_copy = numbers.compute_bytes * 2000 * 64 if numbers.is_mixed else 0  # autocast holds those of the blocks
    assert kept.blocks + kept.around + kept.loss + head_copy == pytest.approx(
        saved_bytes(model, BATCH, numbers), rel=0.01
    )


def test_logits_too_many_to_keep_leave_the_heads_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.nn.loss.MAX_LOGITS", 2000 * 100)
    monkeypatch.setattr("gptcli.models.memory.MAX_LOGITS", 2000 * 100)
    model = build_model(shape())
    assert activations(model.config, BATCH).kept == pytest.approx(saved_bytes(model, BATCH, ComputeFormat()), rel=0.01)


PEAKS = [
    ({}, BATCH, "none"),
    ({"n_kv_head": 2, "tie_embeddings": False}, BatchShape(8, 64), "none"),
    (GPT2, BATCH, "none"),
    ({"vocab_size": 65}, BatchShape(8, 64), "none"),
    ({"n_embd": 256, "vocab_size": 5000}, BatchShape(1, 16), "none"),
    ({}, BATCH, "full"),
    ({"n_layer": 6, "vocab_size": 300}, BatchShape(8, 64), "full"),
    ({"n_layer": 6, "vocab_size": 300, "n_kv_head": 2}, BatchShape(8, 64), "selective"),
    ({**GPT2, "n_layer": 6, "vocab_size": 1100}, BatchShape(8, 64), "selective"),
]


def peak_bytes(
    model: GPT, batch: BatchShape, numbers: ComputeFormat, micro_batches: int, loss: str = "loss_sum"
) -> int:
    """The most bytes of all tensors at one moment of the second step of a training, by torch's tracker."""
    optimizer = build_optimizer(model.parameter_infos(), AdamWConfig())
    ids = torch.randint(model.config.vocab_size, batch)

    def backpropagate(number: int) -> None:
        with computing(numbers):
            total = getattr(model, loss)(ids, ids).sum()
        total.backward()

    return tracked_peak(model, optimizer, ids, micro_batches, backpropagate)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("numbers", [ComputeFormat(), BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("values", "batch", "mode"), PEAKS, ids=str)
def test_the_peak_of_a_training_is_the_one_that_torch_tracks(
    values: dict, batch: BatchShape, mode: Recompute, numbers: ComputeFormat, micro_batches: int
) -> None:
    config = shape(**{"n_layer": 3, **values})
    measured = peak_bytes(recomputing(build_model(config), mode), batch, numbers, micro_batches)
    moments = 2 * parameter_count(config)
    reckoned = training_memory_bytes(config, moments, batch, numbers, mode, accumulates=micro_batches > 1)
    assert reckoned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("numbers", [ComputeFormat(), BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("vocab_size", [65, 2000])
def test_the_losses_of_each_token_need_more_memory_than_their_sum_as_torch_tracks(
    vocab_size: int, numbers: ComputeFormat
) -> None:
    config = shape(vocab_size=vocab_size, n_layer=1)
    whole, each = (peak_bytes(build_model(config), BATCH, numbers, 1, loss) for loss in ("loss_sum", "token_losses"))
    assert each == pytest.approx(whole + token_loss_bytes(config, BATCH, numbers), rel=0.02)


def test_memory_falls_with_checkpointing_and_half_precision() -> None:
    config, batch = ModelConfig(vocab_size=65), BatchShape(8, 256)
    least, less, most = (
        training_memory_bytes(config, 0, batch, recompute=mode) for mode in ("full", "selective", "none")
    )
    assert least < less < most
    assert training_memory_bytes(config, 0, batch, BF16) < most


CUDA_SHAPES = [
    ({"n_kv_head": 4, "tie_embeddings": False}, "bf16", "none"),
    ({**GPT2, "vocab_size": 50304}, "bf16", "none"),
    ({"vocab_size": 4096, "n_layer": 24}, "bf16", "full"),
    ({"vocab_size": 4096, "n_layer": 24}, "bf16", "selective"),
    ({"qk_norm": False, "n_kv_head": 4}, "fp32", "none"),
    ({"window_pattern": (0, 128), "n_kv_head": 4}, "bf16", "none"),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("values", "precision", "mode"), CUDA_SHAPES, ids=str)
def test_the_peak_on_cuda_is_what_its_allocator_reports(values: dict, precision: str, mode: Recompute) -> None:
    from gptcli.nn.device import autocast

    gc.collect()  # what earlier tests left
    before = torch.cuda.memory_allocated()
    device, batch = torch.device("cuda"), BatchShape(8, 1024)
    size = {"vocab_size": 32768, "n_embd": 1024, "n_head": 16, "context_length": 1024, "n_layer": 12}
    config = ModelConfig(**{**size, **values})
    model = recomputing(build_model(config, device=device), mode)
    optimizer = build_optimizer(model.parameter_infos(), AdamWConfig())
    ids = torch.randint(config.vocab_size, batch, device=device)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        with autocast(device, precision):
            loss = model.loss_sum(ids, ids) / ids.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    numbers = ComputeFormat(2 if precision == "bf16" else 4, on_cuda=True)
    reckoned = training_memory_bytes(config, 2 * parameter_count(config), batch, numbers, mode, accumulates=False)
    assert reckoned == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.05)


@pytest.mark.parametrize("numbers", [ComputeFormat(), BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("adapter", [LoraConfig(rank=8), LoraConfig(rank=8, dropout=0.1)], ids=["plain", "dropout"])
@pytest.mark.parametrize("values", [{}, {"mlp": "gelu", "tie_embeddings": False}, {"n_kv_head": 2}], ids=str)
def test_what_a_model_with_an_adapter_keeps_is_what_autograd_saves(
    values: dict[str, Any], adapter: LoraConfig, numbers: ComputeFormat
) -> None:
    config = shape(**values)
    model = add_adapter(build_model(config), adapter, seed=0).train()
    expected = activations(config, BATCH, numbers, adapter=adapter).kept
    assert saved_bytes(model, BATCH, numbers) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
def test_an_adapter_on_fewer_matrices_keeps_no_more_than_is_said(targets: AdapterTargets) -> None:
    config, adapter = shape(), LoraConfig(rank=8, targets=targets, dora=True)
    model = add_adapter(build_model(config), adapter, seed=0).train()
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    assert adapter_shape(config, adapter).weights == trained
    kept = activations(config, BATCH, adapter=adapter).kept
    assert saved_bytes(model, BATCH, ComputeFormat()) < 1.07 * kept
