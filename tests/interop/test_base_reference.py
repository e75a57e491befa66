"""The name of an adapter's base model."""

from __future__ import annotations

import torch

from gptcli.interop.base_reference import tensors_sha256


def test_the_hash_of_tensors_depends_on_names_shapes_and_every_bit_but_not_on_their_order() -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(1.5), "c": torch.ones(2, dtype=torch.bfloat16)}
    changed = {
        "names": {**{name: tensors[name] for name in "ac"}, "d": tensors["b"]},
        "shape": {**tensors, "b": tensors["b"].view(3, 2)},
        "a bit": {**tensors, "b": tensors["b"].nextafter(torch.tensor(9.0))},
        "dtype": {**tensors, "c": tensors["c"].half()},
    }
    digest = tensors_sha256(tensors)
    assert tensors_sha256(dict(reversed(tensors.items()))) == digest
    assert tensors_sha256({**tensors, "b": tensors["b"].T.contiguous().T}) == digest
    assert len({digest, *map(tensors_sha256, changed.values())}) == 5
