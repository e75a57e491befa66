"""The models that the tests of Hugging Face directories go through: our slots by family, and configs of theirs."""

from __future__ import annotations

import transformers

LAYERNORM = {"norm": "layernorm", "bias": True, "qk_norm": False}
GPT2 = LAYERNORM | {"position": "learned", "mlp": "gelu_tanh", "context_length": 72}
NEOX = LAYERNORM | {"mlp": "gelu", "parallel_residual": True, "rotary_fraction": 0.5}
LLAMA = {"qk_norm": False}
QWEN2 = {"qk_norm": False, "qkv_bias": True}
OLMO2 = {"qk_norm_over": "heads", "norm_place": "after"}
NANOCHAT = {"norm_weight": False, "embedding_norm": True, "mlp": "relu2", "logit_softcap": 15.0}
ODD = {"n_kv_head": 2, "head_dim": 14, "n_embd": 45, "intermediate_size": 37}
LINEAR = {"context_length": 32, "rope_scaling": {"name": "linear", "factor": 3.0}}
LLAMA3 = {
    "context_length": 32,
    "rope_scaling": {"name": "llama3", "factor": 8.0, "original_context_length": 24, "high_freq_factor": 3.0},
}
YARN = {"context_length": 32, "rope_scaling": {"name": "yarn", "factor": 4.0, "original_context_length": 16}}
SHARP_YARN = {
    "context_length": 32,
    "rope_theta": 300.0,
    "rope_scaling": YARN["rope_scaling"] | {"beta_fast": 3.0, "truncate": False, "attention_factor": 1.5},
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", LLAMA | {"window_pattern": (7,)}),
    "qwen2": ("Qwen2ForCausalLM", QWEN2),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "olmo2": ("Olmo2ForCausalLM", OLMO2),
    "gpt_neox": ("GPTNeoXForCausalLM", NEOX),
    "nanochat": ("NanoChatForCausalLM", NANOCHAT),
    "gpt2": ("GPT2LMHeadModel", GPT2),
}
VARIANTS = {
    "untied": {"tie_embeddings": False},
    "linear": LINEAR,
    "llama3": LLAMA3,
    "yarn": YARN,
    "sharp yarn, untied": SHARP_YARN | {"tie_embeddings": False},
}
OURS = (
    {f"{family}": (architecture, slots) for family, (architecture, slots) in FAMILIES.items()}
    | {
        f"{family}, {variant}": (architecture, slots | changes)
        for family, (architecture, slots) in FAMILIES.items()
        for variant, changes in VARIANTS.items()
        if "rope_scaling" not in changes or family != "gpt2"  # which has no RoPE
        if "yarn" not in variant or family != "nanochat"  # which normalises what YaRN has lengthened
    }
    | {
        f"{family}, grouped, odd widths": (architecture, slots | ODD)
        for family, (architecture, slots) in FAMILIES.items()
        if family not in ("llama", "gpt_neox", "gpt2")  # whose heads are n_embd / n_head wide, or which has no groups
    }
    | {
        "llama, multi-query": ("LlamaForCausalLM", LLAMA | {"n_kv_head": 1}),
        "llama, biases, odd widths": (
            "LlamaForCausalLM",
            LLAMA | {"bias": True, "n_head": 6, "n_kv_head": 3, "n_embd": 54, "head_dim": 10, "intermediate_size": 37},
        ),
        "llama, GELU": ("LlamaForCausalLM", LLAMA | {"mlp": "geglu", "norm_eps": 1e-3}),
        "mistral, no window": ("MistralForCausalLM", LLAMA | {"n_embd": 45, "head_dim": 12}),
        "qwen2, upper layers windowed": ("Qwen2ForCausalLM", QWEN2 | {"window_pattern": (0, 9, 9)}),
        "qwen3, alternating windows": ("Qwen3ForCausalLM", {"window_pattern": (0, 9), "rope_theta": 5e5}),
        "olmo2, multi-query": ("Olmo2ForCausalLM", OLMO2 | {"n_kv_head": 1}),
        "gpt_neox, odd widths, a quarter turned": (
            "GPTNeoXForCausalLM",
            NEOX | {"n_head": 3, "intermediate_size": 77, "rotary_fraction": 0.25},
        ),
        "gpt_neox, one after the other": (
            "GPTNeoXForCausalLM",
            NEOX | {"parallel_residual": False, "mlp": "gelu_tanh", "rope_theta": 5e3, "rotary_fraction": 1.0},
        ),
        "gpt_neox, no biases": ("GPTNeoXForCausalLM", NEOX | {"bias": False}),
        "nanochat, multi-query, no softcap": (
            "NanoChatForCausalLM",
            NANOCHAT | {"n_kv_head": 1, "logit_softcap": None, "mlp": "gelu", "rope_theta": 5e3},
        ),
        "gpt2, odd widths": (
            "GPT2LMHeadModel",
            GPT2 | {"n_head": 5, "n_embd": 55, "intermediate_size": 77, "norm_eps": 1e-3},
        ),
        "gpt2, no biases": ("GPT2LMHeadModel", GPT2 | {"bias": False, "mlp": "gelu"}),
    }
)


