"""One optimizer step: accumulation changes nothing, a bad number changes nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptcli.data.batch import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.parallel.strategy import Alone
from gptcli.train.compiling import compiled
from gptcli.train.spikes import SpikeGuard
from gptcli.train.step import Stepper, StepResult, accumulate_gradients, step_seed
from waiting import no_waiting

CPU = torch.device("cpu")
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
ADAMW = AdamWConfig(lr=1e-2)
OPTIMIZERS = {
    "adamw": ADAMW,
    "adamw_unfused": AdamWConfig(fused=False),
    "muon": MuonConfig(lr=1e-2),
    "sgd": SgdConfig(),
    "momentum": SgdConfig(momentum=0.9, weight_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def tiny_model(dtype: torch.dtype = torch.float32) -> GPT:
    config = ModelConfig(vocab_size=17, n_layer=2, n_head=2, n_embd=16, context_length=8)
    return build_model(config, seed=1, dtype=dtype)


def ragged_batch(sequences: int = 8) -> Batch:
    """Sequences whose first targets are ignored, each a different number of them."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(17, (sequences, 9), generator=generator)
    targets = ids[:, 1:].clone()
    for row in range(sequences):
        targets[row, : row % 5] = IGNORE_INDEX
    return Batch(ids[:, :-1].contiguous(), targets, None)


def split(batch: Batch, size: int) -> list[Batch]:
    return [
        Batch(ids, targets, None)
        for ids, targets in zip(batch.input_ids.split(size), batch.targets.split(size), strict=True)
    ]


def gradient(model: GPT, batches: list[Batch]) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    accumulate_gradients(Alone(model), batches, CPU, "fp32", NO_SCALER)
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [1, 3])
def test_accumulation_gives_the_gradient_of_the_whole_batch(dtype: torch.dtype, tolerance: float, size: int) -> None:
    model, batch = tiny_model(dtype), ragged_batch()
    whole, parts = gradient(model, [batch]), gradient(model, split(batch, size))
    assert (whole - parts).norm() / whole.norm() < tolerance


def test_the_loss_is_the_mean_over_all_target_tokens() -> None:
    model, batch = tiny_model(torch.float64), ragged_batch()
    loss, tokens = accumulate_gradients(Alone(model), split(batch, 3), CPU, "fp32", NO_SCALER)
    logits = model(batch.input_ids)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE_INDEX
    )
    assert tokens == int((batch.targets != IGNORE_INDEX).sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def stepper(
    model: GPT, optim: OptimConfig = ADAMW, device: torch.device = CPU, grad_clip: float = 1.0, on_device: bool = False
) -> Stepper:
    """`on_device`: as on a GPU, where the host does not wait to learn whether the step was good."""
    optimizer = build_optimizer(model.parameter_infos(), optim)
    steps = Stepper(Alone(model), optimizer, device=device, precision="fp32", grad_clip=grad_clip)
    steps.decides_on_device = on_device and steps.is_fused
    return steps


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN included, and 0 told from -0."""
    return torch.equal(torch.as_tensor(a).flatten().view(torch.uint8), torch.as_tensor(b).flatten().view(torch.uint8))


@every_optimizer
@pytest.mark.parametrize("on_device", [False, True], ids=["branch", "on_device"])
@pytest.mark.parametrize("good_steps", [0, 2])
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_step_with_a_bad_number_changes_no_byte(name: str, on_device: bool, good_steps: int, poison: float) -> None:
    model = tiny_model()
    steps = stepper(model, OPTIMIZERS[name], on_device=on_device)
    for _ in range(good_steps):
        steps.run([ragged_batch()])
    weights = copy.deepcopy(model.state_dict())
    moments = copy.deepcopy(steps.optimizer.state_dict())

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        return model.loss_sum(*arguments) * poison

    steps.strategy.loss_function = poisoned
    result = steps.run([ragged_batch()])
    assert not result.is_finite and steps.is_bad(result)
    assert all(same_bytes(weights[name], tensor) for name, tensor in model.state_dict().items())
    after = steps.optimizer.state_dict()
    for index, state in moments["state"].items():
        for key, value in state.items():
            assert same_bytes(value, after["state"][index][key]), key
    steps.strategy.loss_function = model.loss_sum
    assert steps.run([ragged_batch()]).is_finite
    assert not all(same_bytes(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", ["adamw", "muon", "momentum"])
@pytest.mark.parametrize("grad_clip", [0.0, 1e-2, 1e6])
def test_deciding_on_the_device_gives_the_bytes_of_the_branch(name: str, grad_clip: float) -> None:
    results = []
    for on_device in (False, True):
        model = tiny_model()
        steps = stepper(model, OPTIMIZERS[name], grad_clip=grad_clip, on_device=on_device)
        numbers = [steps.run(split(ragged_batch(), 5)) for _ in range(3)]
        results.append((numbers, [tensor.clone() for tensor in model.state_dict().values()]))
    assert results[0][0] == results[1][0]
    assert all(map(same_bytes, results[0][1], results[1][1]))


@every_optimizer
def test_a_clipped_step_is_that_of_a_gradient_scaled_to_the_limit(name: str) -> None:
    clipped, scaled = tiny_model(torch.float64), tiny_model(torch.float64)
    clipping, free = (stepper(model, OPTIMIZERS[name], grad_clip=clip) for model, clip in ((clipped, 0.5), (scaled, 0)))
    for _ in range(2):
        norm = clipping.run([ragged_batch()]).grad_norm
        assert norm > 0.5
        free.strategy.loss_function = lambda *arguments, norm=norm: scaled.loss_sum(*arguments) * (0.5 / norm)
        free.run([ragged_batch()])
    for a, b in zip(clipped.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # the divisor is an fp32 number


class HostReads(TorchDispatchMode):
    """Counts the operations that bring a tensor's value to the host: on a GPU each one waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
        )
        return func(*args, **(kwargs or {}))


