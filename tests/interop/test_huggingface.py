"""What we write, transformers computes the same with; what transformers writes, we compute the same with."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
import transformers

from gptcli.errors import CheckpointError
from gptcli.interop.huggingface import read_huggingface, write_huggingface
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer
from interop.shapes import CHOICES, GPT2, LLAMA, NANOCHAT, NEOX, OLMO2, OURS, QWEN2, THEIRS

TOLERANCE = 1e-4  # in fp32, on logits of the order of 1 to 10


def open_with_transformers(directory) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture
def their_model(tokenizer, lively, tmp_path):
    """Save a lively random-weight model of transformers with a tokenizer beside it; returns the model."""

    def save(config: transformers.PreTrainedConfig, **how) -> transformers.PreTrainedModel:
        config = copy.deepcopy(config)
        config.vocab_size = tokenizer.vocab_size
        config.bos_token_id = config.eos_token_id = tokenizer.eos_id
        model = lively(transformers.AutoModelForCausalLM.from_config(config))
        model.save_pretrained(tmp_path, **how)
        tokenizer.save(tmp_path)
        return model

    return save


@pytest.mark.parametrize(("architecture", "slots"), OURS.values(), ids=OURS)
@torch.no_grad()
def test_transformers_computes_the_same_logits(
    our_model, beside, some_ids, tmp_path, record_property, architecture, slots
):
    model = our_model(**slots)
    assert architecture in write_huggingface(model, beside(slots), tmp_path)
    theirs = open_with_transformers(tmp_path)
    assert type(theirs).__name__ == architecture
    logits = model(some_ids)
    record_property("max_difference", float((theirs(some_ids).logits - logits).abs().max()))
    torch.testing.assert_close(theirs(some_ids).logits, logits, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "slots"), OURS.values(), ids=OURS)
@torch.no_grad()
def test_greedy_text_through_both_caches_is_the_same(our_model, beside, some_ids, tmp_path, architecture, slots):
    model, prompt = our_model(**slots), some_ids[:1, :8]
    write_huggingface(model, beside(slots), tmp_path)
    reference = open_with_transformers(tmp_path)
    reference.config.eos_token_id = reference.generation_config.eos_token_id = None  # go on after an end of text
    theirs = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False, pad_token_id=0
    )
    cache = model.new_cache(1, 72)
    ours, step = prompt, prompt
    for _ in range(64):
        step = model.last_logits(step, cache).argmax(-1, keepdim=True)
        ours = torch.cat((ours, step), dim=1)
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("slots", [slots for _, slots in OURS.values()], ids=OURS)
def test_round_trip_keeps_every_bit(our_model, beside, tmp_path, slots):
    model, tokenizer = our_model(**slots), beside(slots)
    write_huggingface(model, tokenizer, tmp_path)
    again, its_tokenizer = read_huggingface(tmp_path)
    saved, read = model.state_dict(), again.state_dict()
    for name in read:
        # A GPT-2 or GPT-NeoX that was trained without biases comes back with biases of zero.
        torch.testing.assert_close(read[name], saved.get(name, torch.zeros_like(read[name])), atol=0, rtol=0)
    assert saved.keys() <= read.keys()
    assert again.config.mlp_width == model.config.mlp_width
    assert its_tokenizer.fingerprint == tokenizer.fingerprint
    assert not again.training


@pytest.mark.parametrize("config", THEIRS.values(), ids=THEIRS)
@torch.no_grad()
def test_models_of_transformers_compute_the_same_here(their_model, some_ids, tmp_path, record_property, config):
    theirs = their_model(config)
    ours, _ = read_huggingface(tmp_path)
    record_property("max_difference", float((theirs(some_ids).logits - ours(some_ids)).abs().max()))
    torch.testing.assert_close(ours(some_ids), theirs(some_ids).logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_shards_are_read_as_one_model(their_model, some_ids, tmp_path):
    theirs = their_model(THEIRS["qwen3"], max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours, _ = read_huggingface(tmp_path)
    torch.testing.assert_close(ours(some_ids), theirs(some_ids).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_narrow_weights_are_widened_without_change(their_model, some_ids, tmp_path, narrow):
    their_model(THEIRS["llama"]).to(narrow).save_pretrained(tmp_path)
    theirs, (ours, _) = open_with_transformers(tmp_path), read_huggingface(tmp_path, dtype=torch.float32)
    assert ours.embedding.weight.dtype == torch.float32
    torch.testing.assert_close(ours(some_ids), theirs(some_ids).logits, atol=TOLERANCE, rtol=0)


def test_asked_dtype_is_given(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(), tokenizer, tmp_path)
    model, _ = read_huggingface(tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"type": "linear", "factor": 3.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32},
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.25},
    ],
    ids=["unscaled", "linear", "llama3", "yarn"],
)  # fmt: skip
@torch.no_grad()
def test_config_of_transformers_4_is_understood(their_model, some_ids, tmp_path, scaling):
    their_model(THEIRS["llama"])
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "torch_dtype": config.pop("dtype")}
    path.write_text(json.dumps(config | {"rope_scaling": scaling}))
    theirs, (ours, _) = open_with_transformers(tmp_path), read_huggingface(tmp_path)
    assert ours.config.rope_theta == 5e5
    assert (ours.config.rope_scaling is None) == (scaling is None)
    torch.testing.assert_close(ours(some_ids), theirs(some_ids).logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_gpt2_as_first_published_is_read(their_model, some_ids, tmp_path):
    """The published files are of the bare model, hold causal masks, and their config leaves most keys out."""
    from safetensors.torch import save_file

    theirs = their_model(transformers.GPT2Config(n_embd=48, n_layer=3, n_head=4, n_positions=64))
    bare = {name: tensor.contiguous() for name, tensor in theirs.transformer.state_dict().items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(3)}
    save_file(bare | masks, tmp_path / "model.safetensors")
    kept = {"model_type", "vocab_size", "n_embd", "n_layer", "n_head", "n_positions"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in kept}))
    ours, _ = read_huggingface(tmp_path)
    torch.testing.assert_close(ours(some_ids), theirs(some_ids).logits, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_every_combination_of_slots_is_exact_in_transformers_or_refused_in_words(
    our_model, tokenizer, some_ids, tmp_path
):
    draw = random.Random(3)
    with_class = 0
    for trial in range(60):
        changes = {slot: draw.choice(values) for slot, values in CHOICES.items() if draw.random() < 0.12}
        slots = {"n_layer": 2} | draw.choice([{}, LLAMA, QWEN2, OLMO2, NEOX, NANOCHAT, GPT2]) | changes
        model, directory = our_model(**slots), tmp_path / str(trial)
        words = write_huggingface(model, tokenizer, directory)
        if "opens it as" in words:
            with_class += 1
            logits = open_with_transformers(directory)(some_ids).logits
            torch.testing.assert_close(logits, model(some_ids), atol=TOLERANCE, rtol=0)
        else:
            assert json.loads((directory / "config.json").read_text())["no_transformers_class"] == words
            torch.testing.assert_close(read_huggingface(directory)[0](some_ids), model(some_ids), atol=0, rtol=0)
    assert 15 <= with_class <= 45


def test_an_architecture_without_a_class_says_so_and_comes_back(our_model, tokenizer, tmp_path):
    model = our_model(logit_softcap=5.0, parallel_residual=True, dropout=0.1)
    words = write_huggingface(model, tokenizer, tmp_path)
    assert "no class" in words
    assert "Qwen3ForCausalLM parallel_residual must be off" in words
    assert "logit_softcap must be none, not 5.0" in words
    assert json.loads((tmp_path / "config.json").read_text())["no_transformers_class"] == words
    with pytest.raises(ValueError, match="gptcli"):
        open_with_transformers(tmp_path)
    assert read_huggingface(tmp_path)[0].config == model.config


TEXT = "Stories: naïve café 東京 🙂 , it 's\n\n\tend of  them. " * 20


@pytest.mark.parametrize(
    "settings", [ByteTokenizerConfig(), CharTokenizerConfig(), BpeTokenizerConfig(vocab_size=300)], ids=lambda s: s.name
)
@pytest.mark.parametrize("slots", [{}, LLAMA, GPT2, {"logit_softcap": 5.0}], ids=["qwen3", "llama", "gpt2", "own"])
def test_transformers_tokenizer_gives_the_same_ids(our_model, tmp_path, settings, slots):
    tokenizer = build_tokenizer(settings, lambda: iter([TEXT]))
    write_huggingface(our_model(vocab_size=tokenizer.vocab_size, **slots), tokenizer, tmp_path)
    theirs = transformers.PreTrainedTokenizerFast if "logit_softcap" in slots else transformers.AutoTokenizer
    theirs = theirs.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer.encode(TEXT)
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT
    assert (theirs.eos_token_id, theirs.bos_token_id) == (tokenizer.eos_id, tokenizer.bos_id)
    assert read_huggingface(tmp_path)[1].fingerprint == tokenizer.fingerprint


@torch.no_grad()
def test_the_pipeline_of_transformers_writes_text(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(), tokenizer, tmp_path)
    pipeline = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    greedy = transformers.GenerationConfig(max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.eos_id)
    assert pipeline("Once", generation_config=greedy)[0]["generated_text"].startswith("Once")


def test_written_config_names_ids_and_both_generations_of_keys(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(rope_theta=5e5), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5e5
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["eos_token_id"] == tokenizer.eos_id
    assert config["head_dim"] == 12
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == generation.pad_token_id == tokenizer.eos_id


def test_writing_again_replaces_the_files_and_leaves_nothing_else(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(), tokenizer, tmp_path)
    files = sorted(tmp_path.iterdir())
    second = our_model(n_layer=1, n_embd=24)
    write_huggingface(second, tokenizer, tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    assert read_huggingface(tmp_path)[0].config.n_embd == 24


def test_a_tokenizer_larger_than_the_model_is_refused(our_model, tokenizer, tmp_path):
    write_huggingface(our_model(vocab_size=100), tokenizer, tmp_path)
    with pytest.raises(CheckpointError, match="more tokens than the model's 100 embeddings"):
        read_huggingface(tmp_path)
