"""The strided recipe of Hugging Face's guide "Perplexity of fixed-length models", with transformers and our weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.tokenizer.tokenizer import Tokenizer
from measuring import evaluate_texts

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"n_kv_head": 1},
    "gpt2": {
        "norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True,
        "norm_eps": 1e-5,
    },
    "llama": {"qk_norm": False, "tie_embeddings": False},
}  # fmt: skip


def strided_nats(model: Any, ids: torch.Tensor, max_length: int, stride: int) -> tuple[float, int]:
    """ids (1, N) -> summed nats and their number: overlapped tokens are labelled -100, the model computes the loss."""
    nats, tokens, previous_end = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=labels).loss
        count = int((labels[:, 1:] != -100).sum())  # the model shifts the labels by one
        nats, tokens, previous_end = nats + loss.item() * count, tokens + count, end
        if end == ids.shape[1]:
            break
    return nats, tokens


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("context", "stride"), [(32, 16), (24, 7)])
def test_loss_is_that_of_the_recipe_with_transformers(
    tmp_path: Path, bpe_tokenizer: Tokenizer, prose: str, shape: str, context: int, stride: int
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = ModelConfig(
        vocab_size=bpe_tokenizer.vocab_size, context_length=32, n_layer=2, n_head=2, n_embd=32, init_std=0.2,
        **SHAPES[shape],
    )  # fmt: skip
    model = build_model(config)
    write_huggingface(model, bpe_tokenizer, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert reference.config.model_type == shape
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    documents = [Document(prose, "a"), Document(prose[50:170], "b")]
    nats, tokens = 0.0, 0
    for document in documents:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(document.text, add_special_tokens=False).input_ids]])
        one_nats, one_tokens = strided_nats(reference, ids, context, stride)
        nats, tokens = nats + one_nats, tokens + one_tokens

    found = evaluate_texts(model.double(), bpe_tokenizer, documents, context=context, stride=stride, batch_size=4)
    assert found.totals.tokens == tokens
    assert found.totals.loss == pytest.approx(nats / tokens, abs=1e-6)
    assert found.totals.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-6)
