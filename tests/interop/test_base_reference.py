"""The name of an adapter's base model."""

from __future__ import annotations

import torch

from gptcli.interop.adapted import with_adapter
from gptcli.interop.base_reference import BaseReference, tensors_sha256
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.adapters import adapter_state, add_adapter
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model


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


def test_the_hash_of_an_adapter_depends_on_its_factor_its_new_tokens_and_its_base() -> None:
    def base() -> GPT:
        return build_model(ModelConfig(vocab_size=31, n_layer=1, n_head=2, n_embd=8, context_length=16), seed=1)

    def sha256(alpha: float = 2.0, ids: tuple[int, ...] = (3,), of_base: str = "1", **form: bool) -> str:
        config = LoraConfig(rank=4, alpha=alpha, **form)
        _, found = with_adapter(base(), BaseReference("base", of_base), ids, lambda _: (config, tensors))
        return found.sha256

    tensors = adapter_state(add_adapter(base(), LoraConfig(rank=4), 5, [3]))
    assert len({sha256(), sha256(alpha=3.0), sha256(rslora=True), sha256(ids=(4,)), sha256(of_base="2")}) == 5
    assert sha256(alpha=1.0, rslora=True) == sha256(alpha=2.0)
