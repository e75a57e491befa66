"""What a GGUF file holds, by the gguf package that llama.cpp's converter is made of, and by llama.cpp where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.gguf import QUANTIZATIONS, GgufMetadata, read_gguf, require_quantization, write_gguf
from gptcli.interop.gguf_families import gguf_family
from gptcli.interop.huggingface import tensor_shapes
from gptcli.interop.load import LoadedModel
from gptcli.interop.readers import llama_cpp_parity
from gptcli.nn.rope import apply_rotary
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

gguf = pytest.importorskip("gguf")

GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "bias": True, "qk_norm": False}
LLAMA = {"qk_norm": False}
MODELS = {
    "qwen3": ("qwen3", {}),
    "qwen3 untied": ("qwen3", {"tie_embeddings": False}),
    "qwen3 grouped, wide heads": ("qwen3", {"n_kv_head": 2, "head_dim": 14, "n_embd": 45}),
    "qwen3 whose window is its context": ("qwen3", {"window_pattern": (0, 64), "rope_theta": 5e5}),
    "llama": ("llama", LLAMA),
    "llama untied, multi-query": ("llama", LLAMA | {"tie_embeddings": False, "n_kv_head": 1}),
    "llama with biases": ("llama", LLAMA | {"bias": True, "n_kv_head": 2, "head_dim": 10}),
    "mistral without window": ("llama", LLAMA | {"n_embd": 45, "head_dim": 12, "norm_eps": 1e-3}),
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied": ("gpt2", GPT2 | {"tie_embeddings": False, "intermediate_size": 77, "norm_eps": 1e-3}),
    "gpt2 without biases": ("gpt2", GPT2 | {"bias": False}),
}
THEIR_NAMES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
TEXT = (
    "Stories: naïve café 東京 🙂 , it 's\n\n\tend of  them. Don't we'll 12345 ½ x²\r\n  <unk> <|endoftext|> ¿qué? "
    "\u00a0 \u3000 end\u200d👩‍👩‍👧 "
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(("architecture", "slots"), MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_a_model_rebuilt_from_the_file_alone_computes_the_same(
    our_model, tokenizer, some_ids, path, architecture, slots
):
    model = our_model(**slots)
    write_gguf(model, tokenizer, path, "f32", GgufMetadata("tiny"))
    again = read_gguf(path)
    assert gguf.GGUFReader(path).fields["general.architecture"].contents() == architecture
    torch.testing.assert_close(again(some_ids), model(some_ids), atol=1e-6, rtol=0)
    assert again.config.tie_embeddings == model.config.tie_embeddings


@pytest.mark.parametrize(("architecture", "slots"), MODELS.values(), ids=MODELS)
def test_tensors_have_the_names_that_llama_cpps_converter_gives_them(our_model, tokenizer, path, architecture, slots):
    """The package's own table from the names in a Hugging Face file to those in a GGUF file."""
    from gptcli.interop.families import family_of

    model = our_model(**slots)
    write_gguf(model, tokenizer, path, "f32", GgufMetadata("tiny"))
    family, _ = family_of(model.config)
    config = family.written_as(model.config)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.n_layer)
    theirs = {
        table.get_name(name, try_suffixes=(".weight", ".bias"))
        for mapped in family.map_tensors(config, tensor_shapes(config))
        for name in mapped.theirs
    }
    assert {tensor.name for tensor in gguf.GGUFReader(path).tensors} == theirs


