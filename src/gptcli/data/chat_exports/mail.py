"""E-mails in an mbox file, as threads of what each person wrote, without quoted text and signatures."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import html.parser
import mailbox
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

from gptcli.data.chat_exports.chat import Chat, ChatMessage
from gptcli.storage import storage_errors

QUOTED, SIGNATURE, EMPTY, UNDATED, AUTOMATIC, DAMAGED = (
    "quoted line",
    "line of a signature",
    "e-mail without text of its own",
    "e-mail without a sender or a date",
    "e-mail that a program sent",
    "e-mail that cannot be read",
)
ATTRIBUTION = re.compile(
    r"(?:On\b.{4,200}\bwrote|Am\b.{4,200}\bschrieb.{0,100}|Le\b.{4,200}\ba écrit|El\b.{4,200}\bescribió"
    r"|Il\b.{4,200}\bha scritto|Op\b.{4,200}\bschreef.{0,100}|Em\b.{4,200}\bescreveu)\s?:",
    re.DOTALL,
)
"""The line before quoted text that says who wrote it; it may be broken into two lines."""
ORIGINAL = re.compile(
    r"-{2,}\s*(?:Original Message|Ursprüngliche Nachricht|Message d'origine|Mensaje original|Messaggio originale"
    r"|Forwarded message|Weitergeleitete Nachricht)\s*-{2,}|_{20,}",
    re.IGNORECASE,
)
"""The line before a whole e-mail that is quoted without marks below the answer."""
PREFIX = re.compile(r"^(?:(?:re|aw|fwd?|wg|sv|antw|tr|rv)(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)
ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
"""A line of an e-mail that would begin another one in an mbox file."""
MAX_HTML_CHARACTERS = 1 << 18
"""Longest HTML that is read, since Python's parser of it may take time that grows with the square of its length."""
HIDDEN = frozenset(("style", "script", "head", "blockquote"))
BREAKS = frozenset(("br", "p", "div", "tr", "li", "h1", "h2", "h3", "blockquote"))


def mail_chats(path: Path, name: str) -> list[Chat]:
    """Return the threads in an mbox file, each in the order of the dates.

    Raises:
        StorageError: the file cannot be read.
    """
    left_out: Counter[str] = Counter()
    threads: defaultdict[str, list[ChatMessage]] = defaultdict(list)
    titles: dict[str, str] = {}
    known: dict[str, str] = {}
    for mail in mails(path, name):
        thread = thread_of(mail, known)
        message = written(mail, left_out)
        if message is not None:
            threads[thread].append(message)
            titles.setdefault(thread, subject(mail) or name)
    chats = [Chat(titles[key], sorted(found, key=by_time), Counter(), True) for key, found in threads.items()]
    return [*chats, Chat(name, [], left_out)]


def mails(path: Path, name: str) -> Iterator[EmailMessage]:
    """Iterate over the e-mails in an mbox file."""
    parser = BytesParser(policy=default)
    with storage_errors(name, "read"), contextlib.closing(mailbox.mbox(path, create=False)) as box:
        for key in box.keys():  # noqa: SIM118  # a mailbox is no dict
            try:
                yield parser.parsebytes(ESCAPED.sub(rb"\1", box.get_bytes(key)))
            except RecursionError:  # of parts within parts
                yield EmailMessage()


def by_time(message: ChatMessage) -> datetime.datetime:
    """Return the time of a message."""
    return message.time


def thread_of(mail: EmailMessage, known: dict[str, str]) -> str:
    """Return the name of the thread of an e-mail, and note it in `known` by the e-mail's id.

    It is the thread of one that this answers; without such ids, that of the subject.
    """
    own = header(mail, "Message-ID")
    before = re.findall(r"<[^<>\s]+>", f"{header(mail, 'References')} {header(mail, 'In-Reply-To')}")
    thread = next((known[one] for one in before if one in known), None)
    if thread is None:
        thread = before[0] if before else own or f"subject {subject(mail)}"
    for one in (own, *before):
        if one:
            known.setdefault(one, thread)
    return thread


def subject(mail: EmailMessage) -> str:
    """Return the subject without the marks of an answer."""
    return PREFIX.sub("", header(mail, "Subject")).strip()


