"""The card of a model that was fine-tuned: its base, its method, what it learnt, and how to speak with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.data.chat_template import ChatTemplate
from gptcli.interop.card import example_lines, method_lines
from gptcli.interop.export import Exported, ExportRequest, export
from gptcli.interop.huggingface import write_huggingface
from gptcli.interop.push import Pushed

EXAMPLES = {
    "train": {"examples": 576, "tokens": 21081, "tokens_in_loss": 3553},
    "val": {"examples": 64, "tokens": 2398, "tokens_in_loss": 392},
    "loss_on": "completion", "cut": 2, "too_long": 0, "duplicates": 1204,
}  # fmt: skip
LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "targets": "all"}


def test_examples_are_counted_with_their_mask() -> None:
    assert list(example_lines(EXAMPLES)) == [
        "- Trained on 576 examples with 21,081 tokens, of which 3,553 are in the loss",
        "- Validated on 64 examples with 2,398 tokens, of which 392 are in the loss",
        '- Loss mask: `data.loss_on = "completion"`, the last message of the assistant, with the token that ends it',
        "- Examples that were left out or cut: 2 cut at the context, 1,204 duplicates",
    ]
    assert list(example_lines({})) == []


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, "all weights are trained"),
        ({"adapter": LORA}, "LoRA of rank 16, alpha 32, at all matrices of the blocks"),
        ({"adapter": LORA | {"dora": True, "targets": "mlp"}}, "DoRA of rank 16, alpha 32, at the matrices of mlp"),
        ({"objective": {"name": "dpo", "beta": 0.1}}, "all weights are trained; preferences by DPO, beta 0.1"),
    ],
)
def test_base_and_method_are_named_without_a_path_of_this_machine(config: dict, method: str) -> None:
    lines = list(method_lines({"train": {"init_from": "/home/me/runs/book"}, **config}))
    assert lines == ["- Base model: `book`", f"- Method: {method}"]
    assert next(method_lines({"train": {"init_from": "hf:someone/base"}})) == "- Base model: `hf:someone/base`"
    assert list(method_lines({"train": {"init_from": None}})) == []


def test_the_code_on_the_card_asks_and_answers(our_model, tokenizer, tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("transformers")
    template = ChatTemplate.of_model(tokenizer, "chatml")
    chatty = tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
    write_huggingface(our_model(vocab_size=chatty.vocab_size, context_length=256), chatty, tmp_path / "model")
    export(ExportRequest(str(tmp_path / "model"), "hf", tmp_path / "tiny"))
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert "parameters that answers messages" in card and "gptcli generate tiny --chat 'Once upon a time'" in card
    assert "- An answer ends at one of `<|endoftext|>`, `<|im_end|>` (`generation_config.json`)" in card
    monkeypatch.chdir(tmp_path)
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert "<|im" not in capsys.readouterr().out


def test_the_command_after_a_push_asks_a_model_that_reads_conversations() -> None:
    exported = Exported(Path("out"), "hf", "f32", (), ())
    for is_chat, command in ((False, "gptcli generate hf:me/tiny Hi"), (True, "gptcli generate hf:me/tiny --chat Hi")):
        pushed = Pushed("me/tiny", "main", "0" * 40, "https://hub/me/tiny", ("a",), exported, "Hi", is_chat=is_chat)
        assert pushed.text().splitlines()[-1] == command
