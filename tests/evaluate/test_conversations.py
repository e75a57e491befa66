"""`gptcli eval` on conversations: rendered by the model's template, scored on the assistant's tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gptcli.data.chat_template import ChatTemplate
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.errors import DataError, UsageError
from gptcli.evaluate.conversations import stored_examples
from gptcli.evaluate.example_report import ExampleReport
from gptcli.evaluate.perplexity import PerplexityOptions
from gptcli.evaluate.requests import TextsRequest, evaluate_texts
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.load import load_model
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.session import ModelRequest
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer

CONVERSATIONS = [
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Elbe."},
        {"role": "user", "content": "Another?"},
        {"role": "assistant", "content": "The Oder."},
    ],
    [{"role": "user", "content": "Hello <|im_end|>"}, {"role": "assistant", "content": "Hi!"}],
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Tokenizer) -> Path:
    template = ChatTemplate.of_model(byte_tokenizer, "chatml")
    tokenizer = byte_tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    torch.manual_seed(0)
    shape = {"context_length": 192, "n_layer": 1, "n_head": 2, "n_embd": 32, "init_std": 0.2}
    path = tmp_path_factory.mktemp("chat")
    write_huggingface(build_model(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer, path)
    rows = path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in CONVERSATIONS))
    return path


def evaluated(directory: Path, *texts: str, **options: object) -> ExampleReport:
    request = ModelRequest(str(directory), device="cpu")
    report = evaluate_texts(TextsRequest(request, texts, as_conversations=True, **options))
    assert isinstance(report, ExampleReport)
    return report


def test_conversations_are_scored_on_the_assistants_words_and_their_ends(directory: Path) -> None:
    """The expected ids are written out: each special token is one id, and the same letters in a message are letters."""
    loaded = load_model(directory)
    begin, end, newline = 257, 258, 10
    nats = []
    for messages in CONVERSATIONS:
        ids, in_loss = [256], [False]
        for message in messages:
            answer = message["role"] == "assistant"
            for part, is_learnt in (
                ([begin, *message["role"].encode(), newline], False), ([*message["content"].encode(), end], answer),
                ([newline], False),
            ):  # fmt: skip
                ids += part
                in_loss += [is_learnt] * len(part)
        with torch.no_grad():
            logprobs = loaded.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
        losses = -logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        nats += losses[torch.tensor(in_loss[1:])].tolist()
    found = evaluated(directory, str(directory / "rows.jsonl")).evaluation
    assert found.in_loss.tokens == len(nats) == len("The Elbe.The Oder.Hi!") + 3
    assert found.in_loss.loss == pytest.approx(np.mean(nats), rel=1e-5)
    assert set(found.roles) == {"system", "user", "assistant"} and found.examples == 2
    assert [answer.expected for answer in found.answers.generated] == ["The Elbe.", "The Oder.", "Hi!"]
    assert evaluated(directory, str(directory / "rows.jsonl"), answers=0).evaluation.answers is None


def test_the_examples_of_a_split_are_scored_by_its_mask(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    with ShardWriter(tmp_path / "val", 257, DocumentFraming(None), "0" * 64, masked=True) as writer:
        for text, answer in (("a: b.", "b."), ("c: d!", "d!"), ("e: f?", "f?")):
            ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint32)
            in_loss = np.arange(len(ids)) >= len(text) - len(answer)
            writer.add_examples(ids, in_loss, np.array([len(ids)]), np.array([len(ids)]))
    shards = TokenShards.open(tmp_path / "val")
    found = [bytes(ids[in_loss].astype(np.uint8)) for ids, in_loss, _ in stored_examples(shards)]
    assert found == [b"b.", b"d!", b"f?"]


def test_what_does_not_fit_conversations_is_refused(directory: Path, tmp_path: Path) -> None:
    rows = str(directory / "rows.jsonl")
    with pytest.raises(UsageError, match="--worst has no effect on conversations"):
        evaluated(directory, rows, options=PerplexityOptions(worst=1))
    with pytest.raises(UsageError, match="--answers has no effect on a text; leave it out, or add --chat"):
        evaluate_texts(TextsRequest(ModelRequest(str(directory), device="cpu"), (rows,), answers=3))
    with pytest.raises(UsageError, match="is not a run, so it has no validation split"):
        evaluated(directory)
    (tmp_path / "text.txt").write_text("no conversation")
    with pytest.raises(DataError, match=r"text.txt is plain text"):
        evaluated(directory, str(tmp_path / "text.txt"))
