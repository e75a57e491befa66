"""Adapters on a model: adding one, its trained tensors, and the plain model that computes the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from gptcli.errors import CheckpointError
from gptcli.models.adapter_config import AdapterConfig, AdapterTargets, LoraConfig, NoAdapter
from gptcli.models.gpt import GPT, build_model, model_with
from gptcli.nn.finite import require_finite
from gptcli.nn.layers import Embedding, Linear
from gptcli.nn.lora import LoraForm, LoraLinear, TrainedRowsEmbedding, TrainedRowsLinear, initial_a, row_lengths

SUB_LAYERS: dict[AdapterTargets, tuple[str, ...]] = {
    "all": ("attention", "mlp"),
    "attention": ("attention",),
    "mlp": ("mlp",),
}
DAMAGED = "the file is damaged or its training diverged: train again"


def add_adapter(model: GPT, config: AdapterConfig, seed: int, new_ids: Iterable[int] = ()) -> GPT:
    """Freeze the model and give it an adapter that does not change its outputs yet; return the model itself.

    Without an adapter nothing changes.

    Args:
        seed: the seed of the adapter's initial weights, each of which is a pure function of it and of its name.
        new_ids: the ids whose rows of the embedding, and of a head of its own, are trained too.
    """
    if isinstance(config, NoAdapter):
        return model
    attach_adapter(model, config, new_ids)
    with torch.no_grad():
        for name, module in lora_modules(model):
            module.lora_a.copy_(initial_a(module.lora_a.shape, seed, f"{name}.lora_a"))
            module.lora_b.zero_()
            if module.lora_lengths is not None:
                module.lora_lengths.copy_(row_lengths(module.weight))
    return model


def attach_adapter(model: GPT, config: LoraConfig, new_ids: Iterable[int] = ()) -> None:
    """Replace the modules that get an adapter by modules with one, whose new weights have no values yet."""
    model.requires_grad_(False)
    form = LoraForm(config.rank, config.scaling, config.dropout, config.dora, config.muon)
    for block in model.blocks:
        for sub_layer in SUB_LAYERS[config.targets]:
            parent = block.get_submodule(sub_layer)
            for name, child in list(parent.named_children()):
                if isinstance(child, Linear):
                    setattr(parent, name, LoraLinear(child, form))
    ids = torch.tensor(list(new_ids), dtype=torch.long, device=model.embedding.weight.device)
    if len(ids):
        model.embedding = TrainedRowsEmbedding(model.embedding, ids)
        if not model.config.tie_embeddings:
            model.head = TrainedRowsLinear(model.head, ids)


def lora_modules(model: GPT) -> Iterator[tuple[str, LoraLinear]]:
    """Yield the name and the module of each linear map with an adapter."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def has_adapter(model: GPT) -> bool:
    """Return whether a model has an adapter."""
    return next(lora_modules(model), None) is not None


def adapter_state(model: GPT) -> dict[str, Tensor]:
    """Return the trained tensors by name: those of the adapter, or of a model without one all."""
    if not has_adapter(model):
        return model.state_dict()
    return {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}


def load_adapter_state(model: GPT, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors as `adapter_state` returns them into a model of the same form.

    Raises:
        CheckpointError: they have other names or shapes, or are not finite.
    """
    own, source = adapter_state(model), "the adapter" if has_adapter(model) else "the checkpoint"
    if names := own.keys() ^ tensors.keys():
        name = min(names)
        what = f"has no {name}" if name in own else f"has {name}, for which this model has no place"
        raise CheckpointError(f"{source} {what}", "use its own configuration and base model")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, should be {tuple(own[name].shape)}",
                "use its own configuration and base model",
            )
    require_finite(tensors, source, DAMAGED)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def merged(model: GPT) -> GPT:
    """Return a plain GPT that computes the same, with sums in fp32; the model itself if it has no adapter.

    It is in evaluation mode, and shares the weights without an adapter with `model`.

    Raises:
        CheckpointError: the adapter is not finite.
    """
    if not has_adapter(model):
        return model
    require_finite(adapter_state(model), "the adapter", DAMAGED)
    weights = dict(model.state_dict())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Linear | Embedding):
                weights[f"{name}.weight"] = module.whole_weight().detach()
    plain = build_model(model.config, device="meta").state_dict()
    return model_with(model.config, {name: weights[name] for name in plain}).eval()
