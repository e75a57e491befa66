"""The search for values that are not finite (NaN and infinities), in one pass over the tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.console import quantity
from gptcli.errors import CheckpointError, UsageError


class BadValues(NamedTuple):
    """A tensor in which `bad` of the `total` values are not finite."""

    name: str
    bad: int
    total: int

    def __str__(self) -> str:
        return f"{self.name} holds NaN or infinity in {self.bad:,} of its {self.total:,} values"


def bad_values(tensors: Mapping[str, Tensor]) -> list[BadValues]:
    """Return the tensors with values that are not finite; tensors of whole numbers have none.

    A sum is finite only if all its summands are, and takes one pass without memory of its own. The values themselves
    are examined only where the sum is not finite, since large numbers may also add up to infinity.
    """
    floats = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    suspects = [name for name, is_finite in zip(floats, sums_are_finite(floats.values()), strict=True) if not is_finite]
    counts = {name: int((~floats[name].isfinite()).sum()) for name in suspects}
    return [BadValues(name, count, floats[name].numel()) for name, count in counts.items() if count]


def sums_are_finite(tensors: Iterable[Tensor]) -> list[bool]:
    """Return whether the sum of each tensor is finite, waiting for each device once."""
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
    """Refuse weights that are not finite, since nothing useful can be computed with them.

    Raises:
        CheckpointError: a weight is not finite; the message names `source` and the first such tensor.
    """
    found = bad_values(tensors)
    if found:
        others = quantity(len(found) - 1, "other tensor")
        raise CheckpointError(f"{source}: {found[0]}{f', beside {others}' if len(found) > 1 else ''}", remedy)


def overflow_error() -> CheckpointError:
    """Return the error for logits that are not finite though all weights are: intermediate values overflowed."""
    return CheckpointError("the model's logits are not finite numbers", "its weights are damaged, or it diverged")


def require_range(tensors: Mapping[str, Tensor], dtype: torch.dtype, remedy: str) -> None:
    """Refuse to write weights in a dtype in which they would become infinite.

    Raises:
        UsageError: a weight is larger than every number of `dtype`; the message names the first such tensor.
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
