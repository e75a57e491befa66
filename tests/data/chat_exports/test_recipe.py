"""Exported chats become conversations, and everything that does not is counted."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gptcli.cli.data import data_app
from gptcli.data.chat_exports.recipe import ExportRecipe, ExportReport, write_conversations
from gptcli.errors import DataError, GptcliError, UsageError

ANDROID = """\
31.12.23, 21:14 - Nachrichten und Anrufe sind Ende-zu-Ende-verschlüsselt.
31.12.23, 21:15 - Ben: Kommst du: morgen?
31.12.23, 21:15 - Ben: Ich koche
Suppe.
31.12.23, 21:16 - Ada: Ja.
31.12.23, 21:17 - Ada: <Medien ausgeschlossen>
31.12.23, 21:18 - Ben: IMG-20231231-WA0001.jpg (Datei angehängt)
31.12.23, 21:18 - Ben: IMG-20231231-WA0002.jpg (Datei angehängt)
Das ist der Topf.
31.12.23, 21:19 - Ada: Groß! \u200e<Diese Nachricht wurde bearbeitet.>
01.01.24, 09:00 - Ada: Guten Morgen
01.01.24, 09:01 - Ben: Diese Nachricht wurde gelöscht.
01.01.24, 09:02 - Ben: Bis gleich
"""
ANDROID_TURNS = [
    ("user", "Kommst du: morgen?\nIch koche\nSuppe."),
    ("assistant", "Ja."),
    ("user", "Das ist der Topf."),
    ("assistant", "Groß!"),
]


def made(tmp_path: Path, name: str, content: str | bytes, me: str = "Ada", **changes: Any) -> tuple[list, ExportReport]:
    """The conversations of an export as (role, content) pairs, and what is said of them."""
    path, out = tmp_path / name, tmp_path / "out" / "chats.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    report = write_conversations([str(path)], ExportRecipe(me, 6 * 3600.0, 2)._replace(**changes), out, force=True)
    rows = [json.loads(line)["messages"] for line in out.read_text(encoding="utf-8").splitlines()]
    return [[(message["role"], message["content"]) for message in messages] for messages in rows], report


def test_a_chat_of_whatsapp_becomes_turns_and_the_rest_is_counted(tmp_path: Path) -> None:
    found, report = made(tmp_path, "chat.txt", ANDROID)
    assert found == [ANDROID_TURNS]
    assert report.as_dict() == {
        "chats": 1,
        "messages": 7,
        "conversations": 1,
        "turns": 4,
        "left_out": {
            "attachment or notice without text": 2,
            "line of WhatsApp itself": 1,
            "deleted message": 1,
            "message before the first of the others": 1,
            "message without an answer": 1,
        },
    }


LOCALES = {
    "iOS, 24 hours": "[{d}.{m}.{y}, 21:15:03] Ben: Hi\n[{d}.{m}.{y}, 21:16:03] Ada: Ho\n",
    "iOS, 12 hours": "[{m}/{d}/{y}, 9:15:03\u202fPM] Ben: Hi\n[{m}/{d}/{y}, 9:16:03\u202fPM] Ada: Ho\n",
    "Android, United States": "{m}/{d}/{y}, 9:15\u202fPM - Ben: Hi\n{m}/{d}/{y}, 9:16\u202fPM - Ada: Ho\n",
    "Android, Great Britain": "{d}/{m}/20{y}, 21:15 - Ben: Hi\n{d}/{m}/20{y}, 21:16 - Ada: Ho\n",
    "Android, Spanish": "{d}/{m}/{y}, 9:15 p. m. - Ben: Hi\n{d}/{m}/{y}, 9:16 p. m. - Ada: Ho\n",
    "Android, Sweden": "20{y}-{m}-{d} 21:15 - Ben: Hi\n20{y}-{m}-{d} 21:16 - Ada: Ho\n",
    "Android, Netherlands": "{d}-{m}-20{y} 21:15 - Ben: Hi\n{d}-{m}-20{y} 21:16 - Ada: Ho\n",
    "Android, French": "{d}/{m}/20{y} à 21:15 - Ben: Hi\n{d}/{m}/20{y} à 21:16 - Ada: Ho\n",
    "Android, Italian": "{d}/{m}/{y}, 21.15 - Ben: Hi\n{d}/{m}/{y}, 21.16 - Ada: Ho\n",
    "line ends of Windows": "[{d}.{m}.{y}, 21:15:03] Ben: Hi\r\n[{d}.{m}.{y}, 21:16:03] Ada: Ho\r\n",
    "marks": "\u200e[{d}.{m}.{y}, 21:15:03] Ben: Hi\n[{d}.{m}.{y}, 21:16:03] ~\u202fAda: Ho\n",
}


@pytest.mark.parametrize("locale", LOCALES)
def test_dates_of_every_locale_are_read_and_a_pause_begins_a_conversation(tmp_path: Path, locale: str) -> None:
    text = "\ufeff" + "".join(LOCALES[locale].format(d=day, m="02", y="24") for day in ("01", "02", "03"))
    found, _ = made(tmp_path, "chat.txt", text)
    assert found == [[("user", "Hi"), ("assistant", "Ho")]] * 3
    joined, _ = made(tmp_path, "chat.txt", text, gap=2 * 86400.0)
    assert joined == [[("user", "Hi"), ("assistant", "Ho")] * 3]


def test_notices_and_attachments_of_ios_are_no_messages(tmp_path: Path) -> None:
    text = (
        "[31.12.23, 21:14:03] Chor: \u200eMessages and calls are end-to-end encrypted.\n"
        '[31.12.23, 21:14:04] Ada changed the subject to "Tea: at five"\n'
        "[31.12.23, 21:15:03] Ben: Hi\n"
        "\u200e[31.12.23, 21:15:09] Ben: \u200eimage omitted\n"
        "\u200e[31.12.23, 21:15:10] Ben: \u200e<attached: 00000012-PHOTO-2023-12-31.jpg>\n"
        "[31.12.23, 21:15:20] Carla: Hi\n"
        "[31.12.23, 21:16:03] Ada: Ho\n"
    )
    found, report = made(tmp_path, "chat.txt", text)
    assert found == [[("user", "Ben: Hi\nCarla: Hi"), ("assistant", "Ho")]]
    assert report.left_out == {"attachment or notice without text": 3, "line of WhatsApp itself": 1}


def test_an_export_in_a_zip_file_is_read_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "chat.zip", "w") as archive:
        archive.writestr("_chat.txt", ANDROID)
        archive.writestr("IMG.jpg", b"\xff\xd8")
    found, _ = made(tmp_path, "chat.zip", (tmp_path / "chat.zip").read_bytes())
    assert found == [ANDROID_TURNS]


def of_telegram(sender: str | None, text: Any, minute: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "message", "date": f"2024-02-03T21:{minute:02}:00", "from": sender, "text": text, **more}


def test_a_chat_of_telegram_is_read_with_its_links_and_without_what_others_wrote(tmp_path: Path) -> None:
    messages = [
        {"type": "service", "date": "2024-02-03T20:00:00", "actor": "Ben", "action": "phone_call", "text": ""},
        of_telegram("Ben", ["See ", {"type": "link", "text": "a.org"}, "."]),
        of_telegram("Ben", "", 1, photo="a.jpg"),
        of_telegram("Ben", "an old joke", 2, forwarded_from="Zoe"),
        of_telegram(None, "gone", 3),
        of_telegram("Ada", "Nice!", 4),
    ]
    chat = {"name": "Ben", "type": "personal_chat", "messages": messages}
    turns = [("user", "See a.org."), ("assistant", "Nice!")]
    found, report = made(tmp_path, "result.json", json.dumps(chat))
    assert found == [turns]
    assert sorted(report.left_out) == [
        "attachment without text",
        "forwarded message",
        "line of Telegram itself",
        "message of a deleted account",
    ]
    everything = {"about": "", "chats": {"about": "", "list": [chat, {**chat, "name": "again"}]}}
    found, report = made(tmp_path, "all.json", json.dumps(everything))
    assert found == [turns, turns] and report.chats == 2


MBOX = """\
From ben@example.org Sat Feb  3 09:00:00 2024
From: Ben <ben@example.org>
To: ada@example.org
Subject: Soup
Date: Sat, 3 Feb 2024 09:00:00 +0100
Message-ID: <1@example.org>
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Hello Ada,
how do you make Brühe?
>From the bones alone?

