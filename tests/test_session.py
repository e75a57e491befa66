"""A session is a model ready to run, whatever it was loaded from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gptcli.errors import UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import generate
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.models.inference import quantized
from gptcli.nn.inference import Int8Linear
from gptcli.session import ModelRequest, open_session
from gptcli.tokenizer.config import ByteTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context_length=32, n_layer=1, n_head=2, n_embd=32)
    write_huggingface(build_model(config), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_a_session_generates_what_its_model_does(directory: Path, capsys: pytest.CaptureFixture) -> None:
    session = open_session(ModelRequest(str(directory), device="cpu"))
    assert session.source == f"Hugging Face directory {directory}"
    assert capsys.readouterr().err == f"{session.source}, on cpu in fp32\n"
    expected = generate(session.model, session.tokenizer, ["Once", "Then"], GREEDY)
    assert session.generate(["Once", "Then"], GREEDY).prompts == expected.prompts


def test_a_quantized_session_runs_and_names_the_quantized_model(directory: Path) -> None:
    plain = open_session(ModelRequest(str(directory), device="cpu"))
    session = open_session(ModelRequest(str(directory), device="cpu", quantize="int8"))
    assert isinstance(session.model.head, Int8Linear) and session.source == f"{plain.source}, quantized to int8"
    expected = generate(quantized(plain.model, "int8"), plain.tokenizer, ["Once"] * 8, GREEDY)
    assert session.generate(["Once"] * 8, GREEDY).prompts == expected.prompts


def test_a_session_has_the_precision_that_was_asked_for(directory: Path) -> None:
    session = open_session(ModelRequest(str(directory), device="cpu", precision="bf16"))
    assert session.model.embedding.weight.dtype == torch.bfloat16


def test_a_model_without_a_chat_template_reads_no_conversations(directory: Path, tokenizer: Tokenizer) -> None:
    session = open_session(ModelRequest(str(directory), device="cpu"))
    assert session.stop_ids == {tokenizer.eos_id}
    with pytest.raises(UsageError, match=r"has no chat template, so it reads no conversations; fine-tune it on some"):
        session.chat_encoder()


def test_every_listed_stop_token_ends_a_text(directory: Path, tokenizer: Tokenizer) -> None:
    """As in Llama 3's directories, generation_config.json lists more tokens than the tokenizer names."""
    session = open_session(ModelRequest(str(directory), device="cpu"))
    config = GREEDY.model_copy(update={"max_new_tokens": 25})
    free = session.generate(["Once", "Then we"], config)
    for prompt in free.prompts:
        tokens = prompt.completions[0].tokens
        listed = [tokenizer.eos_id, tokens[5], tokens[9]]
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}))
        session = open_session(ModelRequest(str(directory), device="cpu"))
        assert session.stop_ids == set(listed)
        stopped = session.generate([prompt.prompt.content], config).prompts[0].completions[0]
        place = min(tokens.index(token) for token in listed[1:])
        assert (stopped.tokens, stopped.finish_reason) == (tokens[: place + 1], "eot")
        assert stopped.text == tokenizer.decode(tokens[:place])


def test_an_unknown_device_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        open_session(ModelRequest("nothing", device="tpu"))
