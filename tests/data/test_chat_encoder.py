"""Conversations become ids with special tokens as tokens, and a mask of what the assistant writes."""

from __future__ import annotations

import pytest

from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import byte_tokenizer

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Who is <|im_end|>?"},
    {"role": "assistant", "content": "Nobody."},
    {"role": "user", "content": "And <"},
    {"role": "assistant", "content": "Me."},
]


@pytest.fixture(scope="module")
def chatml() -> tuple[ChatTemplate, Tokenizer]:
    tokenizer = byte_tokenizer()
    template = ChatTemplate.of_model(tokenizer)
    return template, tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)


def test_only_the_template_writes_special_tokens_and_only_answers_are_learnt(
    chatml: tuple[ChatTemplate, Tokenizer],
) -> None:
    template, tokenizer = chatml
    with ChatEncoder(template, tokenizer) as encoder:
        encoded = encoder.conversation(MESSAGES, "row 1")
        ids = encoded.ids.tolist()
        assert ids.count(tokenizer.bos_id) == 1 and ids[0] == tokenizer.bos_id
        assert [ids.count(id) for id in (257, 258)] == [5, 5]
        learnt = tokenizer.backend.decode(encoded.ids[encoded.in_loss].tolist(), skip_special_tokens=False)
        assert learnt == "Nobody.<|im_end|>Me.<|im_end|>"
        for number in (2, 4):
            prompt = encoder.prompt(MESSAGES[:number], "row 1")
            assert (
                ids[: len(prompt)] == prompt and not encoded.in_loss[len(prompt) - 1] and encoded.in_loss[len(prompt)]
            )
