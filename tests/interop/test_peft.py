"""Adapters in PEFT's files: peft opens ours, we open peft's, and both train the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from gptcli import strict_json
from gptcli.errors import CheckpointError
from gptcli.interop.base_reference import BaseReference
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.load import load_model
from gptcli.interop.peft import read_new_ids, read_peft, write_peft
from gptcli.interop.peft_config import ADAPTER_CONFIG, ADAPTER_WEIGHTS, name_base, read_base
from gptcli.models.adapter_config import LoraConfig
from gptcli.models.adapters import adapter_state, add_adapter, load_adapter_state
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model, model_with
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig
from interop.shapes import FAMILIES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
"""peft uses what transformers is going to remove, and advises on embeddings."""
SIZES = {"vocab_size": 257, "n_layer": 2, "n_head": 4, "n_embd": 32, "context_length": 32, "intermediate_size": 24}
BASE = BaseReference("/models/base", "ab12")
NEW = [250, 253]


@pytest.fixture(scope="session")
def peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
    return peft


@pytest.fixture(scope="session", params=["llama", "qwen3", "gpt2", "gpt_neox", "nanochat"])
def pair(request, tmp_path_factory, lively, beside) -> tuple[GPT, Path]:
    """A base model of a family, and its directory."""
    slots = SIZES | FAMILIES[request.param][1] | {"tie_embeddings": request.param != "llama"}
    model = lively(build_model(ModelConfig(**slots)))
    folder = tmp_path_factory.mktemp(request.param)
    write_huggingface(model, beside(slots), folder)
    return model.eval(), folder


def copy_of(model: GPT) -> GPT:
    return model_with(model.config, {name: tensor.clone() for name, tensor in model.state_dict().items()}).eval()


def theirs_of(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def some_ids() -> torch.Tensor:
    ids = torch.randint(257, (2, 12), generator=torch.Generator().manual_seed(2))
    ids[0, 3] = NEW[0]
    return ids


def stir(tensors: Any, seed: int = 0) -> None:
    """Add noise to every tensor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor += 0.2 * torch.randn(tensor.shape, generator=generator)


def assert_same_logits(ours: torch.Tensor, theirs: torch.Tensor, before: torch.Tensor) -> None:
    scale = theirs.abs().max().item()
    assert (before - theirs).abs().max() > 0.1 * scale
    torch.testing.assert_close(ours, theirs, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("dora", [False, True])
def test_peft_opens_ours_and_we_read_it_back_unchanged(pair, peft, tmp_path, dora) -> None:
    base, folder = pair
    config = LoraConfig(rank=3, alpha=5.0, dora=dora, rslora=not dora, targets="attention" if dora else "all")
    ours, ids = add_adapter(copy_of(base), config, 4, NEW), some_ids()
    stir(adapter_state(ours).values())
    write_peft(ours, config, BASE, tmp_path)
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(theirs_of(folder), tmp_path)
        assert_same_logits(ours(ids), theirs(ids).logits, base(ids))
    found, tensors = read_peft(tmp_path, base)
    assert found == config and read_new_ids(tmp_path) == NEW and read_base(tmp_path) == BASE
    own = adapter_state(ours)
    assert tensors.keys() == own.keys() and all(torch.equal(tensors[name], own[name]) for name in own)


def last_names(model: transformers.PreTrainedModel) -> list[str]:
    """The last parts of the names of the blocks' linear maps, sorted."""
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, kinds)}
    return sorted(names - {"lm_head", "embed_out"})


