"""What an optimizer has to know of a parameter: its role, and which matrices are fused in it. Knows no optimizer."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import nn

from gptcli.nn.sharding import Sharding

ParameterKind = Literal["matrix", "embedding", "head", "vector"]


class ParameterInfo(NamedTuple):
    """One parameter of a model.

    kind: "matrix" a hidden weight matrix, "embedding" a table of token or position vectors (also when the head
        shares it), "head" the output projection to the vocabulary when it is its own, "vector" norms and biases.
    splits: row counts of the matrices fused in one tensor, such as (q, k, v) or (gate, up); empty when it is one.
    sharding: where `tensor` is this rank's piece of the parameter, how that is cut up; none: it is whole.
    """

    name: str
    tensor: nn.Parameter
    kind: ParameterKind
    splits: tuple[int, ...] = ()
    sharding: Sharding | None = None
