"""The roles of parameters, which the modules declare, and what an optimizer needs to know of a parameter.

A module with parameters of its own has an attribute `roles`, which maps their names to roles. Whoever initialises,
optimises or shards a model reads them there, and derives nothing from names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import nn

from gptcli.nn.sharding import Sharding

ParameterKind = Literal["matrix", "embedding", "head", "vector", "adapter"]
Initialization = Literal["normal", "residual", "ones", "zeros", "lora"]


class Role(NamedTuple):
    """The role of one parameter in the model.

    kind: "matrix" a hidden weight matrix, "embedding" a table of token or position vectors (also when the head
        shares it), "head" the output projection to the vocabulary when it is its own, "vector" norms and biases,
        "adapter" a matrix of low rank beside a frozen one.
    init: "normal" with the model's standard deviation, "residual" the same divided by sqrt(2 n_layer), for projections
        that write to the residual stream, "lora" as in `lora.initial_a`, or constant "ones" or "zeros".
    parts: (name, rows) of the matrices fused in it, such as q, k and v, or gate and up; empty when it is one.
    per_head: each attention head contributes a summand of its gradient.
    """

    kind: ParameterKind
    init: Initialization = "normal"
    parts: tuple[tuple[str, int], ...] = ()
    per_head: bool = False


MATRIX, EMBEDDING, HEAD = Role("matrix"), Role("embedding"), Role("head")
RESIDUAL = Role("matrix", "residual")
SCALE, BIAS = Role("vector", "ones"), Role("vector", "zeros")


class ParameterInfo(NamedTuple):
    """One parameter of a model, as an optimizer needs to know it.

    kind: as in its `Role`.
    splits: row counts of the matrices fused in one tensor, such as (q, k, v) or (gate, up); empty when it is one.
    sharding: how the parameter is cut, of which `tensor` is this rank's piece; None: the tensor is whole.
    """

    name: str
    tensor: nn.Parameter
    kind: ParameterKind
    splits: tuple[int, ...] = ()
    sharding: Sharding | None = None


def declared_roles(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Role]]:
    """Yield (name, parameter, role) for every parameter once, in the order of `named_parameters`."""
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        path, _, own_name = name.rpartition(".")
        yield name, parameter, modules[path].roles[own_name]
