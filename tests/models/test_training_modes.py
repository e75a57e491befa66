"""What must not change the numbers: checkpointing, compiling, autocast (nearly), casting and moving."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.attention import attention_fast, attention_reference
from gptcli.nn.device import autocast
from gptcli.nn.mask import attention_mask
from gptcli.nn.recompute import Recompute

IDS = torch.randint(31, (2, 16), generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(31, (2, 16), generator=torch.Generator().manual_seed(1))
GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True}


def model_of(**changes: object) -> GPT:
    return build_model(ModelConfig(**{"vocab_size": 31, "context_length": 16, "n_layer": 2, "n_embd": 32, **changes}))


def loss_and_gradients(model: GPT) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model.loss_sum(IDS, TARGETS)
    loss.backward()
    return loss.detach(), {name: tensor.grad for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_gives_the_same_gradient(dropout: float) -> None:
    results = []
    for mode in ("none", "full"):
        torch.manual_seed(0)
        results.append(loss_and_gradients(model_of(dropout=dropout).recompute(mode).train()))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("mode", ["full", "selective"])
@pytest.mark.parametrize("shape", [{}, GPT2, {"dropout": 0.2, "n_kv_head": 2}])
def test_recomputing_gives_the_same_gradient(mode: Recompute, shape: dict) -> None:
    results = []
    for recompute in ("none", mode):
        torch.manual_seed(0)
        results.append(loss_and_gradients(model_of(**shape).recompute(recompute).train()))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


class Matmuls(TorchDispatchMode):
    """Counts the matmuls that are computed."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*arguments, **(options or {}))


def test_selective_recomputing_repeats_no_matmul() -> None:
    counts = {}
    for mode in ("none", "full", "selective"):
        model = model_of().recompute(mode).train()
        with Matmuls() as matmuls:
            loss_and_gradients(model)
        counts[mode] = matmuls.count
    assert counts["selective"] == counts["none"] < counts["full"]


def test_checkpointing_keeps_less() -> None:
    kept = []
    for mode in ("none", "full"):
        sizes: list[int] = []
        model = model_of().recompute(mode).train()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model.loss_sum(IDS, TARGETS)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("shape", [{}, GPT2, {"attention": "reference", "logit_softcap": 5.0, "dropout": 0.1}])
def test_autocast_stays_close_to_fp32(shape: dict, precision) -> None:
    model = model_of(**shape).train(False)
    exact, gradients = loss_and_gradients(model)
    with autocast(torch.device("cpu"), precision):
        loss, rough = loss_and_gradients(model)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    for name, gradient in gradients.items():
        assert rough[name].dtype == torch.float32
        similarity = torch.cosine_similarity(gradient.flatten(), rough[name].flatten(), dim=0)
        assert similarity.item() > 0.99, name


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_decode_with_a_cache(dtype: torch.dtype) -> None:
    model = model_of(n_kv_head=2).eval()
    expected = model(IDS)
    half = model_of(n_kv_head=2).to(dtype).eval()
    cache = half.new_cache(2, 16)
    assert cache.keys[0].dtype == dtype
    logits = torch.cat([half(chunk, cache=cache) for chunk in IDS.split([10, 1, 5], dim=1)], dim=1)
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's tracer does it itself
@pytest.mark.parametrize("shape", [{**GPT2, "window_pattern": (0, 4)}, {"dropout": 0.1, "logit_softcap": 3.0}])
def test_the_loss_is_one_graph_for_the_compiler(shape: dict) -> None:
    model = model_of(**shape).eval()
    segments = torch.zeros_like(IDS)
    torch._dynamo.reset()
    compiled = torch.compile(model.loss_sum, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS, TARGETS), model.loss_sum(IDS, TARGETS))
    torch.testing.assert_close(compiled(IDS, TARGETS, segments), model.loss_sum(IDS, TARGETS, segments))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_the_compiled_model_trains_alike() -> None:
    model = model_of(n_kv_head=2).train()
    loss, gradients = loss_and_gradients(model)
    model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(model.loss_sum)(IDS, TARGETS)
    compiled.backward()
    torch.testing.assert_close(compiled.detach(), loss)
    torch.testing.assert_close({n: t.grad for n, t in model.named_parameters()}, gradients, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_weights_assigned_to_a_meta_model_work() -> None:
    source = model_of().eval()
    empty = build_model(source.config, device="meta").eval()
    empty.load_state_dict(source.state_dict(), assign=True)
    torch.testing.assert_close(empty(IDS), source(IDS), rtol=0, atol=0)


@pytest.mark.gpu
@torch.no_grad()
def test_the_same_weights_and_nearly_the_same_logits_on_cuda() -> None:
    config = model_of().config
    here, there = build_model(config, seed=3).eval(), build_model(config, seed=3, device="cuda").eval()
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, there.state_dict()[name].cpu()), name
    torch.testing.assert_close(there(IDS.cuda()).cpu(), here(IDS), rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 5])
def test_grouped_attention_on_cuda_never_needs_the_slow_kernel(dtype: torch.dtype, window: int) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (torch.randn(2, heads, 16, 32, device="cuda", dtype=dtype) for heads in (4, 2, 2))
    mask = attention_mask(16, 16, window=window, device="cuda")
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
        fast = attention_fast(q, k, v, mask)
    torch.testing.assert_close(fast, attention_reference(q, k, v, mask), rtol=0.02, atol=0.02)
