"""The chat template of a corpus of examples, and the tokenizer of the model that learns them."""

from __future__ import annotations

from gptcli.data.chat_template import ChatTemplate
from gptcli.data.config import DataConfig
from gptcli.tokenizer.tokenizer import Tokenizer


def template_for_examples(tokenizer: Tokenizer, config: DataConfig) -> ChatTemplate:
    """Return the chat template that a configuration names, for a model with this tokenizer.

    Raises:
        DataError: the model's own is named, and it has none; or a file is no template.
        StorageError: the file cannot be read.
    """
    return ChatTemplate.of_model(tokenizer, config.chat_template, config.special_tokens)


def with_template(tokenizer: Tokenizer, template: ChatTemplate) -> Tokenizer:
    """Return a model's tokenizer with this chat template, and with the special tokens that it writes."""
    return tokenizer.with_special_tokens(template.special_tokens).with_chat_template(template.source)
