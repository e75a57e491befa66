"""All families, and the choice of one for a model or a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptcli.interop.auto_tokenizer import keeps_tokenizer
from gptcli.interop.family import Family, ForeignConfig
from gptcli.interop.gpt2 import GPT2
from gptcli.interop.gpt_neox import GPT_NEOX
from gptcli.interop.llama import BIASED_LLAMA, LLAMA, MISTRAL, OLMO2, QWEN2, QWEN3
from gptcli.interop.nanochat import NANOCHAT
from gptcli.interop.native import NATIVE
from gptcli.models.config import ModelConfig

FAMILIES = (GPT2, LLAMA, QWEN3, MISTRAL, QWEN2, OLMO2, GPT_NEOX, NANOCHAT)
"""The families in the order in which they are tried for a model."""

SUBSTITUTES = (BIASED_LLAMA,)
"""Families that can hold another family's models too, beside which AutoTokenizer keeps the tokenizer as it is."""


def family_of(config: ModelConfig, tokenizer: Mapping[str, Any] | None = None) -> tuple[Family, str]:
    """Return the first family that computes exactly what `config` describes, and ""; or gptcli's own form, and why.

    If there are several, it is one beside which AutoTokenizer opens `tokenizer` (a tokenizer.json) as it is.
    """
    offers = [(family, family.obstacles(config)) for family in FAMILIES]
    if able := [family for family, wrong in offers if not wrong]:
        able += [family for family in SUBSTITUTES if not family.obstacles(config)]
        kept = (family for family in able if tokenizer is None or keeps_tokenizer(family.name, tokenizer))
        return next(kept, able[0]), ""
    nearest_first = sorted(offers, key=lambda offer: len(offer[1]))
    why = ". ".join(f"For {family.architecture} {'; '.join(wrong)}" for family, wrong in nearest_first)
    return NATIVE, f"transformers has no class that computes this model. {why}."


def family_named(foreign: ForeignConfig) -> Family:
    """Return the family that a config.json names.

    Raises:
        CheckpointError: it names none, or an unsupported one; the message lists the supported families.
    """
    name = foreign.values.get("model_type")
    for family in (*FAMILIES, NATIVE):
        if family.name == name:
            return family
    supported = ", ".join(sorted(family.name for family in FAMILIES))
    what = f"model_type {name!r}" if name else "a config without model_type"
    raise foreign.unsupported(what, f"the supported families are {supported}")
