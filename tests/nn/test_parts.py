"""Norms, MLPs, loss, cache and devices, each against its formula or torch's own."""

from __future__ import annotations

import math
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gptcli.errors import UsageError
from gptcli.nn import device as devices
from gptcli.nn.loss import IGNORE_INDEX, cross_entropy_sum, token_losses
from gptcli.nn.mlp import MLP, GatedMLP, gelu_tanh, relu2
from gptcli.nn.norm import RMSNorm


def test_rms_norm_is_its_formula() -> None:
    norm = RMSNorm(8, 1e-3).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_rms_norm_keeps_the_dtype_of_its_input_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RMSNorm(8, 1e-6)(torch.randn(2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rms_norm_has_the_gradient_of_its_formula(eps: float) -> None:
    norm = RMSNorm(6, eps).double()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 12, dtype=torch.float64)[..., ::2].requires_grad_()  # not contiguous, as a head's part is not
    mix = torch.randn(2, 3, 6, dtype=torch.float64)
    found = torch.autograd.grad((norm(x) * mix).sum(), (x, norm.weight))
    formula = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight
    torch.testing.assert_close(found, torch.autograd.grad((formula * mix).sum(), (x, norm.weight)))


def test_rms_norm_gives_the_same_with_and_without_gradients_and_where_the_input_is_zero() -> None:
    norm, x = RMSNorm(8, 1e-6), torch.randn(4, 8)
    x[2] = 0
    with torch.no_grad():
        plain = norm(x)
    torch.testing.assert_close(norm(x), plain, rtol=1e-6, atol=0)
    norm(x.requires_grad_()).sum().backward()
    assert x.grad.isfinite().all()


ACTIVATIONS = {
    "gelu": (nn.functional.gelu, lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu_tanh": (gelu_tanh, lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "relu2": (relu2, lambda x: torch.where(x > 0, x * x, 0.0)),
    "silu": (nn.functional.silu, lambda x: x / (1 + torch.exp(-x))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mlps_are_their_formulas(drawn: Callable[[nn.Module], nn.Module], name: str) -> None:
    function, formula = ACTIVATIONS[name]
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    plain, gated = drawn(MLP(8, 12, True, function)), drawn(GatedMLP(8, 12, True, function))
    expected = formula(x @ plain.up.weight.T + plain.up.bias) @ plain.down.weight.T + plain.down.bias
    torch.testing.assert_close(plain(x), expected)
    gate = x @ gated.up.weight[:12].T + gated.up.bias[:12]
    up = x @ gated.up.weight[12:].T + gated.up.bias[12:]
    torch.testing.assert_close(gated(x), (formula(gate) * up) @ gated.down.weight.T + gated.down.bias)


def test_loss_is_summed_over_the_targets_that_count() -> None:
    logits = torch.randn(2, 5, 11, dtype=torch.float64)
    targets = torch.randint(11, (2, 5))
    targets[0, 2] = targets[1, 4] = IGNORE_INDEX
    probabilities = logits.exp() / logits.exp().sum(-1, keepdim=True)
    each = [
        [0.0 if t == IGNORE_INDEX else -math.log(p[t]) for p, t in zip(row_p, row_t, strict=True)]
        for row_p, row_t in zip(probabilities.tolist(), targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(token_losses(logits, targets), torch.tensor(each, dtype=torch.float64))
    assert float(cross_entropy_sum(logits, targets)) == pytest.approx(sum(map(sum, each)), rel=1e-12)


def test_loss_of_half_precision_logits_is_computed_in_fp32() -> None:
    logits, targets = torch.randn(2, 5, 11), torch.randint(11, (2, 5))
    for dtype in (torch.bfloat16, torch.float16):
        loss = cross_entropy_sum(logits.to(dtype), targets)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, cross_entropy_sum(logits.to(dtype).float(), targets))


def test_loss_where_every_target_is_ignored_is_zero() -> None:
    assert float(cross_entropy_sum(torch.randn(1, 3, 5), torch.full((1, 3), IGNORE_INDEX))) == 0.0


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps", "tpu", "meta"):
        with pytest.raises(UsageError, match=name):
            devices.resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.resolve_device("auto") == torch.device("cuda")
    assert devices.resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="the last is cuda:1"):
        devices.resolve_device("cuda:2")


def test_auto_precision_is_bf16_where_the_hardware_is_fast_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(devices, "multiplies_bf16", lambda is_so=supported: is_so)
        assert devices.resolve_precision(torch.device("cpu"), "auto") == expected
        assert devices.resolve_precision(torch.device("cpu"), "bf16") == "bf16"
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, is_so=supported: is_so)
        assert devices.resolve_precision(torch.device("cuda"), "auto") == expected


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_autocast_computes_matrix_products_in_the_precision(precision, dtype: str) -> None:
    with devices.autocast(torch.device("cpu"), precision):
        product = torch.randn(4, 4) @ torch.randn(4, 4)
    assert product.dtype == getattr(torch, dtype)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_in_bytes_and_leaves_out_the_process_that_started_this_one() -> None:
    block = np.ones(1 << 28, dtype=np.uint8)
    code = "import torch; from gptcli.nn import device; print(device.peak_memory_bytes(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5e7 < int(done.stdout) < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - len(block) / 2
