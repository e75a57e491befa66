"""Training in 8-bit floats: close to fp32, never the same, and the weights stay what they were."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from gptcli.data.batch import Batch
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.device import resolve_precision
from gptcli.nn.float8 import to_float8
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from gptcli.parallel.strategy import Alone
from gptcli.train.step import Stepper

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
CPU = torch.device("cpu")
ROUNDING = 2**-4
"""What a number may change by, of itself, when it is rounded to e4m3, which has three bits after the first."""


def model_on(device: torch.device, n_embd: int = 64) -> GPT:
    config = ModelConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=n_embd, context_length=32)
    return build_model(config, seed=1, device=device)


def batches() -> Iterator[Batch]:
    """Texts that count upwards from anywhere, so that there is something to learn; rows of 7 x 31 tokens."""
    generator = torch.Generator().manual_seed(0)
    while True:
        ids = (torch.randint(50, (7, 1), generator=generator) + torch.arange(32)) % 50
        yield Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None)


def losses(precision: str, device: torch.device, steps: int = 30) -> list[float]:
    model = model_on(device)
    optimizer = build_optimizer(model.parameter_infos(), AdamWConfig(lr=1e-2))
    stepper = Stepper(Alone(model), optimizer, device=device, precision=precision, grad_clip=1.0)
    return [stepper.run([batch]).loss for batch, _ in zip(batches(), range(steps), strict=False)]


def close_but_not_the_same(device: torch.device) -> None:
    in_fp8, in_fp32 = losses("fp8", device), losses("fp32", device)
    assert in_fp8 != losses("bf16", device)
    assert in_fp8[-1] < 0.5 * in_fp8[0]
    assert in_fp8[:10] == pytest.approx(in_fp32[:10], rel=ROUNDING)


@needs_torchao
def test_a_model_learns_in_fp8_as_it_does_in_fp32() -> None:
    close_but_not_the_same(CPU)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*get_autocast_gpu_dtype")  # torchao's
@needs_torchao
def test_a_model_learns_in_fp8_on_a_gpu() -> None:
    close_but_not_the_same(torch.device("cuda"))


@needs_torchao
def test_weights_their_names_and_the_optimizers_hold_on_them_stay() -> None:
    model = model_on(CPU)
    before = dict(model.named_parameters())
    to_float8(model.blocks, CPU)
    after = dict(model.named_parameters())
    assert list(before) == list(after)
    assert all(after[name] is tensor and tensor.dtype == torch.float32 for name, tensor in before.items())
    assert type(model.blocks[0].attention.qkv).__name__ == "Float8Linear"


@needs_torchao
def test_a_matrix_of_a_width_that_the_kernels_do_not_take_is_left_alone() -> None:
    model = model_on(CPU, n_embd=40)  # 160 rows of the MLP's inner width fit, 40 do not
    kinds = {type(module).__name__ for module in model.blocks.modules()}
    to_float8(model.blocks, CPU)
    assert {type(module).__name__ for module in model.blocks.modules()} == kinds


def test_without_torchao_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'gptcli\[fp8\]'"):
        resolve_precision(CPU, "fp8")


@needs_torchao
def test_a_device_without_8_bit_products_is_refused() -> None:
    with pytest.raises(UsageError, match="use bf16"):
        resolve_precision(torch.device("mps"), "fp8")
