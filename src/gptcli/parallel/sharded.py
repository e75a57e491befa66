"""A model whose weights are sharded over the ranks: tensor parallelism of its blocks, then FSDP2 over all of it.

The model is never whole on any device: it is built without memory, sharded, and filled weight by weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.compiling import compile_whole
from gptcli.nn.parameters import ParameterInfo
from gptcli.nn.sharding import Cut, Sharding
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout
from gptcli.parallel.unfused import Parts, UnfusedLinear, parts_of, split_parts, unfuse

ENTRIES = ("loss_sum", "token_losses", "last_logits")
"""The methods through which a model is called: FSDP gathers the weights outside the blocks around each of them."""


def build_sharded(
    config: ModelConfig,
    weights: Iterable[tuple[str, Tensor]],
    layout: Layout,
    settings: ParallelConfig,
    device: torch.device,
    precision: str,
) -> GPT:
    """Return this rank's part of the model; `weights` are whole, and each is needed for a moment only."""
    model = build_model(config, device="meta")
    parts = parts_of(model)
    unfuse(model)
    mesh = mesh_of(layout, device)
    if layout.tensor > 1:
        cut_blocks(model, mesh["tensor"], layout.tensor)
    if layout.data_ranks > 1:
        shard(model, mesh[("replicas", "shards") if layout.replicas > 1 else "shards"], settings, device, precision)
    home = torch.device("cpu") if settings.cpu_offload and layout.data_ranks > 1 else device
    model.to_empty(device=home)
    fill(model, weights, parts)
    return model


def mesh_of(layout: Layout, device: torch.device) -> DeviceMesh:
    """Return the mesh of all ranks: replicas x shards x tensor."""
    names = ("replicas", "shards", "tensor")
    return init_device_mesh(device.type, (layout.replicas, layout.shards, layout.tensor), mesh_dim_names=names)


def cut_blocks(model: GPT, mesh: DeviceMesh, ranks: int) -> None:
    """Give every rank of `mesh` its heads of each attention and its part of each MLP's width.

    A block's input and output are whole on every rank, and so are embedding, norms and head.
    """
    for block in model.blocks:
        plan: dict[str, ParallelStyle] = {"attention.output": RowwiseParallel(), "mlp.down": RowwiseParallel()}
        for name in ("attention.qkv", "mlp.up"):
            module = block.get_submodule(name)
            if isinstance(module, UnfusedLinear):
                # Declared once for all parts, so that their input's gradients are summed before the ranks add them up.
                plan[name] = PrepareModuleInput(
                    input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),), use_local_output=False
                )
                plan |= {f"{name}.{part}": ColwiseParallel() for part, _ in module.named_children()}
            else:
                plan[name] = ColwiseParallel()
        parallelize_module(block, mesh, plan)
        block.attention.n_head //= ranks
        block.attention.n_kv_head //= ranks


def shard(model: GPT, mesh: DeviceMesh, settings: ParallelConfig, device: torch.device, precision: str) -> None:
    """Apply FSDP2 over `mesh`: to every block by itself, and to the rest together."""
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if settings.cpu_offload else OffloadPolicy()
    # The blocks' weights are sent in the precision of their matmuls, to which autocast would round them; the stream
    # between the blocks, and all sums, stay fp32. FSDP must not cast the inputs of a block (RoPE's tables).
    is_half, reshard = precision == "bf16" and device.type == "cuda", settings.reshard_after_forward
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in model.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy, offload_policy=offload)
    outer = MixedPrecisionPolicy(cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=outer, offload_policy=offload)
    for entry in ENTRIES:
        register_fsdp_forward_method(model, entry)
    # The loss is divided by the tokens of all ranks already, so gradients are summed, not averaged.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def compile_blocks(model: GPT, cache_dir: Path) -> None:
    """Compile the computation of each block at its first call; FSDP's work around a block is not compiled."""
    for block in model.blocks:
        block.compiled = compile_whole(block.compute, "a block", "set train.compile=false", cache_dir, dynamic=False)


def fill(model: GPT, weights: Iterable[tuple[str, Tensor]], parts: Parts) -> None:
    """Copy this rank's shards of the whole weights, which have the names of the fused form, into the model."""
    drop_gathered(model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, whole in split_parts(weights, parts):
            parameter = parameters.pop(name)
            local_of(parameter).copy_(sharding_of(parameter).take(whole))
    assert not parameters, f"no weights for {', '.join(parameters)}"


def drop_gathered(model: GPT) -> None:
    """Reshard parameters that a forward pass has left whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_of(tensor: Tensor) -> Tensor:
    """Return the shard of a tensor that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharding_of(tensor: Tensor) -> Sharding:
    """Return how a parameter is sharded; one that is whole has no cuts."""
    size = torch.distributed.get_world_size()
    if not isinstance(tensor, DTensor):
        return Sharding(tensor.shape, (), size)
    mesh, cuts, ranks = tensor.device_mesh, [], 1
    for dim in reversed(range(mesh.ndim)):  # tensor parallelism cuts first, what it leaves FSDP cuts
        placement = tensor.placements[dim]
        if not placement.is_replicate():
            cut_dim: int = placement.dim  # type: ignore[attr-defined]  # torch declares it in the subclasses only
            cuts.append(Cut(cut_dim, mesh.size(dim), mesh.get_local_rank(dim), mesh.get_group(dim)))
            ranks *= mesh.size(dim)
    return Sharding(tensor.shape, tuple(cut for cut in cuts if cut.ranks > 1), size // ranks)


def local_infos(model: GPT) -> list[ParameterInfo]:
    """Return the parameters for an optimizer: plain tensors that share the memory of this rank's shards."""
    infos = []
    for info in model.parameter_infos():
        shard = nn.Parameter(local_of(info.tensor).detach(), requires_grad=info.tensor.requires_grad)
        infos.append(info._replace(tensor=shard, sharding=sharding_of(info.tensor)))
    return infos


def local_weights(model: GPT) -> dict[str, Tensor]:
    """Return this rank's shard of every parameter by name, in its own memory; fused ones as their parts."""
    drop_gathered(model)
    return {name: local_of(parameter.detach()) for name, parameter in model.named_parameters()}


def whole_weights(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the whole tensor of every parameter, gathered by all ranks; fused ones as their parts."""
    drop_gathered(model)
    for name, parameter in model.named_parameters():
        yield name, sharding_of(parameter).gather(local_of(parameter.detach()))
