"""A model that answers lm-evaluation-harness's questions as messages, by its own chat template.

As with lm-eval's `--apply_chat_template`, worked examples are earlier turns of the conversation. Import this module
only to run tasks: it needs lm_eval (the extra `eval`).
"""

from __future__ import annotations

from typing import Any

from gptcli.console import say
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.content_marks import unmarked
from gptcli.errors import DataError
from gptcli.evaluate.harness import HarnessModel
from gptcli.models.gpt import GPT

PLACE = "a question of the task"


class ChatHarnessModel(HarnessModel):
    """Renders questions by a template. lm_eval passes them on as texts, whose ids are those of `encoder`."""

    applies_chat_template = True

    def __init__(self, model: GPT, encoder: ChatEncoder, batch_size: int | None = None) -> None:
        super().__init__(model, encoder.tokenizer, batch_size, encoder.stop_ids)
        self.encoder = encoder
        self.rendered: dict[str, list[int]] = {}
        """The ids of every text that was rendered."""
        self.without_system = False

    @property
    def tokenizer_name(self) -> str:
        """A name for lm_eval's cache of requests."""
        return self.text.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the source of the template."""
        return self.text.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation up to where the assistant is to write.

        Without `add_generation_prompt` the last message is the beginning of an answer, which is continued. Where the
        template refuses system messages they are left out, as in lm_eval.

        Raises:
            DataError: the template fails on the conversation.
        """
        try:
            return self.render(chat_history, add_generation_prompt)
        except DataError:
            kept = [message for message in chat_history if message["role"] != "system"]
            if len(kept) == len(chat_history):
                raise
            if not self.without_system:
                say("warning: the chat template refuses system messages, and those of the task are left out")
                self.without_system = True
            return self.render(kept, add_generation_prompt)

    def render(self, messages: list[dict[str, str]], asks: bool) -> str:
        """Return the text, and keep its ids."""
        *before, last = messages
        asked, begun = (messages, "") if asks else (before, last["content"])
        renderer = self.encoder.renderer
        prompt = renderer.prompt(renderer.prepared(asked, PLACE), PLACE, None)
        text = unmarked(prompt.text) + begun
        if text not in self.rendered:
            self.rendered[text] = [*self.encoder.prompt(asked, PLACE), *self.text.encode(begun)]
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text; of a rendered conversation those of the encoder."""
        known = self.rendered.get(string)
        return list(known) if known is not None else super().tok_encode(string, add_special_tokens, **kwargs)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and of its continuation, to which white space between them belongs, as in
        lm_eval.
        """
        known = self.rendered.get(context)
        if known is None:
            found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return found
        whole, start = [*known, *self.text.encode(continuation)], len(super().tok_encode(context.rstrip()))
        return whole[:start], whole[start:]
