"""RoPE's frequencies in a config.json: in transformers 4 `rope_theta` and `rope_scaling`, in 5 `rope_parameters`.

transformers' modeling_rope_utils documents the keys and their defaults.
"""

from __future__ import annotations

import math
from typing import assert_never

from gptcli.errors import CheckpointError
from gptcli.interop.family import ForeignConfig, Json
from gptcli.models.config import ModelConfig
from gptcli.models.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

THETA = 10_000.0
KINDS = "default, linear, llama3, yarn"


def write_rope(config: ModelConfig) -> Json:
    """Return the keys of both generations, each of which ignores the other's."""
    scaling = write_scaling(config)
    return {
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta} | scaling,
        **({"rope_scaling": scaling} if scaling else {}),
    }


def write_scaling(config: ModelConfig) -> Json:
    """Return the kind and parameters of the scaling, or an empty table."""
    match config.rope_scaling:
        case None:
            return {}
        case LinearScaling() as scaling:
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling() as scaling:
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context_length,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
            }
        case YarnScaling() as scaling:
            given = {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
            return given | {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context_length,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": scaling.truncate,
            }
        case other:
            assert_never(other)


def read_rope(
    foreign: ForeignConfig, *, theta: str = "rope_theta", part: str = "partial_rotary_factor", part_default: float = 1.0
) -> Json:
    """Return our rope_theta, rope_scaling and rotary_fraction.

    Args:
        theta, part: transformers 4's names for the base of the frequencies and for the rotated part of a head.
        part_default: the part that the class rotates by default.

    Raises:
        CheckpointError: our slots do not have this kind of scaling, or a parameter is missing.
    """
    values = foreign.get("rope_scaling", {}) or foreign.get("rope_parameters", {}) or {}
    if any(isinstance(value, dict) for value in values.values()):
        raise foreign.unsupported("rope_parameters that differ from layer to layer")
    rope = ForeignConfig(f"{foreign.path}, its rope_parameters,", values)
    fraction = number(rope, "partial_rotary_factor", number(foreign, part, part_default))
    return {
        "rope_theta": number(rope, "rope_theta", number(foreign, theta, THETA)),
        "rope_scaling": read_scaling(foreign, rope),
        "rotary_fraction": fraction,
    }


def read_scaling(foreign: ForeignConfig, rope: ForeignConfig) -> Json | None:
    """Return our rope_scaling; `rope` has the parameters of RoPE within `foreign`."""
    kind = rope.values.get("rope_type") or rope.values.get("type") or "default"
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise foreign.unsupported(f"rope scaling {kind!r}", f"only {KINDS} are")
    scaling: Json = {"name": kind, "factor": number(rope, "factor")}
    if kind == "linear":
        return scaling
    places = (foreign, rope)  # in this order, as in transformers
    given = next((place for place in places if "original_max_position_embeddings" in place.values), None)
    length = given.need("original_max_position_embeddings") if given else foreign.need("max_position_embeddings")
    scaling["original_context_length"] = length
    if kind == "llama3":
        return scaling | {key: number(rope, key) for key in ("low_freq_factor", "high_freq_factor")}
    return scaling | {
        "beta_fast": number(rope, "beta_fast", 32.0),
        "beta_slow": number(rope, "beta_slow", 1.0),
        "truncate": rope.get("truncate", True),
        "attention_factor": read_attention_factor(rope, scaling["factor"]),
    }


def read_attention_factor(rope: ForeignConfig, factor: float) -> float | None:
    """Return the given factor, or DeepSeek's quotient of two; None stands for YaRN's own formula."""
    if rope.values.get("attention_factor") is not None:
        return number(rope, "attention_factor")
    over, under = number(rope, "mscale", 0.0), number(rope, "mscale_all_dim", 0.0)
    if min(over, under) <= 0 or factor < 1:
        return None
    return (0.1 * over * math.log(factor) + 1) / (0.1 * under * math.log(factor) + 1)


def number(foreign: ForeignConfig, key: str, default: float | None = None) -> float:
    """Return a number, or the default if the key is missing or null.

    Raises:
        CheckpointError: the value is not a finite number, or missing without a default.
    """
    value = foreign.get(key, 0.0)
    if key not in foreign.values or value is None:
        if default is None:
            raise CheckpointError(f"{foreign.path} has no {key}", "fetch the model's config.json again")
        return default
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise CheckpointError(f"{foreign.path} has no finite {key}", "fetch the model's config.json again")
    return float(value)
