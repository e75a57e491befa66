"""The way from exported chats to conversations for training, in which one person is the assistant.

The messages of all others are the user's; if there are several others, each begins with its sender's name.
Consecutive messages of one side are one turn, joined by line ends. A pause begins a new conversation. A conversation
begins with the first turn of the others and ends with the last one of the assistant.
"""

from __future__ import annotations

import difflib
import itertools
import shlex
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from gptcli import strict_json
from gptcli.console import quantity
from gptcli.data.chat_exports.chat import Chat, ChatMessage
from gptcli.data.chat_exports.mail import mail_chats
from gptcli.data.chat_exports.telegram import telegram_chats
from gptcli.data.chat_exports.whatsapp import is_whatsapp, whatsapp_chat
from gptcli.data.decoding import Decoding, read_text
from gptcli.data.example_rows import whole
from gptcli.data.messages import Message
from gptcli.errors import DataError, UsageError
from gptcli.storage import LARGE, open_regular, storage_errors, write_atomic

BEFORE, AFTER, SHORT = "message before the first of the others", "message without an answer", "message in a short one"
SHOWN_NAMES = 12
NO_EXPORT = (
    "name a text that WhatsApp exports (Export chat, Without media), a result.json of Telegram Desktop, or an mbox file"
)


class ExportRecipe(NamedTuple):
    """Who the assistant is, and where a conversation ends.

    Attributes:
        me: the person whose messages are the assistant's.
        gap: the seconds of a pause that begins a new conversation.
        min_turns: the fewest turns of a conversation that is kept.
    """

    me: str
    gap: float
    min_turns: int


