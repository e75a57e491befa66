"""Chats that WhatsApp exports as text, on Android and on iOS, in the usual languages.

    31.12.23, 21:15 - Ada: Hello          Android
    [12/31/23, 9:15:03 PM] Ada: Hello     iOS

The format of dates and times follows the telephone's settings. A line that does not begin with a time continues the
message before it.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gptcli.data.chat_exports.chat import Chat, ChatMessage
from gptcli.errors import DataError

MARK = "\u200e"
"""The left-to-right mark, which WhatsApp writes before texts of its own."""
BLANK = "[ \u00a0\u202f]"
START = re.compile(
    rf"{MARK}?(?P<bracket>\[)?(?P<date>\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}})[.,]?{BLANK}(?:\w+{BLANK})?"
    rf"(?P<hour>\d{{1,2}})[:.](?P<minute>\d{{2}})(?:[:.](?P<second>\d{{2}}))?"
    rf"(?:{BLANK}?(?P<half>[ap])\.?{BLANK}?m\.?)?(?(bracket)\]|{BLANK}-) (?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
SENDER = re.compile(r"(?P<sender>[^:\n]{1,100}): ?(?P<text>.*)", re.DOTALL)
EDITED = re.compile(rf" ?(?:{MARK}<[^<>\n]{{1,60}}>|<This message was edited>|<Diese Nachricht wurde bearbeitet\.?>)$")
PLACEHOLDER = re.compile(r"<[^<>\n]{1,60}>")
ATTACHED = re.compile(rf"{MARK}?\S+\.[A-Za-z0-9]{{2,5}} \([^()\n]{{1,40}}\)(?P<caption>\n.*)?", re.DOTALL)
DELETED = frozenset(
    (
        "this message was deleted",
        "you deleted this message",
        "diese nachricht wurde gelöscht",
        "du hast diese nachricht gelöscht",
        "se eliminó este mensaje",
        "eliminaste este mensaje",
        "ce message a été supprimé",
        "vous avez supprimé ce message",
        "questo messaggio è stato eliminato",
        "hai eliminato questo messaggio",
        "esta mensagem foi apagada",
        "você apagou esta mensagem",
        "dit bericht is verwijderd",
        "je hebt dit bericht verwijderd",
    )
)
SYSTEM, MEDIA, REMOVED = "line of WhatsApp itself", "attachment or notice without text", "deleted message"


class Heading(NamedTuple):
    """The beginning of a message: the numbers of its date, its time of day, and the rest of the line."""

    date: tuple[int, int, int]
    time: datetime.time
    has_half: bool
    rest: str


def is_whatsapp(text: str) -> bool:
    """Return whether a text begins as an export of WhatsApp."""
    return any(START.match(line) for line in text.lstrip("\ufeff").splitlines()[:5])


def whatsapp_chat(text: str, name: str) -> Chat:
    """Return the chat in an export.

    Raises:
        DataError: a date does not exist in any order of its numbers.
    """
    found = list(blocks(text))
    order = order_of_dates([line for line, _ in found])
    left_out: Counter[str] = Counter()
    written: list[tuple[datetime.datetime, str, str]] = []
    for line, more in found:
        sent = SENDER.fullmatch("\n".join([line.rest, *more]))
        if sent is None:
            left_out[SYSTEM] += 1
            continue
        written.append((moment(line, order, name), sent["sender"].strip(MARK + " ~\u202f"), sent["text"]))
    names = Counter(sender for _, sender, _ in written)
    messages = []
    for time, sender, content in written:
        kind, text = kind_of(content)
        if is_notice(sender, names):
            kind = SYSTEM
        if kind:
            left_out[kind] += 1
        else:
            messages.append(ChatMessage(time, sender, text))
    return Chat(name, messages, left_out)


def blocks(text: str) -> Iterator[tuple[Heading, list[str]]]:
    """Iterate over the messages: the line that each begins with, and those that continue it."""
    head: Heading | None = None
    more: list[str] = []
    for line in text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"):
        begun = START.fullmatch(line)
        if begun is None:
            more.append(line)
            continue
        if head is not None:
            yield head, more
        head, more = line_of(begun), []
    if head is not None:
        while more and not more[-1].strip():
            more.pop()
        yield head, more


def line_of(begun: re.Match[str]) -> Heading:
    """Return the beginning of a message in numbers."""
    first, second, third = (int(number) for number in re.split(r"[./-]", begun["date"]))
    hour, half = int(begun["hour"]), (begun["half"] or "").lower()
    hour = hour % 12 + 12 * (half == "p") if half else hour
    time = datetime.time(min(hour, 23), min(int(begun["minute"]), 59), min(int(begun["second"] or 0), 59))
    return Heading((first, second, third), time, bool(half), begun["rest"])


def order_of_dates(lines: Sequence[Heading]) -> str:
    """Return the order of year, month and day in the dates of a file, as a permutation of "ymd".

    Where the numbers allow two, it is the one in which the days go back less often, then the one in which they are
    fewer, and then the one that goes with the clock: the month first with a clock of twelve hours.
    """
    if any(line.date[0] > 31 for line in lines):
        return "ymd"
    if any(line.date[0] > 12 for line in lines):
        return "dmy"
    if any(line.date[1] > 12 for line in lines):
        return "mdy"

    def oddity(order: str) -> tuple[int, int]:
        days = [372 * year + 31 * month + day for year, month, day in (in_order(line, order) for line in lines)]
        return sum(later < earlier for earlier, later in itertools.pairwise(days)), max(days) - min(days)

    likely = ("mdy", "dmy") if any(line.has_half for line in lines) else ("dmy", "mdy")
    return min(likely, key=oddity)


def in_order(line: Heading, order: str) -> tuple[int, int, int]:
    """Return year, month and day of a date whose numbers are in this order."""
    year, month, day = (line.date[order.index(part)] for part in "ymd")
    return year, month, day


def moment(line: Heading, order: str, name: str) -> datetime.datetime:
    """Return the time of a message. Raises DataError if its date does not exist."""
    year, month, day = in_order(line, order)
    try:
        return datetime.datetime.combine(datetime.date(year + 2000 * (year < 100), month, day), line.time)
    except ValueError as error:
        written = ".".join(map(str, line.date))
        raise DataError(f"{name} has the date {written}, which does not exist", "correct it in the file") from error


def kind_of(content: str) -> tuple[str, str]:
    """Return the kind of a message that nobody wrote ("" for one that somebody did), and the written text."""
    text = EDITED.sub("", content).strip()
    if text.strip(MARK).rstrip(".").lower() in DELETED:
        return REMOVED, ""
    if attached := ATTACHED.fullmatch(text):
        text = (attached["caption"] or "").strip()
    if not text or text.startswith(MARK) or PLACEHOLDER.fullmatch(text):
        return MEDIA, ""
    return "", text.replace(MARK, "")


def is_notice(sender: str, names: Counter[str]) -> bool:
    """Return whether what stands before a colon is no name but a notice, such as `Ada changed the subject to "Tea`."""
    return names[sender] == 1 and any(sender.startswith(f"{other} ") for other in names if other != sender)
