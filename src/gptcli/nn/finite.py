"""Finds values in tensors that are not finite (NaN and infinities), reading everything once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.console import quantity
from gptcli.errors import CheckpointError, UsageError


class BadValues(NamedTuple):
    """`count` of the `total` values of the tensor of this name are not finite."""

    name: str
    count: int
    total: int

    def __str__(self) -> str:
        return f"{self.name} holds NaN or infinity in {self.count:,} of its {self.total:,} values"


def bad_values(tensors: Mapping[str, Tensor]) -> list[BadValues]:
    """The tensors with values that are not finite; a tensor of whole numbers has none.

    A sum is finite only if everything in it is, and takes one pass without memory of its own. Only where it is not
    (large numbers may also add up to infinity) is the tensor looked through value by value.
    """
    floats = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    suspects = [name for name, is_finite in zip(floats, sums_are_finite(floats.values()), strict=True) if not is_finite]
    found = []
    for name in suspects:
        count = int((~floats[name].isfinite()).sum())
        if count:
            found.append(BadValues(name, count, floats[name].numel()))
    return found


def sums_are_finite(tensors: Iterable[Tensor]) -> list[bool]:
    """Whether the sum of each tensor is finite; each device is waited for once."""
    sums = [tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
    places: dict[torch.device, list[int]] = {}
    for place, one in enumerate(sums):
        places.setdefault(one.device, []).append(place)
    found = [True] * len(sums)
    for here in places.values():
        answers = torch.stack([sums[place].double().isfinite() for place in here]).tolist()
        for place, answer in zip(here, answers, strict=True):
            found[place] = answer
    return found


def require_finite(tensors: Mapping[str, Tensor], source: object, remedy: str) -> None:
    """Refuse weights that are not numbers, of which nothing useful can be computed.

    Raises:
        CheckpointError: names `source`, the first tensor, and how much of it is not finite.
    """
    found = bad_values(tensors)
    if found:
        others = quantity(len(found) - 1, "other tensor")
        raise CheckpointError(f"{source}: {found[0]}{f', beside {others}' if len(found) > 1 else ''}", remedy)


def overflow_error() -> CheckpointError:
    """The error of logits that are not finite though all weights are: numbers in between were too large."""
    return CheckpointError("the model's logits are not finite numbers", "its weights are damaged, or it diverged")


def require_range(tensors: Mapping[str, Tensor], dtype: torch.dtype, remedy: str) -> None:
    """Refuse to write finite weights in numbers among which they would become infinity.

    Raises:
        UsageError: names the first tensor with a weight that is larger than every number of `dtype`.
    """
    limit = torch.finfo(dtype).max
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            largest = max(abs(bound.item()) for bound in tensor.aminmax())
            if largest > limit:
                raise UsageError(
                    f"{name} has weights of up to {largest:.3g}, and the largest number of "
                    f"{str(dtype).removeprefix('torch.')} is {limit:.3g}",
                    remedy,
                )