--\x20
Ben Example
Some Street 1

From ada@example.org Mon Feb  5 18:00:00 2024
From: "Ada" <Ada@Example.org>
Subject: Re: Soup
Date: Mon, 5 Feb 2024 17:00:00 +0000
Message-ID: <2@example.org>
In-Reply-To: <1@example.org>
Content-Type: multipart/alternative; boundary=b

--b
Content-Type: text/plain; charset=utf-8

With bones.

> how do you make broth?

And an onion.

On Sat, 3 Feb 2024 at 09:00, Ben <ben@example.org>
wrote:
> Hello Ada,
> how do you make broth?

--b
Content-Type: text/html

<p>With bones.</p>
--b--

From ben@example.org Mon Feb  5 19:00:00 2024
From: ben@example.org
Subject: AW: Soup
Date: Mon, 5 Feb 2024 19:00:00 +0000
Message-ID: <3@example.org>
References: <1@example.org> <2@example.org>
Content-Type: text/html; charset=iso-8859-1

<html><head><style>p {}</style></head><body><p>How long?</p>
<div>On Monday, Ada wrote:<blockquote>With bones.</blockquote></div></body></html>

From ada@example.org Mon Feb  5 20:00:00 2024
From: ada@example.org
Subject: Re: Soup
Date: Mon, 5 Feb 2024 20:00:00 +0000
Message-ID: <4@example.org>
References: <1@example.org> <2@example.org> <3@example.org>

An hour.

-----Original Message-----
From: Ben
Sent: Monday
How long?

From news@example.org Mon Feb  5 20:00:00 2024
From: news@example.org
Subject: Offers
Date: Mon, 5 Feb 2024 20:00:00 +0000
List-Unsubscribe: <mailto:x@example.org>

Buy soup!