@pytest.mark.parametrize("variant", ["all", "some"])
def test_we_open_an_adapter_of_peft(pair, peft, tmp_path, variant) -> None:
    base, folder = pair
    model = theirs_of(folder)
    names = last_names(model)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": names, "lora_dropout": 0.25}
    if variant == "some":
        tables = [model.get_input_embeddings()] + (
            [] if base.config.tie_embeddings else [model.get_output_embeddings()]
        )
        ends = [name.rpartition(".")[2] for name, module in model.named_modules() if module in tables]
        settings |= {"target_modules": names[1:], "use_dora": True, "use_rslora": True, "task_type": "CAUSAL_LM"}
        settings |= {"rank_pattern": {names[1]: 6}, "alpha_pattern": {names[-1]: 9}}
        settings["trainable_token_indices"] = {end: NEW if number else NEW[:1] for number, end in enumerate(ends)}
    theirs = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    stir(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(tmp_path)
    config, tensors = read_peft(tmp_path, base)
    ours, ids = add_adapter(copy_of(base), config, 9, read_new_ids(tmp_path)).eval(), some_ids()
    load_adapter_state(ours, tensors)
    with torch.no_grad():
        assert_same_logits(ours(ids), theirs(ids).logits, base(ids))
        assert_same_logits(load_model(tmp_path).model(ids), theirs(ids).logits, base(ids))
    assert config.dropout == 0.25 and config.rank == (4 if variant == "all" else 6)


@pytest.mark.slow
@pytest.mark.parametrize("config", [LoraConfig(rank=4), LoraConfig(rank=4, dora=True)], ids=["lora", "dora"])
@pytest.mark.parametrize("pair", ["llama"], indirect=True)
def test_ten_steps_of_training_are_those_of_peft_and_adamw(pair, peft, tmp_path, config) -> None:
    base, folder = pair
    ours = add_adapter(copy_of(base), config, 4, NEW)
    write_peft(ours, config, BASE, tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs_of(folder), tmp_path, is_trainable=True)
    settings = {"lr": 3e-3, "weight_decay": 0.1}
    optimizer = build_optimizer(ours.parameter_infos(), AdamWConfig(**settings))
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one.dim() > 1]},
        {"params": [one for one in trained if one.dim() == 1], "weight_decay": 0.0},
    ]
    their_optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, **settings)
    losses, ids = [], torch.randint(257, (4, 16), generator=torch.Generator().manual_seed(3))
    ids[0, :2] = torch.tensor(NEW)
    for _ in range(10):
        for one in (optimizer, their_optimizer):
            one.zero_grad()
        loss, their_loss = ours.loss_sum(ids[:, :-1], ids[:, 1:]) / (4 * 15), theirs(ids, labels=ids).loss
        for one in (loss, their_loss):
            one.backward()
        for one in (optimizer, their_optimizer):
            one.step()
        losses.append((loss.item(), their_loss.item()))
    assert losses[-1][0] < losses[0][0] - 0.05
    assert all(mine == pytest.approx(other, abs=1e-5) for mine, other in losses)
    theirs.save_pretrained(tmp_path / "theirs")
    _, tensors = read_peft(tmp_path / "theirs", base)
    for name, tensor in adapter_state(ours).items():
        torch.testing.assert_close(tensor, tensors[name], atol=1e-5, rtol=1e-5)


def changed(folder: Path, values: dict[str, Any], tensors: dict[str, torch.Tensor | None]) -> None:
    """Change entries of an adapter's two files; a tensor of None is removed."""
    old = strict_json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(strict_json.dumps(old | values))
    new = {"base_model.model." + name: tensor for name, tensor in tensors.items()}
    kept = {name: one for name, one in (load_file(folder / ADAPTER_WEIGHTS) | new).items() if one is not None}
    save_file(kept, folder / ADAPTER_WEIGHTS)