def header(mail: EmailMessage, name: str) -> str:
    """Return a header as text; an empty text if it is missing or damaged."""
    try:
        return " ".join(str(mail.get(name, "")).split())
    except Exception:  # email raises whatever a damaged header makes its parsers raise
        return ""


def written(mail: EmailMessage, left_out: Counter[str]) -> ChatMessage | None:
    """Return what the sender of an e-mail wrote; None, counted in `left_out`, if that is nothing."""
    name, address = email.utils.parseaddr(header(mail, "From"))
    time = sent(mail)
    if not (name or address) or time is None:
        left_out[UNDATED] += 1
        return None
    if header(mail, "Auto-Submitted").lower() not in ("", "no") or header(mail, "List-Unsubscribe"):
        left_out[AUTOMATIC] += 1
        return None
    try:
        content = body(mail, left_out)
    except Exception:  # email raises whatever a damaged e-mail makes its parsers raise
        left_out[DAMAGED] += 1
        return None
    text = own_text(content, left_out)
    if not text:
        left_out[EMPTY] += 1
        return None
    return ChatMessage(time, address.lower() or name, text)


def sent(mail: EmailMessage) -> datetime.datetime | None:
    """Return the time of an e-mail in UTC; None if it has none."""
    try:
        time = email.utils.parsedate_to_datetime(header(mail, "Date"))
    except (ValueError, TypeError, IndexError):
        return None
    aware = time if time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)
    return aware.astimezone(datetime.UTC).replace(tzinfo=None)


def body(mail: EmailMessage, left_out: Counter[str]) -> str:
    """Return the text of an e-mail: its plain text, or else the text in its HTML; what that quotes is counted."""
    part = mail.get_body(("plain", "html"))
    if part is None:
        return ""
    content = decoded(part)
    if part.get_content_subtype() != "html":
        return content
    if len(content) > MAX_HTML_CHARACTERS:
        return ""
    reader = HtmlText()
    reader.feed(content)
    reader.close()
    left_out[QUOTED] += reader.quoted
    return "".join(reader.parts)


def decoded(part: Any) -> str:
    """Return the text of a part of an e-mail; bytes that cannot be decoded become U+FFFD."""
    try:
        content = part.get_content()
    except (LookupError, ValueError):  # an encoding that Python does not know
        content = (part.get_payload(decode=True) or b"").decode(errors="replace")
    return content if isinstance(content, str) else ""


class HtmlText(html.parser.HTMLParser):
    """The text in HTML, without that of an e-mail which is quoted, whose lines are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden: list[str] = []
        self.quoted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line, or a part that is not read."""
        if tag in BREAKS:
            self.parts.append("\n")
        if tag in HIDDEN:
            self.hidden.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """End a part that is not read."""
        if tag in self.hidden:
            self.hidden = self.hidden[: self.hidden.index(tag)]

    def handle_data(self, data: str) -> None:
        """Keep or count a stretch of text."""
        if not self.hidden:
            self.parts.append(re.sub(r"\s+", " ", data))
        elif "blockquote" in self.hidden and data.strip():
            self.quoted += 1


def own_text(text: str, left_out: Counter[str]) -> str:
    """Return what the writer of an e-mail wrote; lines that are quoted or a signature are counted in `left_out`."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\xa0", " ").split("\n")]
    end = next((n for n, line in enumerate(lines) if line in ("--", "-- ")), len(lines))
    left_out[SIGNATURE] += sum(bool(line) for line in lines[end:])
    quoted = next((n for n, line in enumerate(lines[:end]) if ORIGINAL.fullmatch(line.strip())), end)
    left_out[QUOTED] += sum(bool(line) for line in lines[quoted:end])
    kept: list[str] = []
    for line in lines[:quoted]:
        if not line.startswith(">"):
            kept.append(line)
            continue
        left_out[QUOTED] += 1
        left_out[QUOTED] += drop_attribution(kept)
    left_out[QUOTED] += drop_attribution(kept)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def drop_attribution(kept: list[str]) -> int:
    """Remove the line before quoted text that says who wrote it, if it is the last one; return the number of lines."""
    last = len(kept)
    while last and not kept[last - 1].strip():
        last -= 1
    for first in (last - 1, last - 2):
        if first >= 0 and ATTRIBUTION.fullmatch(" ".join(kept[first:last]).strip()):
            del kept[first:]
            return last - first
    return 0