@dataclass
class ExportReport:
    """The counts of what was read, written and left out, for people and as JSON."""

    chats: int = 0
    messages: int = 0
    conversations: int = 0
    turns: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by their names."""
        return {**vars(self), "left_out": {kind: count for kind, count in self.left_out.most_common() if count}}

    def lines(self) -> list[str]:
        """Return the numbers as lines for people."""
        about = f"{quantity(self.messages, 'message')} of {quantity(self.chats, 'chat')}"
        made = f"{quantity(self.conversations, 'conversation')} of {quantity(self.turns, 'turn')}"
        left = [f"  {count:,} x {kind}" for kind, count in self.left_out.most_common() if count]
        return [f"{about}: {made}", *(["left out:"] if left else []), *left]


def write_conversations(
    exports: Sequence[str], recipe: ExportRecipe, out: Path, *, force: bool = False
) -> ExportReport:
    """Write the conversations in exported chats as JSON lines; an existing file is replaced only with `force`.

    Raises:
        DataError: an export cannot be read, or no conversation is left.
        UsageError: `out` exists, or nobody in the chats has the name of the assistant; the message lists the names.
        StorageError: the file cannot be written.
    """
    if out.exists() and not out.is_file():
        raise UsageError(f"{out} is a directory, a device or a pipe", "name a file with --out")
    if out.exists() and not force:
        raise UsageError(f"{out} exists already", "add --force to replace it, or choose another --out")
    chats = [chat for export in exports for chat in read_export(Path(export), export)]
    require_sender(chats, recipe.me)
    report = ExportReport()
    rows = []
    for chat in chats:
        report.chats += bool(chat.messages)
        report.messages += len(chat.messages)
        report.left_out.update(chat.left_out)
        for messages in conversations(chat, recipe, report.left_out):
            report.conversations += 1
            report.turns += len(messages)
            rows.append(strict_json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    if not rows:
        left = ", ".join(f"{count:,} x {kind}" for kind, count in report.left_out.most_common() if count)
        raise DataError(
            f"no conversation is left of {quantity(report.messages, 'message')} ({left})",
            "name the person who answers with --me, or allow longer pauses with --gap",
        )
    with storage_errors(out, "write"):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, "".join(rows))
    return report


def read_export(path: Path, name: str) -> list[Chat]:
    """Return the chats in an export, whose format is recognised by its content.

    Raises:
        DataError: it is no export in a known format.
    """
    with storage_errors(name, "read"), open_regular(path) as file:
        begins = file.read(5)
        if zipfile.is_zipfile(file):
            return [chat for member, text in texts_in_zip(file, name) for chat in chats_in_text(text, member)]
    if begins == b"From ":
        return mail_chats(path, name)
    return chats_in_text("".join(read_text(path, name, Decoding())), name)


def texts_in_zip(file: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Iterate over the names and the contents of the texts in a zip file, as WhatsApp exports one."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if one.filename.endswith((".txt", ".json"))]
            if sum(one.file_size for one in members) > LARGE:
                raise DataError(f"{name} holds more than {LARGE:,} bytes of text", "extract it, and name its texts")
            if not members:
                raise DataError(f"{name} holds no text", NO_EXPORT)
            for member in members:
                yield f"{member.filename} in {name}", archive.read(member).decode("utf-8-sig")
    except (zipfile.BadZipFile, UnicodeDecodeError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} cannot be extracted: {error}", "extract it yourself, and name its text") from error


def chats_in_text(text: str, name: str) -> list[Chat]:
    """Return the chats in a text or in JSON."""
    if text.lstrip().startswith(("{", "[")) and not is_whatsapp(text):
        try:
            export = strict_json.parse(text)
        except ValueError as error:
            raise DataError(f"{name} is not JSON: {error}", "export the chat again") from error
        return telegram_chats(whole(export, name, Decoding()), name)
    if not is_whatsapp(text):
        raise DataError(f"{name} is no export of a chat: no line begins with a time and a name", NO_EXPORT)
    return [whatsapp_chat(text, name)]


def require_sender(chats: Sequence[Chat], me: str) -> None:
    """Raise a UsageError with the names in the chats if `me` is none of them."""
    names = Counter(message.sender for chat in chats for message in chat.messages)
    if me in names:
        return
    if not names:
        raise DataError("the exports hold no message that a person wrote", NO_EXPORT)
    shown = ", ".join(f"{name!r} ({quantity(count, 'message')})" for name, count in names.most_common(SHOWN_NAMES))
    typed = difflib.get_close_matches(me.casefold(), {name.casefold() for name in names}, 1)
    likely = next((name for name in names if [name.casefold()] == typed), names.most_common(1)[0][0])
    more = f" and {len(names) - SHOWN_NAMES:,} others" * (len(names) > SHOWN_NAMES)
    raise UsageError(
        f"nobody in the chats is called {me!r}; they are written by {shown}{more}",
        f"name the person who is to be the assistant: --me {shlex.quote(likely)}",
    )


def conversations(chat: Chat, recipe: ExportRecipe, left_out: Counter[str]) -> Iterator[list[Message]]:
    """Iterate over the conversations of a chat; messages that are in none are counted in `left_out`."""
    others = {message.sender for message in chat.messages} - {recipe.me}
    for session in sessions(chat, recipe.gap):
        sides = [(is_me, list(group)) for is_me, group in itertools.groupby(session, lambda m: m.sender == recipe.me)]
        if sides and sides[0][0]:
            left_out[BEFORE] += len(sides.pop(0)[1])
        if sides and not sides[-1][0]:
            left_out[AFTER] += len(sides.pop()[1])
        if len(sides) < max(recipe.min_turns, 2):
            left_out[SHORT] += sum(len(group) for _, group in sides)
            continue
        yield [
            {"role": "assistant" if is_me else "user", "content": turn(group, len(others) > 1 and not is_me)}
            for is_me, group in sides
        ]


def sessions(chat: Chat, gap: float) -> Iterator[list[ChatMessage]]:
    """Iterate over the stretches of a chat without a pause of `gap` seconds; a thread of e-mails is one."""
    session: list[ChatMessage] = []
    for message in chat.messages:
        if session and not chat.is_thread and (message.time - session[-1].time).total_seconds() >= gap:
            yield session
            session = []
        session.append(message)
    if session:
        yield session


def turn(messages: Sequence[ChatMessage], is_named: bool) -> str:
    """Return consecutive messages of one side as one text."""
    return "\n".join(f"{message.sender}: {message.text}" if is_named else message.text for message in messages)
