"""The chat template of a model: its source, and the special tokens that it needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gptcli.data.chat import CHATML, CHATML_SOURCE, DEFAULT, OF_MODEL, read_template
from gptcli.errors import DataError
from gptcli.tokenizer.tokenizer import Tokenizer

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
BOS = "{{ bos_token }}"
LOOKS_SPECIAL = re.compile(r"<\|[A-Za-z0-9_.:/-]{1,60}\|>|</?s>|<[be]os>|<(?:start|end)_of_turn>|<｜[^<>｜]{1,60}｜>")
"""Matches what templates of known models write as special tokens."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template.

    Attributes:
        source: the Jinja template, which is also what programs that read an exported model are given.
        special_tokens: special tokens that it writes and that a tokenizer may lack. A model that is trained with the
            template gets them (`Tokenizer.with_special_tokens`).
    """

    source: str
    special_tokens: tuple[str, ...] = ()

    @classmethod
    def of_model(cls, tokenizer: Tokenizer, name: str = DEFAULT, special_tokens: Sequence[str] = ()) -> ChatTemplate:
        """Return the template that a configuration names, for a model with this tokenizer.

        Args:
            tokenizer: the tokenizer of the model.
            name: auto (the model's own template if it has one, otherwise chatml), model, chatml or a file.
            special_tokens: further special tokens that the template writes.

        Raises:
            DataError: the model's own template is named, and it has none; or the file is larger than any template.
            StorageError: the file cannot be read.
        """
        if name == DEFAULT:
            name = CHATML if tokenizer.chat_template is None else OF_MODEL
        if name == OF_MODEL:
            source = tokenizer.chat_template
            if source is None:
                raise DataError(
                    "the base model has no chat template of its own", "use another: --set data.chat_template=chatml"
                )
            written = (*plain_tokens(source, tokenizer), *special_tokens)
            return cls(with_bos(source, tokenizer) if tokenizer.adds_bos else source, written)
        if name == CHATML:
            source, special_tokens = CHATML_SOURCE + CHATML_PROMPT, (*CHATML_TOKENS, *special_tokens)
        else:
            source = read_template(name)
        return cls(with_bos(source, tokenizer), tuple(dict.fromkeys(special_tokens)))

    def unknown_tokens(self, tokenizer: Tokenizer) -> list[str]:
        """Return what the template writes in the form of special tokens, and the tokenizer has no token for."""
        named = [*self.special_tokens, *LOOKS_SPECIAL.findall(self.source)]
        return [name for name in dict.fromkeys(named) if tokenizer.backend.token_to_id(name) is None]


def plain_tokens(source: str, tokenizer: Tokenizer) -> list[str]:
    """Return what a template writes in the form of special tokens, and the tokenizer has as tokens that are not
    special, which a message could hold too.
    """
    plain = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values() if not token.special}
    return [name for name in dict.fromkeys(LOOKS_SPECIAL.findall(source)) if name in plain]


def with_bos(source: str, tokenizer: Tokenizer) -> str:
    """Return a template that writes the token that begins every document of the model's training, unless it does so
    already, or there is none.

    It is part of the template, so that all programs that render it write the token, and none of them twice.
    """
    begin = tokenizer.framing.begin_id
    if begin is None or begin != tokenizer.bos_id:
        return source
    name = tokenizer.backend.id_to_token(begin) or ""
    return source if "bos_token" in source or name in source else BOS + source