From ben@example.org Mon Feb  5 20:00:00 2024
From: ben@example.org
Subject: no date

Hi
"""


def test_e_mails_become_threads_without_quotes_and_signatures(tmp_path: Path) -> None:
    found, report = made(tmp_path, "box", MBOX, me="ada@example.org")
    assert found == [
        [
            ("user", "Hello Ada,\nhow do you make Brühe?\nFrom the bones alone?"),
            ("assistant", "With bones.\n\nAnd an onion."),
            ("user", "How long?"),
            ("assistant", "An hour."),
        ]
    ]
    assert {kind: count for kind, count in report.left_out.items() if count} == {
        "quoted line": 3 + 2 + 2 + 4,
        "line of a signature": 3,
        "e-mail that a program sent": 1,
        "e-mail without a sender or a date": 1,
    }


def test_damaged_e_mails_are_counted(tmp_path: Path) -> None:
    nested = "".join(f'Content-Type: multipart/mixed; boundary="{n}"\n\n--{n}\n' for n in range(500))
    date = "From: c@example.org\nDate: Mon, 5 Feb 2024 20:00:00 +0000\n"
    damaged = [
        f"{date}Content-Type: multipart/mixed\n\nno boundary\n",
        f"{date}{nested}",
        f"{date}Content-Type: text/plain; charset=none-such\n\nHallo\n",
        f"{date}Content-Type: text/html\n\n{'<b>' * 100_000}\n",
    ]
    box = MBOX + "".join(f"\nFrom c@example.org Mon Feb  5 20:00:00 2024\n{mail}" for mail in damaged)
    found, report = made(tmp_path, "box", box, me="ada@example.org")
    assert len(found) == 1
    whole = made(tmp_path, "box", MBOX, me="ada@example.org")[1]
    more = report.left_out - whole.left_out
    assert sum(more.values()) == len(damaged), more


def test_short_conversations_are_left_out_on_demand(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no conversation is left of 7 messages \(.*5 x message in a short one"):
        made(tmp_path, "chat.txt", ANDROID, min_turns=6)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "me", "error", "message"),
    [
        ("a.txt", ANDROID, "ada", UsageError, r"called 'ada'; they are written by .*'Ada' \(3 messages\).*--me Ada$"),
        ("a.txt", "31.12.23, 21:14 - Ben Müller: x\n", "Ada", UsageError, r"assistant: --me 'Ben Müller'$"),
        ("a.txt", "It rains.\n", "Ada", DataError, "a.txt is no export of a chat"),
        ("a.txt", "", "Ada", DataError, "a.txt is no export of a chat"),
        ("a.txt", "31.12.23, 21:14 - Encrypted\n", "Ada", DataError, "hold no message that a person wrote"),
        ("a.txt", "31.13.23, 21:14 - Ada: x\n", "Ada", DataError, r"the date 31\.13\.23, which does not exist"),
        ("a.txt", b"31.12.23, 21:14 - Ada: \xff\n", "Ada", DataError, "a.txt is not UTF-8"),
        ("a.json", '{"name": 1}', "Ada", DataError, "a.json is JSON, and no export of Telegram"),
        ("a.json", '{"name": ', "Ada", DataError, "a.json is not JSON"),
        ("a.json", '{"messages": [{"type": "message", "from": "Ada", "text": "x"}]}', "Ada", DataError, "has no date"),
        ("a.json", r'{"messages": [{"type": "message", "text": "\ud83d"}]}', "Ada", DataError, "half a surrogate pair"),
        ("a.zip", b"PK\x05\x06" + bytes(18), "Ada", DataError, "a.zip holds no text"),
        ("a.mbox", "From x\n\nno header\n", "Ada", DataError, "hold no message that a person wrote"),
    ],
)
def test_what_is_no_export_gives_one_line(
    tmp_path: Path, name: str, content: str | bytes, me: str, error: type[GptcliError], message: str
) -> None:
    with pytest.raises(error, match=message) as failure:
        made(tmp_path, name, content, me)
    assert "\n" not in str(failure.value)


def test_the_command_prints_what_it_made_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "chat.txt").write_text(ANDROID, encoding="utf-8")
    command = ["conversations", str(tmp_path / "chat.txt"), "--me", "Ada", "--out", str(tmp_path / "chats.jsonl")]
    shown = CliRunner().invoke(data_app, command, catch_exceptions=False).output
    assert "7 messages of 1 chat: 1 conversation of 4 turns" in shown and "1 x deleted message" in shown
    report = json.loads(CliRunner().invoke(data_app, [*command, "--gap", "1d", "--json", "--force"]).output)
    assert report["conversations"] == 1 and report["turns"] == 4 and report["messages"] == 7
    again = CliRunner().invoke(data_app, command)
    assert isinstance(again.exception, UsageError) and "chats.jsonl exists already" in str(again.exception)
    of_folder = CliRunner().invoke(data_app, [*command[:-1], str(tmp_path), "--force"])
    assert "is a directory" in str(of_folder.exception)
    refused = CliRunner().invoke(data_app, [*command, "--gap", "soon"])
    assert "--gap 'soon' is not a duration" in str(refused.exception)
