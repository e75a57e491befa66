"""Evaluations against closed forms, lm-eval's definitions, and one full forward for each token."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcli.data.corpus import Document
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.errors import DataError, UsageError
from gptcli.evaluate.perplexity import count_words
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer
from measuring import evaluate_shards, evaluate_texts


def random_model(tokenizer: Tokenizer, **settings: Any) -> GPT:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=32, n_layer=1, n_head=2, n_embd=16, init_std=0.3, **settings
    )
    return build_model(config, dtype=torch.float64).eval()


def direct_nats(model: GPT, tokenizer: Tokenizer, text: str, context: int, stride: int) -> list[float]:
    """-log p of each token of `text` after the prefix, each by a forward of its own over what its window holds."""
    prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    ids = torch.tensor([prefix, *tokenizer.encode(text)])
    nats = []
    for position in range(1, len(ids)):
        window = max(0, math.ceil((position - context + 1) / stride))
        with torch.no_grad():
            logits = model(ids[window * stride : position][None])[0, -1]
        nats.append(-logits.log_softmax(-1)[ids[position]].item())
    return nats


@pytest.mark.parametrize(("context", "stride"), [(32, 16), (16, 5), (20, 1)])
def test_scores_are_those_of_one_forward_for_each_token(
    bpe_tokenizer: Tokenizer, documents: list[Document], context: int, stride: int
) -> None:
    model = random_model(bpe_tokenizer)
    found = evaluate_texts(model, bpe_tokenizer, documents, context=context, stride=stride, batch_size=3)
    nats = [direct_nats(model, bpe_tokenizer, document.text, context, stride) for document in documents]
    flat = [value for values in nats for value in values]
    text = "".join(document.text for document in documents)
    assert found.totals.tokens == len(flat)
    assert found.totals.loss == pytest.approx(sum(flat) / len(flat), abs=1e-9)
    assert found.totals.perplexity == pytest.approx(math.exp(sum(flat) / len(flat)), rel=1e-9)
    assert found.totals.bits_per_byte == pytest.approx(sum(flat) / math.log(2) / len(text.encode()), rel=1e-9)
    for file, scored in zip(found.files, [nats[:2], nats[2:]], strict=True):
        values = [value for document in scored for value in document]
        assert file.totals.loss == pytest.approx(sum(values) / len(values), abs=1e-9)


def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(
    unigram_model: Callable[[torch.Tensor], GPT], byte_tokenizer: Tokenizer, documents: list[Document]
) -> None:
    size = byte_tokenizer.vocab_size
    totals = evaluate_texts(unigram_model(torch.zeros(size)), byte_tokenizer, documents).totals
    assert totals.perplexity == pytest.approx(size, rel=1e-12)
    assert totals.bits_per_byte == pytest.approx(math.log2(size), rel=1e-12)


def test_a_unigram_model_scores_the_cross_entropy_of_the_counts(
    unigram_model: Callable[[torch.Tensor], GPT], bpe_tokenizer: Tokenizer, prose: str
) -> None:
    logprobs = torch.randn(bpe_tokenizer.vocab_size, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    expected = -logprobs[bpe_tokenizer.encode(prose)].double().sum().item()
    totals = evaluate_texts(unigram_model(logprobs), bpe_tokenizer, [Document(prose, "prose")], stride=7).totals
    assert totals.nats == pytest.approx(expected, rel=1e-6)
    assert totals.word_perplexity == pytest.approx(math.exp(expected / len(re.split(r"\s+", prose))), rel=1e-6)
    assert totals.byte_perplexity == pytest.approx(math.exp(expected / len(prose.encode())), rel=1e-6)


def test_bytes_are_the_tokens_of_a_byte_tokenizer(byte_tokenizer: Tokenizer, documents: list[Document]) -> None:
    totals = evaluate_texts(random_model(byte_tokenizer), byte_tokenizer, documents).totals
    assert totals.tokens == totals.bytes == sum(len(document.text.encode()) for document in documents)
    assert totals.bits_per_byte == pytest.approx(totals.loss / math.log(2), rel=1e-12)
    assert totals.byte_perplexity == pytest.approx(totals.perplexity, rel=1e-12)


def test_stored_documents_score_as_their_texts_do(
    tmp_path: Path, bpe_tokenizer: Tokenizer, documents: list[Document]
) -> None:
    with ShardWriter(tmp_path, bpe_tokenizer.vocab_size, bpe_tokenizer.framing, bpe_tokenizer.fingerprint) as writer:
        for document in documents:
            writer.add(np.array(bpe_tokenizer.encode(document.text)), len(document.text.encode()), starts=True)
    model = random_model(bpe_tokenizer)
    stored = evaluate_shards(model, bpe_tokenizer, TokenShards.open(tmp_path), "val", stride=9, worst=2)
    read = evaluate_texts(
        model, bpe_tokenizer, [Document(document.text, "val") for document in documents], stride=9, worst=2
    )
    assert replace(stored, seconds=0.0) == replace(read, seconds=0.0)


@pytest.mark.parametrize("text", ["", "one", " one", "one two", "one  two\n", "\n\n", "a\u00a0b\u2003c", "é\tü\r\nß"])
def test_words_are_counted_as_lm_eval_counts_them(text: str) -> None:
    assert count_words(text) == len(re.split(r"\s+", text))


def test_measuring_twice_gives_the_same_numbers(bpe_tokenizer: Tokenizer, documents: list[Document]) -> None:
    model = random_model(bpe_tokenizer)
    first, second = (evaluate_texts(model, bpe_tokenizer, documents, worst=3) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_the_model_is_left_as_it_was(bpe_tokenizer: Tokenizer, documents: list[Document]) -> None:
    model = random_model(bpe_tokenizer, dropout=0.3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    evaluate_texts(model, bpe_tokenizer, documents)
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_uncertainty_is_over_documents_and_over_blocks_of_a_single_one(
    bpe_tokenizer: Tokenizer, documents: list[Document]
) -> None:
    found = evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, documents)
    first, second = found.files
    assert found.uncertainty is not None and found.uncertainty.unit.startswith("4 documents, too few")
    assert second.uncertainty is not None and second.uncertainty.unit.startswith("3 documents, too few")
    assert first.uncertainty is not None and "of the one document" in first.uncertainty.unit
    assert found.uncertainty.low < found.totals.loss < found.uncertainty.high
    assert first.uncertainty.low < first.totals.loss < first.uncertainty.high


def test_many_documents_are_enough(bpe_tokenizer: Tokenizer, documents: list[Document]) -> None:
    found = evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, documents * 3)
    assert found.uncertainty is not None and found.uncertainty.unit == "12 documents"


def test_too_little_text_has_no_interval(bpe_tokenizer: Tokenizer) -> None:
    assert evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, [Document("Hi.", "x")]).uncertainty is None


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_score_is_bad_data(bpe_tokenizer: Tokenizer, texts: list[str]) -> None:
    with pytest.raises(DataError, match="no token to score"):
        evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, [Document(text, "x") for text in texts])


@pytest.mark.parametrize("options", [{"context": 33}, {"stride": 33}, {"stride": 0}, {"batch_size": 0}, {"worst": -1}])
def test_impossible_options_are_refused(bpe_tokenizer: Tokenizer, prose: str, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, [Document(prose, "x")], **options)


def test_unknown_characters_are_counted(char_tokenizer: Tokenizer) -> None:
    document = Document("naïve café, ok", "x")
    found = evaluate_texts(random_model(char_tokenizer), char_tokenizer, [document])
    assert found.unknown_tokens == 3, "ï, é and the comma"
    assert found.totals.tokens == len(document.text)
    assert found.totals.bytes == len(document.text.encode())


def test_special_tokens_written_out_in_a_text_are_scored_as_text(bpe_tokenizer: Tokenizer) -> None:
    assert bpe_tokenizer.eos_id is not None
    name = bpe_tokenizer.token_text(bpe_tokenizer.eos_id)
    found = evaluate_texts(random_model(bpe_tokenizer), bpe_tokenizer, [Document(f"a{name}b", "x")])
    assert found.totals.tokens > 3


class WithoutPrefix:
    """A tokenizer without bos and end-of-text tokens."""

    framing = DocumentFraming(None)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("text", ["plain text", "ü begins with half a character"])
def test_without_a_prefix_the_first_token_and_its_bytes_do_not_count(byte_tokenizer: Tokenizer, text: str) -> None:
    documents = [Document(text, "x"), Document("q", "x")]
    found = evaluate_texts(random_model(byte_tokenizer), WithoutPrefix(byte_tokenizer), documents)
    assert found.prefix is None
    assert found.totals.tokens == found.totals.bytes == len(text.encode()) - 1
    assert found.totals.documents == 1