def theirs(kind: type[transformers.PretrainedConfig], **changes: object) -> transformers.PretrainedConfig:
    """A small config of a class of transformers whose keys are Llama's."""
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 50,
        "max_position_embeddings": 64,
    }
    return kind(**(sizes | changes))


def rope(kind: str, **parameters: float) -> dict[str, dict[str, object]]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4} | parameters}


GROUPED = {"hidden_size": 45, "num_key_value_heads": 2}
WINDOWED = {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}
THEIRS = {
    "gpt2": transformers.GPT2Config(n_embd=48, n_layer=3, n_head=4, n_positions=64),
    "gpt2 untied": transformers.GPT2Config(
        n_embd=55,
        n_layer=2,
        n_head=5,
        n_positions=64,
        n_inner=77,
        tie_word_embeddings=False,
        activation_function="gelu",
    ),
    "llama": theirs(transformers.LlamaConfig, num_hidden_layers=3, **rope("default", rope_theta=5e5)),
    "llama tied, with biases": theirs(
        transformers.LlamaConfig,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=14,
        intermediate_size=37,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
    ),
    "mistral": theirs(transformers.MistralConfig, head_dim=10, sliding_window=7, **GROUPED),
    "qwen3": theirs(transformers.Qwen3Config, num_hidden_layers=3, head_dim=14, **GROUPED),
    "qwen2": theirs(
        transformers.Qwen2Config,
        num_key_value_heads=2,
        intermediate_size=37,
        max_position_embeddings=32,
        **WINDOWED,
        **rope("yarn", factor=4.0, original_max_position_embeddings=8, mscale=1.0, mscale_all_dim=0.5),
    ),
    "olmo2": theirs(
        transformers.Olmo2Config,
        num_key_value_heads=2,
        intermediate_size=37,
        max_position_embeddings=32,
        **rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
            rope_theta=500.0,
        ),
    ),
    "gpt_neox": theirs(
        transformers.GPTNeoXConfig,
        num_attention_heads=3,
        intermediate_size=77,
        max_position_embeddings=32,
        **rope("default", rope_theta=5e3, partial_rotary_factor=0.5),
    ),
    "gpt_neox tied, one after the other": theirs(
        transformers.GPTNeoXConfig,
        hidden_size=32,
        max_position_embeddings=32,
        use_parallel_residual=False,
        tie_word_embeddings=True,
        **rope("linear", factor=2.0),
    ),
    "nanochat": theirs(
        transformers.NanoChatConfig, num_key_value_heads=2, intermediate_size=77, max_position_embeddings=32
    ),
    "qwen3 tied, upper layers windowed": theirs(
        transformers.Qwen3Config, num_key_value_heads=4, head_dim=12, tie_word_embeddings=True, **WINDOWED
    ),
}


CHOICES = {
    "norm": ["rmsnorm", "layernorm"],
    "norm_place": ["before", "after"],
    "norm_weight": [True, False],
    "embedding_norm": [True, False],
    "position": ["rope", "learned", "none"],
    "mlp": ["swiglu", "geglu", "gelu", "gelu_tanh", "relu2"],
    "n_kv_head": [1, 2],
    "head_dim": [12, 20],
    "qk_norm": [True, False],
    "qk_norm_over": ["head", "heads"],
    "bias": [True, False],
    "qkv_bias": [True, False],
    "tie_embeddings": [True, False],
    "parallel_residual": [True, False],
    "logit_softcap": [4.0],
    "rope_scaling": [LINEAR["rope_scaling"], LLAMA3["rope_scaling"], YARN["rope_scaling"]],
    "rotary_fraction": [0.5],
    "window_pattern": [(5,), (5, 0), (5, 9)],
}
