"""Packed and 8-bit matrices against the model that they were made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.models.inference import for_generation, quantized, with_linears
from gptcli.nn import inference
from gptcli.nn.inference import Int8Linear, PackedLinear, least_packed_rows, packs
from gptcli.nn.processor import is_amd

SHAPES = [
    {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "bias": True},
    {"tie_embeddings": False, "qk_norm": True, "n_kv_head": 1, "logit_softcap": 5.0},
    {"smear": True, "bigram_buckets": 31, "mlp": "relu2"},
]

needs_packing = pytest.mark.skipif(not packs(torch.zeros(1)), reason="torch was built without oneDNN")


def model_of(settings: dict) -> GPT:
    shape = {"vocab_size": 53, "context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 32, "init_std": 0.2}
    model = build_model(ModelConfig.model_validate(shape | settings), seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    for tensor in model.parameters():
        if not tensor.any():
            tensor.data = torch.randn(tensor.shape, generator=generator) * 0.1
    return model


@torch.no_grad()
@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_copies_give_the_models_logits_and_leave_it_alone(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of(settings), torch.arange(40).view(2, 20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(ids)
    if packs(model.embedding.weight):
        monkeypatch.setattr(inference, "LEAST_PACKED_NUMBERS", 2000)  # some of the matrices
        packed = with_linears(model, PackedLinear)
        assert packed.blocks[0].mlp.up.is_packed and not packed.blocks[0].attention.output.is_packed
        torch.testing.assert_close(packed(ids), expected, rtol=1e-5, atol=1e-5)
        assert packed.embedding.weight.data_ptr() == model.embedding.weight.data_ptr(), "nothing is held twice"
    eight = quantized(model, "int8")
    assert 0 < (eight(ids) - expected).norm() / expected.norm() < 0.05
    assert model.config.tie_embeddings == settings.get("tie_embeddings", True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(ids), expected)


@needs_packing
@pytest.mark.parametrize(("maker", "least"), [("GenuineIntel", 4), ("AuthenticAMD", 1), (None, 4)])
def test_matrices_are_packed_where_enough_rows_read_them(
    maker: str | None, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path, **options: object) -> str:
        if maker is None:
            raise FileNotFoundError
        return f"processor\t: 0\nvendor_id\t: {maker}\n"

    model = model_of(SHAPES[0])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", read_text)
        is_amd.cache_clear()
        assert least_packed_rows() == least
        assert for_generation(model, least - 1) is model
        assert isinstance(for_generation(model, least).blocks[0].mlp.up, PackedLinear)
    is_amd.cache_clear()


@needs_packing
@torch.no_grad()
def test_large_matrices_are_packed_and_small_ones_shared() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(shape, generator=generator) for shape in ((1024, 256), (1024,), (9, 1, 256)))
    large, small = PackedLinear(weight, bias), PackedLinear(weight[:-1], None)
    assert large.is_packed and not small.is_packed and small.matrix.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(large(x), F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(small(x), F.linear(x, weight[:-1]), rtol=1e-4, atol=1e-4)


@needs_packing
@torch.no_grad()
def test_an_8_bit_product_is_the_formulas(subtests: pytest.Subtests) -> None:
    """y = (low + step n) (s q)^T + b in fp64, with n and q rounded as the docstring says."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(5, 48, generator=generator) + 0.5, torch.randn(40, 48, generator=generator)
    x[3] = 0  # a row without any difference
    for bias in (None, torch.randn(40, generator=generator)):
        with subtests.test(bias=bias is not None):
            linear = Int8Linear(weight, bias)
            scale = weight.abs().amax(1, keepdim=True) / 127
            q = (weight / scale).round().double()
            low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
            step = ((high - low) / linear.levels).clamp_min(torch.finfo(torch.float32).tiny)
            n = ((x - low) / step).round().double()
            expected = F.linear(low + step * n, q * scale, None if bias is None else bias.double())
            torch.testing.assert_close(linear(x).double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_row_in_8_bits_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = Int8Linear(torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator))
    x = torch.randn(9, 64, generator=generator) * torch.logspace(-2, 2, 9)[:, None]
    assert torch.equal(linear(x), torch.cat([linear(row[None]) for row in x]))


@torch.no_grad()
def test_where_nothing_is_packed_weights_alone_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(40, 48, generator=generator), torch.randn(3, 48, generator=generator)
    scale = weight.abs().amax(1, keepdim=True) / 127
    linear = Int8Linear(weight, torch.ones(40))
    torch.testing.assert_close(linear(x), F.linear(x, (weight / scale).round() * scale) + 1, rtol=1e-5, atol=1e-5)
