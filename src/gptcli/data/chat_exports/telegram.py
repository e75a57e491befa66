"""Chats that Telegram Desktop exports as JSON: result.json of one chat, or of all."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

from gptcli.data.chat_exports.chat import Chat, ChatMessage
from gptcli.errors import DataError

SERVICE, MEDIA, FORWARDED, NAMELESS = (
    "line of Telegram itself",
    "attachment without text",
    "forwarded message",
    "message of a deleted account",
)


def telegram_chats(export: Any, name: str) -> list[Chat]:
    """Return the chats in an export.

    Raises:
        DataError: the JSON is no export of Telegram.
    """
    chats = [export]
    if isinstance(export, dict) and isinstance(export.get("chats"), dict):
        chats = export["chats"].get("list")
    if not isinstance(chats, list) or not all(map(is_chat, chats)):
        raise DataError(
            f"{name} is JSON, and no export of Telegram",
            "export a chat in Telegram Desktop as machine-readable JSON, and name its result.json",
        )
    return [telegram_chat(chat, name, number) for number, chat in enumerate(chats, 1)]


def is_chat(value: Any) -> bool:
    """Return whether a value is a chat of an export."""
    return isinstance(value, dict) and isinstance(value.get("messages"), list)


def telegram_chat(chat: dict[str, Any], name: str, number: int) -> Chat:
    """Return one chat of an export."""
    title = str(chat.get("name") or f"chat {number} of {name}")
    left_out: Counter[str] = Counter()
    messages = []
    for place, item in enumerate(chat["messages"], 1):
        kind, text = kind_of(item)
        if kind:
            left_out[kind] += 1
        else:
            messages.append(ChatMessage(moment(item, f"message {place} of {title!r} in {name}"), item["from"], text))
    return Chat(title, messages, left_out)


def kind_of(item: Any) -> tuple[str, str]:
    """Return the kind of a message that nobody of the chat wrote ("" for one that somebody did), and the text."""
    if not isinstance(item, dict) or item.get("type") != "message":
        return SERVICE, ""
    if item.get("forwarded_from") or item.get("forwarded_from_id"):
        return FORWARDED, ""
    parts = item.get("text", "")
    parts = parts if isinstance(parts, list) else [parts]
    text = "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in parts).strip()
    if not text:
        return MEDIA, ""
    if not isinstance(item.get("from"), str):
        return NAMELESS, ""
    return "", text


def moment(item: dict[str, Any], place: str) -> datetime.datetime:
    """Return the time of a message. Raises DataError if it has none."""
    try:
        return datetime.datetime.fromisoformat(item["date"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place} has no date", "export the chat again") from error
