"""The tables and configs of the families, and what each refuses, in words."""

from __future__ import annotations

import pytest
import transformers

from gptcli.errors import CheckpointError
from gptcli.interop.families import FAMILIES, family_named, family_of
from gptcli.interop.family import ForeignConfig, compact
from gptcli.interop.huggingface import model_config, tensor_shapes
from gptcli.models.config import ModelConfig

UNNAMED = {
    "norm_place": ("before", "after"),
    "norm_weight": (True, False),
    "embedding_norm": (False, True),
    "smear": (False, True),
    "bigram_buckets": (0, 8),
    "bigram_vocab_size": (None, 8),
    "parallel_residual": (False, True),
    "logit_softcap": (None, 5.0),
}
"""Slots that most families do not name: the default, and another value."""

LLAMA = {
    "model_type": "llama",
    "vocab_size": 10,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 50,
    "max_position_embeddings": 16,
}
MISTRAL = LLAMA | {"model_type": "mistral", "num_attention_heads": 8}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 8, "num_key_value_heads": 4}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 4}
OLMO2 = LLAMA | {"model_type": "olmo2"}
NEOX = LLAMA | {"model_type": "gpt_neox"}
NANOCHAT = LLAMA | {"model_type": "nanochat"}
GPT2 = {"model_type": "gpt2", "vocab_size": 10, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
SHORT_CONFIGS = {values["model_type"]: values for values in (LLAMA, QWEN3, GPT2, MISTRAL, QWEN2, OLMO2, NEOX, NANOCHAT)}
NAMES = ", ".join(sorted(family.name for family in FAMILIES))


def read(values: dict) -> ModelConfig:
    foreign = ForeignConfig("config.json", values)
    return model_config(family_named(foreign), foreign)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_slot_is_restricted_or_free_in_each_family(family):
    """A new slot of ModelConfig is at its default in every family that does not name it."""
    config = ModelConfig(vocab_size=10, **{slot: values[0] for slot, values in family.slots.items()})
    assert family.obstacles(config) == []
    for slot, (default, other) in UNNAMED.items():
        assert ModelConfig.model_fields[slot].default == default
        is_held = slot in family.free or other in family.slots.get(slot, ())
        assert bool(family.obstacles(config.model_copy(update={slot: other}))) != is_held


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_table_names_no_tensor_twice(family):
    required = {slot: values[0] for slot, values in family.slots.items() if slot != "bias"}
    config = family.written_as(ModelConfig(vocab_size=10, tie_embeddings=False, **required))
    theirs = [name for mapped in family.map_tensors(config, tensor_shapes(config)) for name in mapped.theirs]
    assert len(theirs) == len(set(theirs))


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"parallel_residual": True}, "For Qwen3ForCausalLM parallel_residual must be off, not on"),
        ({"rotary_fraction": 0.5}, "For Qwen3ForCausalLM rotary_fraction must be 1.0, not 0.5"),
        ({"window_pattern": (3, 5)}, "its sliding windows must have one width, not [3, 5]"),
        (
            {"norm": "layernorm", "position": "learned", "mlp": "gelu", "qk_norm": False, "n_kv_head": 1},
            "n_kv_head must",
        ),
        (
            {"norm": "layernorm", "position": "learned", "mlp": "gelu", "qk_norm": False, "head_dim": 8},
            "must be n_embd",
        ),
    ],
)
def test_what_no_family_holds_is_explained_by_the_nearest(slots, words):
    family, reason = family_of(ModelConfig(vocab_size=10, **slots))
    assert family.architecture is None
    assert words in reason


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "bert"}, f"the supported families are {NAMES}"),
        ({"hidden_size": 3}, "without model_type"),
        (LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic' is not supported"),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, "its rope_parameters, has no factor"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": "2"}}, "has factor = '2'"),
        (LLAMA | {"rope_theta": 10**400}, "no finite rope_theta"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": float("inf")}}, "no finite factor"),
        (
            LLAMA | {"rope_scaling": {"type": "yarn", "factor": -1, "mscale": 1.0, "mscale_all_dim": 2.0}},
            "rope_scaling.factor: input should be greater",
        ),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 0.5}}, "rope_scaling.factor: input should be greater"),
        (
            LLAMA
            | {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 2.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                }
            },
            "low_freq_factor=4 is not below high_freq_factor=4",
        ),
        (LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 1.0}, "must be above 1"),
        (NANOCHAT | {"attention_bias": True}, "attention_bias = True is not supported"),
        (NANOCHAT | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "YaRN is not supported"),
        (NEOX | {"attention_bias": False}, "attention_bias = False is not supported"),
        (OLMO2 | {"attention_bias": True}, "attention_bias = True is not supported"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ from layer to layer"),
        (LLAMA | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "a part of each head (0.5)"),
        (LLAMA | {"attention_bias": True}, "attention_bias = True with mlp_bias = False"),
        (LLAMA | {"hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
        (LLAMA | {"hidden_size": "32"}, "hidden_size = '32'"),
        (LLAMA | {"hidden_size": 30}, "not divisible"),
        (LLAMA | {"rms_norm_eps": "small"}, "rms_norm_eps = 'small'"),
        ({k: v for k, v in LLAMA.items() if k != "num_hidden_layers"}, "has no num_hidden_layers"),
        (QWEN3 | {"attention_bias": True}, "attention_bias = True is not supported"),
        (GPT2 | {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (GPT2 | {"activation_function": "gelu_fast"}, "activation_function = 'gelu_fast'"),
        ({"model_type": "gptcli", "vocab_size": 10}, "no table 'gptcli'"),
        ({"model_type": "gptcli", "vocab_size": 10, "gptcli": {"n_heads": 3}}, "unknown key 'n_heads'"),
    ],
)
def test_configs_that_our_slots_cannot_hold_are_refused_in_one_line(values, words):
    with pytest.raises(CheckpointError) as caught:
        read(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_missing_keys_mean_what_they_mean_to_transformers(name):
    values = SHORT_CONFIGS[name]
    ours = read(values)
    theirs = transformers.AutoConfig.for_model(**values)
    assert ours.kv_heads == getattr(theirs, "num_key_value_heads", theirs.num_attention_heads)
    assert ours.head_width == getattr(theirs, "head_dim", 32 // theirs.num_attention_heads)
    names = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
    assert ours.norm_eps == next(getattr(theirs, name) for name in names if hasattr(theirs, name))
    assert ours.logit_softcap == getattr(theirs, "final_logit_softcapping", None)
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.context_length == theirs.max_position_embeddings
    assert ours.window(0) == (getattr(theirs, "sliding_window", None) or 0)
    if ours.position == "rope":
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        assert ours.rotary_fraction == theirs.rope_parameters.get("partial_rotary_factor", 1.0)


@pytest.mark.parametrize("values", [NEOX, NANOCHAT], ids=lambda v: v["model_type"])
def test_a_config_alone_cannot_ask_for_a_list_of_rows(values):
    """The order of rows is made when it is asked for, after the weights were seen to be there."""
    config = read(values)
    family = family_named(ForeignConfig("config.json", values))
    orders = [entry.order for entry in family.map_tensors(config, tensor_shapes(config)) if entry.order is not None]
    assert orders and all(callable(order) for order in orders)
    assert sorted(orders[0]()) == list(range((config.n_head + 2 * config.kv_heads) * config.head_width))


def test_names_are_gathered_over_layers_and_none_is_left_out():
    names = ["h.0.a", "h.1.a", "h.2.a", "h.1.b", "h.3.b", "h.7.c", "wte"]
    assert compact(names) == "h.[0-2].a, h.[1,3].b, h.7.c, wte"