Q_A, Q_B = "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_B.weight"
BROKEN: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor | None], str]] = {
    "another method": ({"peft_type": "LOHA"}, {}, 'peft_type = "LOHA" is not supported'),
    "biases": ({"bias": "all"}, {}, 'bias = "all" is not supported'),
    "saved modules": ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save = .* is not supported"),
    "a changed base": ({"init_lora_weights": "pissa"}, {}, 'init_lora_weights = "pissa" is not supported'),
    "a variant of the future": ({"use_nova": True}, {}, "use_nova = true is not supported"),
    "a rank in words": ({"r": "four"}, {}, 'has r = "four"'),
    "a pattern": ({"alpha_pattern": {"(a+)+q_proj": 3}}, {}, "alpha_pattern = .* is not supported"),
    "ids in words": ({"trainable_token_indices": {"lm_head": ["a"]}}, {}, "trainable_token_indices = .* is not"),
    "an id beyond the base": ({"trainable_token_indices": [999]}, {}, "has the vector of token 999"),
    "ids without vectors": ({"trainable_token_indices": [250]}, {}, "should be \\(1, 32\\)"),
    "NaN": ({}, {Q_B: torch.full((32, 4), torch.nan)}, "q_proj.lora_B.weight holds NaN or infinity in 128"),
    "another width": ({}, {Q_A: torch.zeros(4, 31)}, r"q_proj.lora_A has shape \(4, 31\), should be \(r, 32\)"),
    "another rank": ({}, {Q_A: torch.zeros(5, 32)}, r"q_proj.lora_B has shape \(32, 4\), should be \(32, 5\)"),
    "half of a pair": ({}, {Q_A: None}, "q_proj only lora_B"),
    "another model": (
        {},
        {Q_A.replace("q_proj", "dense"): torch.zeros(4, 32), Q_B.replace("q_proj", "dense"): torch.zeros(32, 4)},
        "an adapter of model.layers.0.self_attn.dense, which its base model does not have",
    ),
    "another tensor": ({}, {"model.norm.weight": torch.ones(32)}, "model.norm.weight, which is no part of a LoRA"),
}


@pytest.fixture(scope="session")
def llama(lively) -> GPT:
    return lively(build_model(ModelConfig(**SIZES, **FAMILIES["llama"][1]))).eval()


@pytest.mark.parametrize(("values", "tensors", "words"), BROKEN.values(), ids=BROKEN)
def test_an_adapter_of_another_kind_or_base_is_refused_in_words(llama, tmp_path, values, tensors, words) -> None:
    config = LoraConfig(rank=4)
    write_peft(add_adapter(copy_of(llama), config, 4), config, BASE, tmp_path)
    read_peft(tmp_path, llama)
    changed(tmp_path, values, tensors)
    with pytest.raises(CheckpointError, match=words):
        read_peft(tmp_path, llama)


def test_an_adapter_that_is_not_finite_is_not_written(llama, tmp_path) -> None:
    config = LoraConfig(rank=4)
    model = add_adapter(copy_of(llama), config, 4)
    model.blocks[0].mlp.down.lora_b.data[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match="lora_b holds NaN or infinity"):
        write_peft(model, config, BASE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_matrix_without_an_adapter_is_left_alone_in_training(llama, tmp_path) -> None:
    config = LoraConfig(rank=4)
    write_peft(add_adapter(copy_of(llama), config, 4), config, BASE, tmp_path)
    changed(tmp_path, {}, {Q_A: None, Q_B: None})
    with pytest.raises(CheckpointError, match=r"has no tensors for model\.layers\.0\.self_attn\.q_proj"):
        read_peft(tmp_path, llama)
    changed(tmp_path, {"layers_to_transform": [0, 1]}, {})
    found, tensors = read_peft(tmp_path, llama)
    model = add_adapter(copy_of(llama), found, 0)
    load_adapter_state(model, tensors)
    optimizer = build_optimizer(model.parameter_infos(), AdamWConfig())
    for _ in range(3):
        model.loss_sum(some_ids(), some_ids()).backward()
        optimizer.step()
    qkv = model.blocks[0].attention.qkv
    assert not qkv.lora_a[:4].any() and not qkv.lora_b[:32].any() and qkv.lora_b[32:].any()


@pytest.mark.parametrize(
    ("name", "revision", "reference"),
    [
        ("someone/model", None, "hf:someone/model"),
        ("someone/model", "abc", "hf:someone/model@abc"),
        ("/models/base", None, "/models/base"),
        (None, None, ""),
    ],
)
def test_the_base_is_named_as_peft_names_it(llama, tmp_path, name, revision, reference) -> None:
    config = LoraConfig(rank=4)
    write_peft(add_adapter(copy_of(llama), config, 4), config, BASE, tmp_path)
    changed(tmp_path, {"base_model_name_or_path": name, "revision": revision}, {})
    assert read_base(tmp_path).reference == reference
    name_base(tmp_path, BaseReference("hf:someone/other@123", ""))
    values = strict_json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert (values["base_model_name_or_path"], values["revision"]) == ("someone/other", "123")
