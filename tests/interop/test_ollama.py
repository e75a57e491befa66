"""A Modelfile for ollama: chat templates in Go's language, evaluated here as far as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.generate.config import GenerationConfig
from gptcli.interop.export import ExportRequest, export
from gptcli.interop.gguf import read_gguf
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.ollama import modelfile, prompt_text, translated
from gptcli.tokenizer.tokenizer import Tokenizer

TAGS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
TURNS = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\\n' + m['content'] }}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
NAMES = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}{% elif m['role'] == 'user' %}"
    "{{ 'USER: ' + m['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
INSIDE = (
    "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}[ASK] "
    "{% if loop.first and messages[0]['role'] == 'system' %}<<{{ messages[0]['content'] }}>> {% endif %}"
    "{{ m['content'] }} [/ASK]{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def chatty(tokenizer: Tokenizer, source: str, folder: Path, special: tuple[str, ...] = ()) -> Tokenizer:
    if source != "chatml":
        (folder / "template.jinja").write_text(source)
        source = str(folder / "template.jinja")
    template = ChatTemplate.of_model(tokenizer, source, special)
    return tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)


def in_go(template: str, roles: tuple[str, ...], contents: tuple[str, ...]) -> str:
    """What Go writes for a template of one range over the messages with one chain of conditions on the role."""
    begin, body, asks = re.fullmatch(r"(.*)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.S).groups()
    cases = dict(re.findall(r'if eq \.Role "(\w+)" \}\}(.*?)\{\{ (?=else|end)', body, re.S))
    turns = [
        cases[role].replace("{{ .Content }}", content)
        for role, content in zip(roles, contents, strict=False)
        if role in cases
    ]
    return begin + "".join(turns) + asks


@pytest.mark.parametrize(
    ("source", "special"),
    [("chatml", ()), (TAGS, ("<|user|>", "<|assistant|>", "<|end|>")), (TURNS, ("<end_of_turn>",)), (NAMES, ())],
    ids=["chatml", "tags", "turns", "names"],
)
def test_a_translated_template_writes_what_ours_does(tokenizer, tmp_path: Path, source: str, special) -> None:
    model = chatty(tokenizer, source, tmp_path, special)
    with ChatEncoder(ChatTemplate.of_model(model, "model"), model) as encoder:
        template = translated(encoder)
        assert template is not None
        for roles in (("user",), ("system", "user"), ("system", *("user", "assistant") * 2, "user")):
            expected = prompt_text(encoder, roles)
            if expected is None:  # the template refuses a system message
                assert source == TURNS and 'eq .Role "system"' not in template
                continue
            contents = ("onequartz", "twoquartz", "threequartz", "fourquartz", "fivequartz", "sixquartz")
            assert in_go(template, roles, contents) == expected


def test_a_template_of_another_kind_is_left_to_ollama(tokenizer, our_model, tmp_path: Path) -> None:
    """The system message stands inside of the first user's."""
    model = chatty(tokenizer, INSIDE, tmp_path)
    with ChatEncoder(ChatTemplate.of_model(model, "model"), model) as encoder:
        assert translated(encoder) is None
    write_huggingface(our_model(vocab_size=model.vocab_size), model, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "ollama", tmp_path / "out"))
    assert "TEMPLATE" not in (tmp_path / "out" / "Modelfile").read_text()
    assert any("write TEMPLATE into the Modelfile" in note for note in exported.notes)


def test_an_export_is_a_gguf_file_with_a_modelfile(tokenizer, our_model, tmp_path: Path) -> None:
    model = chatty(tokenizer, "chatml", tmp_path)
    write_huggingface(our_model(vocab_size=model.vocab_size), model, tmp_path / "model")
    exported = export(ExportRequest(str(tmp_path / "model"), "ollama", tmp_path / "out", quantize="q8_0"))
    assert exported.numbers == "q8_0" and exported.checks and exported.format == "ollama"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "model.gguf"]
    assert read_gguf(tmp_path / "out" / "model.gguf").config.vocab_size == model.vocab_size
    lines = (tmp_path / "out" / "Modelfile").read_text()
    assert lines.startswith('FROM ./model.gguf\nTEMPLATE """<|endoftext|>{{ range .Messages }}')
    assert 'PARAMETER stop "<|endoftext|>"\nPARAMETER stop "<|im_end|>"\n' in lines
    assert lines.endswith(f"PARAMETER temperature {GenerationConfig().temperature}\nPARAMETER num_ctx 64\n")


def test_the_token_that_begins_a_text_is_written_once(tokenizer: Tokenizer) -> None:
    """Ollama writes it before the prompt where the GGUF file says so."""
    begins = Tokenizer(tokenizer.backend, {"bos_token": "<|endoftext|>", "add_bos_token": True})
    assert begins.adds_bos
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile(begins, "<|endoftext|>{{ .Prompt }}", (), 64)
    assert 'TEMPLATE """<|endoftext|>{{ .Prompt }}"""' in modelfile(tokenizer, "<|endoftext|>{{ .Prompt }}", (), 64)
