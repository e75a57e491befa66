"""A Modelfile for ollama beside a GGUF file: the chat template in Go's template language, and the texts that end an
answer.

A Jinja template is translated by what it writes: if each message is its content between a beginning and an end that
depend on its role alone, as in ChatML, the translation is these. It is compared on longer conversations, and a template
that is not of this kind is left out. Ollama then looks whether it knows the template in the GGUF file.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptcli.data.chat import OF_MODEL
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.chat_template import ChatTemplate
from gptcli.data.content_marks import unmarked
from gptcli.errors import DataError
from gptcli.storage import write_atomic
from gptcli.tokenizer.tokenizer import Tokenizer

MODELFILE, GGUF_FILE = "Modelfile", "model.gguf"
TEMPERATURE = 0.8
"""That of `gptcli generate`."""
QUOTES = '"""'
CONTENTS = ("onequartz", "twoquartz", "threequartz", "fourquartz", "fivequartz", "sixquartz")
"""Contents of messages by which their places in a rendered text are found."""
CONTINUE = "{{ .Prompt }}"
"""The template of a model that continues a text."""
TRIED: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
"""The roles of the conversations on which a translation is compared. A template without system messages is translated
without them."""


@dataclass
class TurnMarkup:
    """The markup of a template around the contents of messages.

    Attributes:
        begin: before all messages.
        around: before and after the content of a message, by its role.
        asks: after all messages, where the assistant is to write.
    """

    begin: str
    around: dict[str, tuple[str, str]] = field(default_factory=dict)
    asks: str = ""

    def render(self, roles: Sequence[str]) -> str:
        """Return the text of a conversation with these roles and the contents of CONTENTS."""
        turns = (content.join(self.around[role]) for role, content in zip(roles, CONTENTS, strict=False))
        return f"{self.begin}{''.join(turns)}{self.asks}"

    def in_go(self) -> str:
        """Return the template in Go's language, by the fields that ollama gives it."""
        cases = (
            f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ '
            for role, (before, after) in self.around.items()
        )
        return f"{self.begin}{{{{ range .Messages }}}}{{{{ {'else '.join(cases)}end }}}}{{{{ end }}}}{self.asks}"


def translated(encoder: ChatEncoder) -> str | None:
    """Return a chat template in Go's language; None if it is not of the kind that is translated."""
    prompts = {roles: prompt_text(encoder, roles) for roles in TRIED}
    found = markup_of(prompts, begin_name(encoder.tokenizer))
    if found is None or any(text is not None and found.render(roles) != text for roles, text in prompts.items()):
        return None
    written = [found.begin, found.asks, *itertools.chain(*found.around.values())]
    return None if any("{{" in text or QUOTES in text for text in written) else found.in_go()


def prompt_text(encoder: ChatEncoder, roles: Sequence[str]) -> str | None:
    """Return the text of a conversation up to where the assistant is to write; None if the template refuses it."""
    messages = [{"role": role, "content": content} for role, content in zip(roles, CONTENTS, strict=False)]
    renderer = encoder.renderer
    try:
        return unmarked(renderer.prompt(renderer.prepared(messages, "a conversation"), "a conversation", None).text)
    except DataError:
        return None


def begin_name(tokenizer: Tokenizer) -> str:
    """Return the token that begins a text; empty if there is none."""
    begin = tokenizer.framing.begin_id
    return "" if begin is None else tokenizer.backend.id_to_token(begin) or ""


def markup_of(prompts: dict[tuple[str, ...], str | None], begin: str) -> TurnMarkup | None:
    """Return the markup that explains rendered conversations, as far as their first turns show it.

    Args:
        prompts: the conversations up to where the assistant is to write, by their roles.
        begin: the token that begins a text.
    """
    first, second, third, last = between(prompts["user", "assistant", "user"], 3) or ("",) * 4
    before_user = shared_start(first.removeprefix(begin)[::-1], third[::-1])[::-1]
    after_answer = third.removesuffix(before_user)
    is_header = bool(after_answer) and second == last and second.startswith(after_answer)
    after_user = after_answer if is_header else shared_start(second, last)
    found = TurnMarkup(first.removesuffix(before_user), asks=last.removeprefix(after_user))
    system = between(prompts["system", "user"], 2)
    if system is not None:
        before, after = system[0], system[1]
        if not before.startswith(found.begin) or not after.endswith(before_user):
            return None
        found.around["system"] = (before.removeprefix(found.begin), after.removesuffix(before_user))
    found.around["user"] = (before_user, after_user)
    found.around["assistant"] = (second.removeprefix(after_user), after_answer)
    return found


def shared_start(one: str, other: str) -> str:
    """Return the longest text with which both texts begin."""
    length = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return one[: min(len(one), len(other)) if length is None else length]


def between(text: str | None, count: int) -> list[str] | None:
    """Return the parts of a text before, between and after the first `count` contents; None if they are not there."""
    parts = []
    for content in CONTENTS[:count]:
        part, found, text = (text or "").partition(content)
        if not found:
            return None
        parts.append(part)
    return [*parts, text or ""]


def write_modelfile(
    path: Path, tokenizer: Tokenizer, stop_ids: Collection[int], context_length: int
) -> tuple[str, ...]:
    """Write a Modelfile for the GGUF file beside it, and return notes for the user, each in a line.

    Args:
        path: the place of the Modelfile.
        tokenizer: the tokenizer of the GGUF file.
        stop_ids: the tokens that end a text.
        context_length: that of the model.

    Raises:
        DataError: the chat template cannot be rendered.
        StorageError: the path cannot be written.
    """
    template: str | None = CONTINUE
    notes: list[str] = []
    if tokenizer.chat_template is not None:
        today = datetime.date.today().isoformat()
        with ChatEncoder(ChatTemplate.of_model(tokenizer, OF_MODEL), tokenizer, date=today) as encoder:
            template = translated(encoder)
        if template is None:
            notes.append(
                "the chat template is not one that is translated into ollama's language: ollama looks whether it knows "
                "the one in the GGUF file; if it does not, write TEMPLATE into the Modelfile"
            )
        elif 'eq .Role "system"' not in template:
            notes.append("the chat template has no system messages, and ollama leaves them out")
    write_atomic(path, modelfile(tokenizer, template, stop_ids, context_length))
    return tuple(notes)


def modelfile(tokenizer: Tokenizer, template: str | None, stop_ids: Collection[int], context_length: int) -> str:
    """Return the text of a Modelfile.

    Args:
        tokenizer: the tokenizer of the GGUF file.
        template: the template in Go's language; None leaves it to ollama.
        stop_ids: the tokens that end a text.
        context_length: that of the model.
    """
    lines = [f"FROM ./{GGUF_FILE}"]
    if template is not None:
        if tokenizer.adds_bos:  # ollama writes it by the flag in the GGUF file
            template = template.removeprefix(begin_name(tokenizer))
        lines.append(f"TEMPLATE {QUOTES}{template}{QUOTES}")
    names = sorted(tokenizer.backend.id_to_token(id) or "" for id in stop_ids)
    lines += [f'PARAMETER stop "{name}"' for name in names if name and '"' not in name]
    lines += [f"PARAMETER temperature {TEMPERATURE}", f"PARAMETER num_ctx {context_length}"]
    return "\n".join(lines) + "\n"
