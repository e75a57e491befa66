"""The config's rules, the initialisation, the parameter table, the estimates, and every shipped shape."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gptcli.config import RawConfig, read_toml, validate
from gptcli.models import estimate
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "model").glob("*.toml"))
GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu_tanh",
    "qk_norm": False,
    "bias": True,
}
SHAPES: list[dict[str, Any]] = [
    {},
    GPT2,
    {"n_kv_head": 1, "tie_embeddings": False, "mlp": "geglu", "head_dim": 24},
    {"norm": "layernorm", "bias": False, "mlp": "relu2", "intermediate_size": 100},
    {"bias": True, "position": "none", "rotary_fraction": 0.5},
    {"qkv_bias": True, "n_kv_head": 2, "norm_place": "after", "qk_norm_over": "heads"},
    {"bias": True, "qkv_bias": False, "norm": "layernorm", "embedding_norm": True},
    {"norm_weight": False, "embedding_norm": True},
    {"norm_weight": False, "bias": True, "norm": "layernorm"},
]
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-350m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "qwen3-0.6b": 596_049_920,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
}


def load(path: Path) -> ModelConfig:
    raw = read_toml(path)
    values = raw.values["model"]
    return validate(ModelConfig, RawConfig(values, dict.fromkeys(values, str(path))))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_embd": 130}, "n_embd=130 is not divisible by n_head=4; set n_embd=128 or n_embd=132"),
        ({"n_head": 6, "n_embd": 96, "n_kv_head": 4}, "n_kv_head=4 does not divide n_head=6; choose one of 1, 2, 3, 6"),
        ({"head_dim": 9}, "RoPE turns pairs"),
        ({"rotary_fraction": 0.01}, "RoPE turns pairs"),
        ({"dropout": 1.0}, "dropout"),
        ({"n_layer": 0}, "n_layer"),
        ({"window_pattern": (-1,)}, "window_pattern"),
        ({"mlp": "swish"}, "mlp"),
    ],
)
def test_impossible_shapes_are_refused_with_the_remedy(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**values)


def test_resolved_values_follow_their_rules() -> None:
    config = ModelConfig()
    assert (config.kv_heads, config.head_width, config.mlp_width) == (4, 32, 352)  # 8/3 * 128 = 341.3, to 32s
    assert ModelConfig(mlp="gelu").mlp_width == 512
    assert ModelConfig(n_embd=96).mlp_width == 256  # 8/3 * 96 exactly
    assert ModelConfig(n_embd=130, head_dim=32).head_width == 32


def test_config_and_estimate_do_not_import_torch() -> None:
    code = "import sys, gptcli.models.config, gptcli.models.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_initial_weights_have_the_published_statistics() -> None:
    model = build_model(ModelConfig(vocab_size=500, n_layer=8, n_embd=256, **GPT2), seed=1)
    for name, tensor in model.named_parameters():
        if name.endswith("bias"):
            assert not tensor.any(), name
        elif tensor.dim() == 1:
            assert (tensor == 1).all(), name
        else:
            residual = name.endswith(("attention.output.weight", "mlp.down.weight"))
            std = 0.02 / math.sqrt(2 * 8) if residual else 0.02
            # The standard error of a standard deviation is about std / sqrt(2n), of a mean std / sqrt(n); n >= 65536.
            assert tensor.std().item() == pytest.approx(std, rel=0.02), name
            assert abs(tensor.mean().item()) < std / 40, name


def test_the_seed_alone_decides_the_weights() -> None:
    config = ModelConfig(vocab_size=11, n_embd=32)
    torch.manual_seed(1)
    first = build_model(config, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = build_model(config, seed=5), build_model(config, seed=6)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    half = build_model(config, seed=5, dtype=torch.bfloat16)
    assert torch.equal(half.embedding.weight, first.embedding.weight.to(torch.bfloat16))


def test_an_untrained_model_is_nearly_uniform() -> None:
    ids = torch.randint(1000, (4, 64))
    loss = build_model(ModelConfig(vocab_size=1000)).loss_sum(ids, ids.roll(1, 0)) / ids.numel()
    assert loss.item() == pytest.approx(math.log(1000), rel=0.02)


def test_parameter_infos_tell_roles_and_fused_matrices() -> None:
    model = build_model(ModelConfig(vocab_size=7, n_kv_head=2, tie_embeddings=False, bias=True), device="meta")
    infos = {info.name: info for info in model.parameter_infos()}
    assert [info.name for info in infos.values()] == [name for name, _ in model.named_parameters()]
    assert infos["embedding.weight"].kind == "embedding"
    assert infos["head.weight"].kind == "head"
    assert infos["blocks.0.attention.qkv.weight"][2:4] == ("matrix", (128, 64, 64))
    assert infos["blocks.3.mlp.up.weight"][2:4] == ("matrix", (352, 352))
    assert infos["blocks.3.mlp.down.weight"][2:4] == ("matrix", ())
    assert infos["blocks.1.attention.qkv.bias"].kind == "vector"
    assert infos["blocks.1.attention.k_norm.weight"].kind == "vector"
    for info in infos.values():
        assert not info.splits or sum(info.splits) == info.tensor.shape[0]
    learned = build_model(ModelConfig(vocab_size=7, **GPT2), device="meta").parameter_infos()
    assert {i.name: i.kind for i in learned}["position_embedding.weight"] == "embedding"
    assert {i.name: i.splits for i in learned}["blocks.0.mlp.up.weight"] == ()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_builds_on_the_meta_device(path: Path) -> None:
    assert path.read_text().startswith("# "), "each names its source"
    assert set(read_toml(path).values) == {"model"}
    config = load(path)
    config = config if config.vocab_size else config.model_copy(update={"vocab_size": 32_000})
    model = build_model(config, device="meta")
    assert model.parameter_count() == estimate.parameter_count(config)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    stated = path.stem.rpartition("-")[2]
    size = float(stated[:-1]) * {"m": 1e6, "b": 1e9}[stated[-1]]
    whole = load(path).vocab_size or path.stem.startswith("llama")
    counted = model.parameter_count() if whole else estimate.non_embedding_parameters(config)
    stated = pytest.approx(size, rel=0.2 if path.stem.startswith(("tiny", "fast")) else 0.05)
    assert counted == PUBLISHED.get(path.stem, stated)


def test_every_published_size_of_gpt2_and_gpt3_is_shipped() -> None:
    names = {path.stem for path in CONFIGS}
    assert set(PUBLISHED) <= names
    assert {f"gpt3-{size}" for size in ("125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b")} <= names


@pytest.mark.parametrize("shape", SHAPES)
def test_parameter_count_is_exact(shape: dict) -> None:
    config = ModelConfig(vocab_size=77, **shape)
    model = build_model(config, device="meta")
    assert estimate.parameter_count(config) == sum(t.numel() for t in model.state_dict().values())
    blocks_and_norm = sum(
        t.numel() for n, t in model.named_parameters() if not n.startswith(("embedding.", "position", "head"))
    )
    assert estimate.non_embedding_parameters(config) == blocks_and_norm
