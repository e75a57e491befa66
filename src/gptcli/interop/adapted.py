"""Adapters of loaded models: adding one to its base model, and writing it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptcli.config import Config, validate
from gptcli.config.load import with_origin
from gptcli.interop.base_reference import NO_BASE, BaseReference, tensors_sha256
from gptcli.interop.generation_config import GENERATION_CONFIG, generation_config
from gptcli.interop.huggingface import write_json
from gptcli.interop.peft import write_peft
from gptcli.interop.peft_config import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from gptcli.models.adapter_config import AdapterConfig, LoraConfig, NoAdapter
from gptcli.models.adapters import attach_adapter, load_adapter_state, merged
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.tokenizer import Tokenizer

ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""The files of an adapter in the form of PEFT."""
ReadAdapter = Callable[[GPT], tuple[LoraConfig, Mapping[str, Tensor]]]
"""A function from the base to the adapter's configuration and its tensors."""


class LoadedAdapter(NamedTuple):
    """The adapter of a loaded model.

    sha256: the hex SHA-256 of its tensors, the factor of B A, the ids of new tokens, and its base's SHA-256.
    """

    config: AdapterConfig
    base: BaseReference
    sha256: str


NO_ADAPTER = LoadedAdapter(NoAdapter(), NO_BASE, "")


class Opening(NamedTuple):
    """The form in which a model is wanted, as the arguments of `load_model` say.

    depth: the number of adapters that are opened already, each of which has the next one's model as its base.
    """

    device: torch.device
    dtype: torch.dtype
    checkpoint: str
    merge: bool
    depth: int = 0

    def of_base(self, step: int | None) -> Opening:
        """Return the form of the base of an adapter: it is merged, in fp32 on the CPU."""
        checkpoint = "best" if step is None else str(step)
        return Opening(torch.device("cpu"), torch.float32, checkpoint, merge=True, depth=self.depth + 1)

    def finished(self, model: GPT) -> GPT:
        """Return a model with an adapter, in fp32 on the CPU, in this form."""
        if not self.merge:
            return model.eval()
        state = {name: tensor.to(self.device, self.dtype) for name, tensor in merged(model).state_dict().items()}
        whole = build_model(model.config, device="meta", dtype=self.dtype)
        whole.load_state_dict(state, assign=True)
        return whole.eval()


def with_adapter(
    model: GPT, reference: BaseReference, new_ids: Sequence[int], read: ReadAdapter
) -> tuple[GPT, LoadedAdapter]:
    """Give a base model an adapter beside its matrices; return it with what is known of the adapter.

    Args:
        model: the base, with rows for the tokens of the adapter's tokenizer.
        reference: the name of the base.
        new_ids: the ids whose rows the adapter has of its own.

    Raises:
        CheckpointError: the adapter has other tensors, or they are not finite.
    """
    config, tensors = read(model)
    attach_adapter(model, config, new_ids)
    load_adapter_state(model, tensors)
    others = f"{reference.sha256} {config.scaling:.6g} {list(new_ids)}\n"
    return model, LoadedAdapter(config, reference, tensors_sha256(tensors, others))


def write_adapter(
    model: GPT,
    config: LoraConfig,
    base: BaseReference,
    tokenizer: Tokenizer,
    directory: Path,
    *,
    stop_ids: Collection[int] = (),
) -> str:
    """Write the adapter of a model in the form of PEFT, and its tokenizer; return what opens it, in words.

    Args:
        model: the model with the adapter beside its matrices.
        base: the name of the model without the adapter.
        stop_ids: tokens that end a text besides the one that the tokenizer names.
    """
    tokenizer.save(directory)
    write_json(directory / GENERATION_CONFIG, generation_config(tokenizer, stop_ids))
    write_peft(model, config, base, directory)
    return f"peft opens it as an adapter of {base.reference}"


class AdapterTable(Config):
    """The part of a run's configuration that describes its adapter."""

    adapter: AdapterConfig = NoAdapter()


def adapter_of(config: Mapping[str, Any], source: str) -> AdapterConfig:
    """Return the adapter that a run's configuration describes; runs of earlier versions have none.

    Args:
        source: the place of the configuration, for messages.
    """
    table = {"adapter": config["adapter"]} if "adapter" in config else {}
    return validate(AdapterTable, with_origin(table, source)).adapter
