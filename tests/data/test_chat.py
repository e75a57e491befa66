"""A template turns conversations into texts, and can do nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from gptcli.data import chat
from gptcli.data.chat import CHATML_SOURCE, ChatRenderer, read_template
from gptcli.data.config import DataConfig
from gptcli.data.corpus import corpus_documents
from gptcli.errors import DataError

MESSAGES = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Seven."}]


def rendered(tmp_path: Path, template: str, messages: object = MESSAGES) -> str:
    path = tmp_path / "template.jinja"
    path.write_text(template)
    with ChatRenderer(str(path)) as renderer:
        return renderer.render(messages, "row 1")


def test_chatml_is_the_form_that_models_know() -> None:
    with ChatRenderer("chatml") as renderer:
        assert renderer.render(MESSAGES, "row 1") == (
            "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nSeven.<|im_end|>\n"
        )


def test_texts_are_rendered_by_chatml_unless_a_template_is_named_and_by_no_models() -> None:
    assert DataConfig().chat_template == "auto"
    assert read_template("auto") == read_template("chatml") == CHATML_SOURCE
    with pytest.raises(
        DataError, match=r"texts .* are read without; use another one: --set data\.chat_template=chatml"
    ):
        read_template("model")


def test_a_models_own_template_gives_the_text_that_transformers_gives(tmp_path: Path) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = (
        "{%- generation %}[G]{%- endgeneration %}\n"
        "{%- if messages[0].role == 'system' %}\n[S]{{ messages[0].content }}\n{%- endif %}\n"
        "{% for m in messages %}\n  {% if m.role == 'user' %}\n[U]{{ m.content | trim }}\n  {% else %}\n"
        "[A]{{ m['content'] }}{{ '</s>' }}\n  {% endif %}\n{% endfor %}\n"
    )
    expected, _ = render_jinja_template([MESSAGES], chat_template=template)
    assert rendered(tmp_path, template) == expected[0]


def test_a_corpus_of_conversations_is_read_as_texts(tmp_path: Path) -> None:
    corpus = tmp_path / "chat.jsonl"
    corpus.write_text("".join(json.dumps({"messages": MESSAGES, "n": n}) + "\n" for n in range(3)))
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    config = DataConfig(text_field="messages", chat_template=str(template))
    texts = [document.text for document in corpus_documents([str(corpus)], config, tmp_path / "cache")]
    assert texts == ["user: How many?\nassistant: Seven.\n"] * 3


ATTACKS = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "import": "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch CANARY') }}",
    "changing what it is given": "{{ messages.append(1) }}",
    "a syntax error": "{% for %}",
    "its own refusal": "{{ raise_exception('not this one') }}",
    "a long text": "{% for a in range(90000) %}{% for b in range(90000) %}{{ 'x' * 90000 }}{% endfor %}{% endfor %}",
    "a large number": "{{ 'x' * 10000000000 }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "deep nesting": "(" * 50_000,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_template_gives_an_error_and_does_nothing(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(DataError) as failure:
        assert "<class" not in rendered(tmp_path, ATTACKS[name].replace("CANARY", str(canary)))
        raise DataError("nothing came of it")  # the sandbox gives an undefined value for what is forbidden
    assert len(str(failure.value)) < 600 and "\n" not in str(failure.value)
    assert not canary.exists()


FAILURES = {
    "{{ namespace(__init__=1) }}": "SecurityError: a namespace may not have the name '__init__'",
    "{% set ns = namespace() %}{% set ns._x = 1 %}": "SecurityError: a namespace may not have the name '_x'",
    "{% break %}": "cannot be compiled: SyntaxError: 'break' outside loop",
    "{{ 10 ** 5000 }}": "cannot be compiled: it writes a number of more than 4,300 digits",
    "{{ messages[0].content * 10 ** 9 }}": "row 1 cannot be rendered: it takes more than 256 MiB of memory",
    "{{ messages[0].content.strip }}": "writes <built-in method strip .* are parentheses missing",
    "{{ 'A' ~ (messages | map('upper')) }}": "writes <generator object",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "row 1 cannot be rendered: it is nested too deeply",
    "{{ strftime_now('%d %b %Y') }}": "writes today's date.* data.chat_date=2",
}


@pytest.mark.parametrize("template", FAILURES)
def test_the_message_gives_the_reason(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError, match=FAILURES[template]):
        rendered(tmp_path, template)


def test_a_constant_that_takes_forever_is_stopped_during_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "TEMPLATE_SECONDS", 0.5)
    with pytest.raises(DataError, match=r"the chat template takes more than 0\.5 s to be compiled"):
        rendered(tmp_path, "{{ 7 ** (10 ** 8) }}")


def test_a_namespace_carries_values_out_of_a_loop(tmp_path: Path) -> None:
    loop = "{% for m in messages %}{% set ns.n = ns.n + ns.m %}{% endfor %}"
    assert rendered(tmp_path, "{% set ns = namespace({'n': 1}, m=2) %}" + loop + "{{ ns.n }}") == "5"


def test_a_loop_can_be_left_as_in_transformers(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{% for m in messages %}{{ m.role }}{% break %}{% endfor %}") == "user"


def test_a_template_uses_the_configured_date_or_its_own(tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ strftime_now('%d %b %Y, %H h') if strftime_now is defined else '26 Jul 2024' }}")
    texts = []
    for date in ("2025-02-03", None):
        with ChatRenderer(str(path), date) as renderer:
            texts.append(renderer.render(MESSAGES, "row 1"))
    assert texts == ["03 Feb 2025, 00 h", "26 Jul 2024"]


@pytest.mark.parametrize("value", ["2026-02-30", "today", 20261130, "2026-11-30T10:00:00"])
def test_an_invalid_date_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="chat_date"):
        DataConfig(chat_date=value)


def test_random_choices_are_the_same_at_every_rendering(tmp_path: Path) -> None:
    template = "{{ range(99999) | random }} {{ lipsum(1) }}"
    first, again = (rendered(tmp_path, template) for _ in range(2))
    other = rendered(tmp_path, template, MESSAGES[:1])
    assert first == again != other


def test_a_template_without_an_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "ROW_SECONDS", 1.0)
    endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match="takes more than 1 s"):
        rendered(tmp_path, endless)


@pytest.mark.parametrize("messages", [[1], [{"content": "no role"}], [{"role": 3, "content": "x"}]])
def test_an_error_names_a_row_that_is_not_a_conversation(tmp_path: Path, messages: object) -> None:
    with pytest.raises(DataError, match="row 1 is not a conversation"):
        rendered(tmp_path, "{{ messages }}", messages)


def test_a_file_too_large_for_a_template_is_not_read() -> None:
    with pytest.raises(DataError, match="larger than"):
        ChatRenderer("/dev/zero")
