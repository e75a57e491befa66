"""A model with a chat template, in the files of other programs: their ids are ours, and they stop where we do."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.sample import SampleMaker
from gptcli.generate.text import Prompt, complete
from gptcli.interop.generation_config import read_stop_ids, with_chat_ends
from gptcli.interop.gguf import GgufMetadata, write_gguf
from gptcli.interop.gguf_tokenizer import ending_tokens
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.gpt import GPT
from gptcli.session import ModelRequest, open_session
from gptcli.tokenizer.tokenizer import Tokenizer

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' }}{{ 'model' if m['role'] == 'assistant' else 'user' }}"
    "{{ '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
NAMED = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|stop|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
    {"role": "user", "content": "Another one?"},
]
TEMPLATES = {
    "chatml": ("chatml", ()),
    "gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    "named": (NAMED, ("<|user|>", "<|assistant|>", "<|stop|>")),
}


@pytest.fixture(scope="module", params=TEMPLATES)
def chatty(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    name, special = TEMPLATES[request.param]
    if name != "chatml":
        path = tmp_path_factory.mktemp("template") / "template.jinja"
        path.write_text(name)
        name = str(path)
    template = ChatTemplate.of_model(tokenizer, name, special)
    return tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)


def stopping(model: GPT, tokenizer: Tokenizer, prompt: list[int], end: int) -> list[int]:
    """Let a model of random weights, which stops nowhere, write the token `end` in place of one of its own; return what
    it then writes after the prompt.
    """
    config = GenerationConfig(max_new_tokens=24, temperature=0.0)
    prompts = [Prompt(prompt, MESSAGES)]
    free = complete(Engine(model), SampleMaker(tokenizer, config), prompts).prompts[0].completions[0].tokens
    written = next(token for place, token in enumerate(free) if place > 2 and token not in free[:place])
    with torch.no_grad():  # the logits of the two tokens change places
        model.head.weight[[end, written]] = model.head.weight[[written, end]]
    (completion,) = complete(Engine(model), SampleMaker(tokenizer, config, {end}), prompts).prompts[0].completions
    assert completion.tokens[-1] == end and completion.finish_reason == "eot"
    return completion.tokens


def test_transformers_gives_our_ids_and_stops_where_we_do(chatty: Tokenizer, our_model, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = our_model(vocab_size=chatty.vocab_size, context_length=128, tie_embeddings=False)
    write_huggingface(model, chatty, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.chat_template == chatty.chat_template
    session = open_session(ModelRequest(str(tmp_path), device="cpu"))
    with session.chat_encoder() as encoder:
        prompt = encoder.prompt(MESSAGES, "it")
        assert read_stop_ids(tmp_path) == encoder.stop_ids == session.stop_ids and len(encoder.stop_ids) == 2
        assert theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False) == prompt
        whole = [*MESSAGES, {"role": "assistant", "content": "The Oder."}]
        assert theirs.apply_chat_template(whole, return_dict=False)[: len(prompt)] == prompt
    ours = stopping(model, chatty, prompt, max(encoder.stop_ids))
    write_huggingface(model, chatty, tmp_path)
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    text = peer.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    assert text == ours and len(text) < 24


def test_a_gguf_file_has_the_template_and_every_stop_token(chatty: Tokenizer, our_model, tmp_path: Path) -> None:
    stop_ids = with_chat_ends(chatty, ())
    path = tmp_path / "model.gguf"
    write_gguf(our_model(vocab_size=chatty.vocab_size), chatty, path, "f32", GgufMetadata("tiny", stop_ids=stop_ids))
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    assert fields["tokenizer.chat_template"] == chatty.chat_template
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
    assert {fields[key] for key in keys if key in fields} == stop_ids
    assert fields["tokenizer.ggml.eos_token_id"] == chatty.eos_id
    assert fields["tokenizer.ggml.add_bos_token"] is chatty.adds_bos is False
    types = fields["tokenizer.ggml.token_type"]
    assert all(types[id] == gguf.TokenType.CONTROL for id in stop_ids)


def test_a_chat_completion_of_llama_cpp_reads_our_ids_and_stops_where_we_do(
    chatty: Tokenizer, our_model, tmp_path: Path
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = our_model(vocab_size=chatty.vocab_size, context_length=128, tie_embeddings=False)
    with ChatEncoder(ChatTemplate.of_model(chatty, "model"), chatty) as encoder:
        prompt, stop_ids = encoder.prompt(MESSAGES, "it"), encoder.stop_ids
    ours = stopping(model, chatty, prompt, max(stop_ids))
    write_gguf(model, chatty, tmp_path / "m.gguf", "f32", GgufMetadata("tiny", stop_ids=stop_ids))
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=128, verbose=False)
    done = llama.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=24)
    assert done["choices"][0]["finish_reason"] == "stop"
    assert done["usage"]["prompt_tokens"] == len(prompt) and done["usage"]["completion_tokens"] == len(ours) - 1


def test_llama_cpp_stops_by_name_at_what_has_no_key(tokenizer: Tokenizer) -> None:
    eos = tokenizer.eos_id
    many = tokenizer.with_special_tokens(("<|im_end|>", "<|stop|>", "<|eom_id|>", "<|halt|>", "<|quit|>"))
    named = {name: many.backend.token_to_id(name) for name in ("<|im_end|>", "<|stop|>", "<|halt|>", "<|quit|>")}
    assert ending_tokens(many, {named["<|stop|>"], named["<|im_end|>"]}) == (
        eos, named["<|stop|>"], named["<|im_end|>"], ()
    )  # fmt: skip
    assert ending_tokens(many, {*named.values()}) == (eos, named["<|stop|>"], named["<|halt|>"], (named["<|quit|>"],))


def test_a_template_that_fails_names_no_token(tokenizer: Tokenizer, capsys: pytest.CaptureFixture) -> None:
    assert with_chat_ends(tokenizer.with_chat_template("{{ raise_exception('never') }}"), {3}) == {3, tokenizer.eos_id}
    assert with_chat_ends(tokenizer.with_chat_template("{% if"), {3}) == {3}
    assert "warning: the tokens at which answers end are not known, since" in capsys.readouterr().err


def test_the_ids_of_a_prompt_are_the_beginning_of_those_in_training(chatty: Tokenizer) -> None:
    with ChatEncoder(ChatTemplate.of_model(chatty, "model"), chatty) as encoder:
        for answer in ("The Oder.", " Two\nlines <|im_end|> ", "x"):
            whole = encoder.conversation([*MESSAGES, {"role": "assistant", "content": answer}], "it")
            prompt = encoder.prompt(MESSAGES, "it")
            assert whole.ids[: len(prompt)].tolist() == prompt
            assert not whole.in_loss[whole.turns[-1].start : len(prompt)].any() and whole.in_loss[len(prompt)]