def test_llamas_rows_are_ordered_for_a_rotation_of_neighbours(our_model, tokenizer, path):
    """Scores of llama.cpp's rotation, of pairs (2i, 2i + 1), on the written rows are those of ours on our rows."""
    model = our_model(**LLAMA, n_kv_head=2)
    write_gguf(model, tokenizer, path, "f32", GgufMetadata("tiny"))
    tensors = {t.name: torch.from_numpy(np.array(t.data)) for t in gguf.GGUFReader(path).tensors}
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(3))
    D = model.config.head_width

    def rotate_neighbours(rows: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(5.0), 10_000.0 ** (-torch.arange(0, D, 2) / D))  # (T, D/2)
        pairs = torch.view_as_complex((x @ rows.T).view(5, -1, D // 2, 2))  # (T, N, D/2)
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(2)

    q, k, _ = model.blocks[0].attention.qkv.weight.split([4 * D, 2 * D, 2 * D])
    rotary = model.rope(slice(5), 5, x.device)
    ours = [apply_rotary((x @ rows.T).view(5, -1, D).transpose(0, 1), rotary) for rows in (q, k)]  # (N, T, D)
    theirs = [rotate_neighbours(tensors[f"blk.0.attn_{name}.weight"]).transpose(0, 1) for name in "qk"]
    for head in range(4):
        torch.testing.assert_close(
            ours[0][head] @ ours[1][head // 2].T, theirs[0][head] @ theirs[1][head // 2].T, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("numbers", ["f16", "bf16", *QUANTIZATIONS])
@torch.no_grad()
def test_matrices_are_rounded_as_asked_and_vectors_not_at_all(our_model, tokenizer, path, numbers):
    model = our_model(n_embd=64, tie_embeddings=False)
    write_gguf(model, tokenizer, path, numbers, GgufMetadata("tiny"))
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.2.attn_q_norm.weight"] == "f32"
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == numbers
    assert kinds["output.weight"] == ("q8_0" if numbers.startswith("q") else numbers)
    down, again = model.blocks[1].mlp.down.weight, read_gguf(path).blocks[1].mlp.down.weight
    kind = gguf.GGMLQuantizationType[numbers.upper()]
    theirs = gguf.quants.dequantize(gguf.quants.quantize(down.numpy(), kind), kind)
    torch.testing.assert_close(again, torch.from_numpy(np.array(theirs)), atol=0, rtol=0)
    assert 0 < (again - down).abs().max() < 0.4 * down.abs().max()


def test_rows_that_do_not_fit_in_blocks_stay_in_f16_and_it_is_said(our_model, tokenizer, path):
    notes = write_gguf(our_model(n_embd=48), tokenizer, path, "q4_0", GgufMetadata("tiny"))
    assert any("not a multiple of 32" in note for note in notes)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q4_0"


def test_learned_positions_stay_in_fp32_as_llama_cpp_adds_them(our_model, tokenizer, path):
    write_gguf(our_model(**GPT2, n_embd=64), tokenizer, path, "q8_0", GgufMetadata("tiny"))
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["position_embd.weight"] == "F32"
    assert kinds["token_embd.weight"] == "Q8_0"


def test_embeddings_beyond_the_vocabulary_get_tokens(our_model, tokenizer, path):
    write_gguf(our_model(vocab_size=tokenizer.vocab_size + 3), tokenizer, path, "f32", GgufMetadata("tiny"))
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == tokenizer.vocab_size + 3
    assert fields["tokenizer.ggml.token_type"].contents()[-4:] == [
        gguf.TokenType.CONTROL, *[gguf.TokenType.UNUSED] * 3
    ]  # fmt: skip
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_id


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"smear": True}, "for qwen3 smear must be off, not on"),
        ({"bigram_buckets": 100}, "bigram_buckets must be 0"),
        ({"logit_softcap": 5.0}, "logit_softcap must be none, not 5.0"),
        ({"window_pattern": (0, 9)}, r"has no sliding windows \(window_pattern has 9\)"),
        ({"rotary_fraction": 0.5}, "rotary_fraction must be 1.0"),
        ({"mlp": "geglu"}, "mlp must be swiglu, not geglu"),
        ({"parallel_residual": True}, "parallel_residual must be off"),
        (GPT2 | {"mlp": "gelu"}, "for gpt2 mlp must be gelu_tanh, not gelu"),
        (GPT2 | {"n_kv_head": 2}, r"n_kv_head must be n_head \(4\), not 2"),
    ],
    ids=str,
)
def test_a_model_that_llama_cpp_does_not_know_is_refused_in_words(our_model, tokenizer, path, slots, words):
    with pytest.raises(UsageError, match=words) as caught:
        write_gguf(our_model(**slots), tokenizer, path, "f32", GgufMetadata("tiny"))
    assert "\n" not in str(caught.value)
    assert not list(path.parent.iterdir())


def test_every_slot_of_a_model_is_one_that_the_table_decides(our_model):
    """A slot that is added later must not pass unseen: with another value than its default it is refused."""
    config = our_model().config
    for slot, value in {"rotary_fraction": 0.5, "smear": True, "parallel_residual": True}.items():
        assert gguf_family(config).obstacles(config.model_copy(update={slot: value}))


def test_quantizations_that_cannot_be_written_say_how_to_have_them():
    for name in QUANTIZATIONS:
        require_quantization(name)
    for name in ("q4_k_m", "q6_k", "iq2_xxs", "q3_k_s"):
        with pytest.raises(UsageError, match=rf"reads {name} but does not write it; .* llama-quantize"):
            require_quantization(name)
    with pytest.raises(UsageError, match="quantization 'int8' is unknown"):
        require_quantization("int8")


def test_a_file_that_is_cut_short_or_none_is_refused(our_model, tokenizer, path):
    write_gguf(our_model(), tokenizer, path, "f32", GgufMetadata("tiny"))
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b"no GGUF at all, but some text" * 10):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is not a whole GGUF file"):
            read_gguf(path)


TOKENIZERS = [ByteTokenizerConfig(), CharTokenizerConfig(), BpeTokenizerConfig(vocab_size=300)]


@pytest.mark.parametrize("settings", TOKENIZERS, ids=lambda settings: settings.name)
@pytest.mark.parametrize("slots", [{}, LLAMA | {"n_kv_head": 2, "bias": True}, GPT2], ids=["qwen3", "llama", "gpt2"])
def test_llama_cpp_itself_gives_the_same_ids_and_logits(our_model, path, settings, slots):
    llama_cpp = pytest.importorskip("llama_cpp")
    tokenizer = build_tokenizer(settings, lambda: iter([TEXT * 5]))
    model = our_model(vocab_size=tokenizer.vocab_size, n_embd=64, tie_embeddings=settings.name != "bpe", **slots)
    write_gguf(model, tokenizer, path, "f32", GgufMetadata("tiny"))
    check = llama_cpp_parity(LoadedModel(model, tokenizer, None, "a test"), path)
    # It looks GELU up in a table of fp16.
    assert check.max_difference < (1e-2 if slots == GPT2 else 1e-4) and check.tokens == 256
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in (TEXT, TEXT[::-1], " x", "\n\n \n", "<|endoftext|>"):
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text)
        assert llama.detokenize(tokenizer.encode(text)) == text.encode()
