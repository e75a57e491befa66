"""A session is a model ready to run, whatever it was loaded from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gptcli.data.chat_template import ChatTemplate
from gptcli.data.example_forms import ChatExample
from gptcli.errors import TokenizerError, UsageError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.sample import SampleMaker
from gptcli.generate.text import complete, generate
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.models.inference import quantized
from gptcli.nn.inference import Int8Linear
from gptcli.session import ModelRequest, open_session
from gptcli.tokenizer.config import ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

SMALL = {"context_length": 32, "n_layer": 1, "n_head": 2, "n_embd": 32}
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


@pytest.fixture
def chatty(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A model of random weights whose tokenizer has a chat template."""
    torch.manual_seed(0)
    template = ChatTemplate.of_model(tokenizer, "chatml")
    tokenizer = tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, context_length=128, n_layer=1, n_head=2, n_embd=32)
    write_huggingface(build_model(config), tokenizer, tmp_path / "chatty")
    return tmp_path / "chatty"


def test_answers_continue_the_ids_of_the_training_and_show_no_special_token(chatty: Path) -> None:
    session = open_session(ModelRequest(str(chatty), device="cpu"))
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "<|im_end|>?"}]
    config = GREEDY.model_copy(update={"max_new_tokens": 40, "num_samples": 2})
    (found,) = session.chat([ChatExample(asked)], config).prompts
    with session.chat_encoder() as encoder:
        trained = encoder.conversation([*asked, {"role": "assistant", "content": "An answer."}], "it")
        stop_ids = encoder.stop_ids
    ids = found.prompt.ids
    assert trained.ids[: len(ids)].tolist() == ids
    assert trained.in_loss[len(ids)] and not trained.in_loss[: len(ids)].any()
    assert found.report()["messages"] == asked
    maker = SampleMaker(session.tokenizer, config)
    free = complete(Engine(session.model), maker, [found.prompt]).prompts[0].completions[0].tokens
    place = next((place for place, token in enumerate(free) if token in stop_ids), len(free) - 1)
    for completion in found.completions:
        assert completion.tokens == free[: place + 1]
        assert "<|" not in completion.text and completion.text == session.tokenizer.decode(free[: place + 1])


def test_the_tools_of_a_conversation_are_in_its_prompt(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = "{{ tools[0]['name'] }} for {{ messages[0]['content'] }}: {% generation %}{% endgeneration %}"
    model = build_model(ModelConfig(vocab_size=tokenizer.vocab_size, **SMALL))
    write_huggingface(model, tokenizer.with_chat_template(source), tmp_path)
    session = open_session(ModelRequest(str(tmp_path), device="cpu"))
    asked = ChatExample([{"role": "user", "content": "5"}], [{"name": "add"}])
    with session.chat_encoder() as encoder:
        ids = session.chat_prompt(encoder, asked, "it").ids
    assert tokenizer.decode(ids) == "add for 5: "


def test_a_message_that_the_tokenizer_cannot_represent_is_named(tmp_path: Path) -> None:
    letters = build_tokenizer(CharTokenizerConfig(), lambda: iter(["user assistant .\n"]))
    tokenizer = letters.with_chat_template("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    write_huggingface(build_model(ModelConfig(vocab_size=tokenizer.vocab_size, **SMALL)), tokenizer, tmp_path)
    session = open_session(ModelRequest(str(tmp_path), device="cpu"))
    with pytest.raises(TokenizerError, match=r"prompt 2: the tokenizer's vocabulary lacks 'z'"):
        session.chat([ChatExample([{"role": "user", "content": text}]) for text in ("suer", "suez")], GREEDY)


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
