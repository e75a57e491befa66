"""Adapters on whole models: what is trained, what a merged model computes, and which tensors are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptcli.errors import CheckpointError
from gptcli.models.adapter_config import LoraConfig, NoAdapter
from gptcli.models.adapters import adapter_state, add_adapter, has_adapter, load_adapter_state, merged
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.models.inference import quantized, with_linears
from gptcli.nn.layers import Linear
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import MuonConfig

VOCAB, NEW = 31, range(28, 30)
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3, grouped": {"n_kv_head": 2},
    "gpt2": {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True},
    "untied, bigrams": {"tie_embeddings": False, "smear": True, "bigram_buckets": 100},
}
CONFIGS = {
    "plain": LoraConfig(rank=3),
    "dora": LoraConfig(rank=3, dora=True, rslora=True),
    "mlp": LoraConfig(targets="mlp"),
}


def base(**slots: Any) -> GPT:
    return build_model(
        ModelConfig(vocab_size=VOCAB, n_layer=2, n_head=4, n_embd=16, context_length=32, **slots), seed=1
    )


def trained(model: GPT) -> GPT:
    """The model, every trained weight changed, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for tensor in adapter_state(model).values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model.eval()


def some_ids() -> torch.Tensor:
    return torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("slots", SHAPES.values(), ids=SHAPES)
def test_a_new_adapter_changes_nothing_and_a_merged_one_computes_the_same(
    slots: dict[str, Any], config: LoraConfig
) -> None:
    model, ids = base(**slots).eval(), some_ids()
    before = model(ids)
    add_adapter(model, config, seed=5, new_ids=NEW)
    torch.testing.assert_close(model(ids), before)
    after, whole = trained(model)(ids), merged(model)
    assert (after - before).abs().max() > 0.1
    assert not has_adapter(whole) and whole.state_dict().keys() == base(**slots).state_dict().keys()
    torch.testing.assert_close(whole(ids), after, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        with_linears(model, lambda weight, bias: plain_linear(weight, bias))(ids), after, atol=1e-5, rtol=1e-5
    )
    assert (quantized(model, "int8")(ids) - after).abs().mean() < 0.1 * (after - before).abs().mean()


def plain_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    made = Linear(weight.shape[1], weight.shape[0], bias is not None)
    made.weight = torch.nn.Parameter(weight)
    made.bias = None if bias is None else torch.nn.Parameter(bias)
    return made


@pytest.mark.parametrize("ties", [True, False])
def test_only_the_adapter_and_the_rows_of_new_tokens_are_trained(ties: bool) -> None:
    model = add_adapter(base(tie_embeddings=ties), LoraConfig(rank=3), seed=5, new_ids=NEW)
    kinds = {"lora_a", "lora_b", "new_rows"}
    assert {name.rpartition(".")[2] for name in adapter_state(model)} == kinds
    assert len(adapter_state(model)) == 2 * 4 * 2 + (1 if ties else 2)
    model.loss_sum(some_ids(), some_ids()).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())
    rows, whole = model.embedding.new_rows.grad, base(tie_embeddings=ties)
    whole.loss_sum(some_ids(), some_ids()).backward()
    torch.testing.assert_close(rows, whole.embedding.weight.grad[list(NEW)])
    if not ties:
        torch.testing.assert_close(model.head.new_rows.grad, whole.head.weight.grad[list(NEW)])


@pytest.mark.parametrize("muon", [False, True])
def test_muon_leaves_an_adapter_to_adamw_unless_asked(muon: bool) -> None:
    model = add_adapter(base(), LoraConfig(rank=3, dora=True, muon=muon), seed=5, new_ids=NEW)
    optimizer = build_optimizer(model.parameter_infos(), MuonConfig(weight_decay=0.1))
    by_algorithm: dict[str, set[str]] = {}
    for group in optimizer.param_groups:
        for name in group["param_names"]:
            own = name.rpartition(".")[2]
            by_algorithm.setdefault(group["algorithm"], set()).add(own)
            assert (group["weight_decay"] == 0) == (own == "lora_lengths")
    low_rank = {"lora_a", "lora_b"}
    assert by_algorithm == ({"muon": low_rank} if muon else {}) | {
        "adamw": {"new_rows", "lora_lengths"} | (set() if muon else low_rank)
    }


def test_the_trained_tensors_load_into_a_model_of_the_same_form_and_no_other() -> None:
    config = LoraConfig(rank=3)
    state = adapter_state(trained(add_adapter(base(), config, 5, NEW)))
    other = add_adapter(base(), config, 6, NEW)
    load_adapter_state(other, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in adapter_state(other).items())
    with pytest.raises(CheckpointError, match="lora_a has shape"):
        load_adapter_state(add_adapter(base(), LoraConfig(rank=2), 5, NEW), state)
    with pytest.raises(CheckpointError, match=r"has embedding\.new_rows"):
        load_adapter_state(add_adapter(base(), config, 5), state)
    with pytest.raises(CheckpointError, match=r"has no .*lora_lengths"):
        load_adapter_state(add_adapter(base(), LoraConfig(rank=3, dora=True), 5, NEW), state)


def test_an_adapter_that_is_not_finite_is_neither_loaded_nor_merged() -> None:
    model = trained(add_adapter(base(), LoraConfig(), 5))
    state = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    state["blocks.1.mlp.up.lora_b"][0, 0] = torch.nan
    before = {name: tensor.clone() for name, tensor in adapter_state(model).items()}
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.up\.lora_b holds NaN"):
        load_adapter_state(model, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_state(model).items())
    model.blocks[1].mlp.up.lora_b.data[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="the adapter: "):
        merged(model)


def test_without_an_adapter_the_functions_are_those_of_a_plain_model() -> None:
    model = base()
    assert add_adapter(model, NoAdapter(), 5) is model and merged(model) is model and not has_adapter(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert adapter_state(model).keys() == model.state_dict().keys()