def test_the_counter_of_host_reads_sees_one() -> None:
    with HostReads() as reads:
        torch.ones(1).item()
    assert reads.count == 1


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "momentum"])
def test_a_step_reads_no_number_to_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.nn.loss.scored_rows", lambda x, targets: (x, targets))  # as on a GPU
    steps, batches = stepper(tiny_model(), OPTIMIZERS[name], on_device=True), split(ragged_batch(), 3)
    with HostReads() as reads:
        for _ in range(2):
            steps.launch(batches)
    assert reads.count == 2 * len(batches), "only the targets that count are counted, which lie on the host"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "momentum"])
def test_a_step_never_waits_for_the_gpu(name: str, precision: str) -> None:
    model = tiny_model().cuda()
    steps = stepper(model, OPTIMIZERS[name], torch.device("cuda"))
    steps.precision = precision
    steps.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    batches = [batch.pin_memory() for batch in split(ragged_batch(), 3)]
    steps.run(batches)
    with no_waiting():
        pending = [steps.launch(batches) for _ in range(3)]
    assert all(step.result().is_finite for step in pending)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_step_is_one_graph_follows_the_eager_one_and_never_waits(tmp_path: Path) -> None:
    """Of a vocabulary so large that its logits are worked through in parts."""
    torch._dynamo.reset()
    losses: dict[str, list[float]] = {}
    ids = torch.randint(50257, (64, 65), generator=torch.Generator().manual_seed(0))
    batches = [Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), None).pin_memory()]
    for name in ("eager", "compiled"):
        config = ModelConfig(vocab_size=50257, n_layer=2, n_head=2, n_embd=64, context_length=64)
        model = build_model(config, seed=1, device="cuda").train()
        steps = stepper(model, AdamWConfig(lr=1e-2), torch.device("cuda"))
        if name == "compiled":
            steps.strategy.loss_function = compiled(model.loss_sum, tmp_path)  # as one graph, or it raises
        steps.run(batches)
        steps.run(batches)
        with no_waiting():
            pending = [steps.launch(batches) for _ in range(20)]
        losses[name] = [step.result().loss for step in pending]
    assert losses["eager"][-1] < 0.8 * losses["eager"][0]
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-3)


def test_a_finite_loss_with_one_infinite_gradient_is_a_bad_step() -> None:
    model = tiny_model()
    steps = stepper(model)
    model.final_norm.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), math.inf))
    before = copy.deepcopy(model.state_dict())
    result = steps.run([ragged_batch()])
    assert math.isfinite(result.loss) and steps.is_bad(result)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_only_numbers_are_finite() -> None:
    assert StepResult(1.0, 2.0, 3).is_finite
    assert not StepResult(math.nan, 2.0, 3).is_finite
    assert not StepResult(1.0, math.inf, 3).is_finite


def test_step_seeds_differ_by_step_and_by_seed() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def small_device(model: GPT, largest: int) -> Callable[..., torch.Tensor]:
    """The model's loss on a device where no more than `largest` sequences fit."""

    def loss_sum(input_ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if len(input_ids) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return model.loss_sum(input_ids, *rest)

    return loss_sum


@every_optimizer
@pytest.mark.parametrize("largest", [1, 3])
def test_out_of_memory_repeats_the_same_step_in_smaller_micro_batches(name: str, largest: int) -> None:
    whole, cut = tiny_model(torch.float64), tiny_model(torch.float64)
    expected = stepper(whole, OPTIMIZERS[name]).run([ragged_batch()])
    steps = stepper(cut, OPTIMIZERS[name])
    steps.strategy.loss_function = small_device(cut, largest)
    found = steps.run([ragged_batch()])
    assert steps.batch_size is not None and steps.batch_size <= largest
    assert found.tokens == expected.tokens and found.loss == pytest.approx(expected.loss, rel=1e-6)
    for key, tensor in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], tensor, rtol=1e-6, atol=1e-9)


def test_a_step_repeated_for_want_of_memory_draws_the_same_dropout_as_one_that_fits() -> None:
    config = ModelConfig(vocab_size=17, n_layer=2, n_head=2, n_embd=16, context_length=8, dropout=0.3)
    results = []
    for largest, size in ((2, 8), (99, 2)):
        model = build_model(config, seed=1).train()
        steps = stepper(model)
        steps.strategy.loss_function = small_device(model, largest)
        steps.run(split(ragged_batch(), size), seed=5)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], tensor) for name, tensor in results[1].items())


def test_where_not_one_sequence_fits_nothing_changes() -> None:
    model = tiny_model()
    steps = stepper(model)
    steps.strategy.loss_function = small_device(model, 0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(torch.OutOfMemoryError):
        steps.run([ragged_batch()])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("on_device", [False, True], ids=["branch", "on_device"])
def test_a_spike_is_skipped_where_that_is_wished(on_device: bool) -> None:
    for max_spike in (0.0, 8.0):
        model = tiny_model()
        steps = stepper(model, AdamWConfig(lr=1e-5), on_device=on_device)
        steps.spikes = SpikeGuard(max_spike, CPU) if max_spike else None
        assert not any(steps.run([ragged_batch()]).is_skipped for _ in range(40))
        before = copy.deepcopy(model.state_dict())
        steps.strategy.loss_function = lambda *arguments, model=model: 10 * model.loss_sum(*arguments)
        result = steps.run([ragged_batch()])
        unchanged = all(same_bytes(before[name], tensor) for name, tensor in model.state_dict().items())
        assert result.is_finite and result.is_skipped == unchanged == bool(max_spike)
