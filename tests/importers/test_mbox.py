# ruff: noqa: RUF001
"""Mailboxes, well-kept and broken, as histories."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from email.header import Header
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task
from ownlm.importers.imported import Imported, pseudonym
from ownlm.importers.mbox import import_mbox
from ownlm.prompt.example import history_examples
from tests.history.files import SECRET
from tests.importers.mailbox_files import BOB, ME, message, write_mailbox, write_messages
from tests.namespace import run_with_mount

TASK = load_task("mail-subject")
FROM = b"From MAILER-DAEMON Mon May  6 10:00:00 2024\n"
Rows = list[dict[str, Any]]
Given = EmailMessage | bytes


def run(file: Path, **how: Any) -> tuple[Imported, Rows]:
    """Imports; what is written can always be read as a history, and every message is counted once."""
    before, out = file.read_bytes(), file.parent / "out.jsonl"
    told: list[tuple[str, float, float]] = []
    imported = import_mbox(
        file, out, progress=lambda stage, done, total, note="": told.append((stage, done, total)), **how
    )
    rows = [json.loads(line) for line in out.read_text("utf8").split("\n")[:-1]]
    assert file.read_bytes() == before
    assert (imported.task, imported.files) == ("mail-subject", [out])
    assert imported.records == dict(Counter(row["user_id"] for row in rows)) and len(imported.records) == 1
    assert all(imported.left_out.values()) and told[-1][0] == "messages"
    assert told[-1][1] == told[-1][2] == len(rows) + sum(imported.left_out.values())
    (history,) = read_dataset(out, TASK).histories
    assert {record.id for record in history.records} == {row["id"] for row in rows} and len(history) == len(rows)
    return imported, rows


def box(tmp_path: Path, *messages: Given) -> Path:
    return write_messages(tmp_path / "some.mbox", messages)


def taken(tmp_path: Path, *messages: Given, **how: Any) -> Rows:
    return run(box(tmp_path, *messages), **{"me": [ME]} | how)[1]


def left_out(tmp_path: Path, *messages: Given, **how: Any) -> dict[str, int]:
    """What is left out of these, next to one message that is not."""
    imported, rows = run(box(tmp_path, message("Kept", "I am kept."), *messages), **{"me": [ME]} | how)
    assert [row["subject"] for row in rows] == ["Kept"]
    return imported.left_out


BEFORE = '{"user_id": "as before"}\n'


def refused(file: Path, out: Path | None = None, **how: Any) -> DataError:
    """Imports what cannot be imported; nothing is written, and nothing that is private is told."""
    out = out or file.parent / "refused.jsonl"
    out.write_text(BEFORE)
    before = set(out.parent.iterdir())
    with pytest.raises(DataError) as caught:
        import_mbox(file, out, **how)
    assert out.read_text() == BEFORE and set(out.parent.iterdir()) == before
    assert "@" not in str(caught.value).replace("ada@example.org", "", 1) and SECRET not in str(caught.value)
    return caught.value


def raw(head: str | bytes, body: str | bytes = b"It rains.") -> bytes:
    """A message as it stands in a file, without the line before it, sent by ME unless it says otherwise."""
    head, body = (part.encode() if isinstance(part, str) else part for part in (head, body))
    sender = b"" if b"From:" in head else b"From: ada@example.org\n"
    return sender + b"To: bob@example.com\n" + head + b"\n\n" + body + b"\n"


def mailbox(tmp_path: Path, *messages: bytes, start: bytes = FROM, name: str = "raw.mbox") -> Path:
    """A mailbox of messages as they are."""
    file = tmp_path / name
    file.write_bytes(b"".join(start + each + b"\n" for each in messages))
    return file


# What becomes of a message


def test_a_message_becomes_a_row(tmp_path: Path) -> None:
    assert taken(tmp_path, message("Rain", "It rains.\n\nBest,\nAda\n-- \nAnalyst", Message_ID="<1@example.org>")) == [
        {
            "user_id": pseudonym(ME),
            "id": sha256(b"1@example.org").hexdigest()[:24],
            "time": "2024-05-06T08:00:00+00:00",
            "text": "It rains.\n\nBest,\nAda",
            "subject": "Rain",
        }
    ]


def test_a_varied_mailbox(tmp_path: Path) -> None:
    file = tmp_path / "some.mbox"
    count = write_mailbox(file, "Ada.L@Example.org")
    imported, rows = run(file, me=["ada.l@example.ORG"])
    assert imported.records == {pseudonym("ada.l@example.org"): count} and count >= 24
    assert imported.left_out == {
        "not sent by you": 2,
        "replies and forwards": 2,
        "without text of their own": 2,
        **dict.fromkeys(("drafts", "automatic", "without a subject", "the same again"), 1),
    }
    for row in rows:
        thing, day = row["subject"].removeprefix("The ").split(" on ")
        assert f"about the {thing}. Is {day} a good day" in row["text"] and row["text"].endswith("See you,\nAda")
    assert len({row["subject"] for row in rows}) == count
    assert {row["text"].partition("\n")[0] for row in rows} >= {
        "Grüß dich Jürgen,",
        "Добрый день, Иван!",
        "Žluťoučký kůň,",
    }


def test_the_task_asks_for_the_subject(tmp_path: Path) -> None:
    run(box(tmp_path, message("Rain", "It rains."), message("Sun", "It shines.", number=1)))
    (history,) = read_dataset(tmp_path / "out.jsonl", TASK).histories
    first = history_examples(TASK, history)[0]
    assert first.prompt.endswith("message: It rains.\nsubject:") and first.answer.strip() == "Rain"
    assert first.prompt.startswith("Write the subject line of the message below")


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (Header("Grüße", "utf-8").encode(), "Grüße"),
        ("=?utf-8?B?R3LDvMOf?= =?utf-8?B?ZSBhdXM=?=\n =?utf-8?Q?_K=C3=B6ln?=", "Grüße aus Köln"),
        ("=?utf-8?B?R3LD?= =?utf-8?B?vMOfZQ==?=", "Grüße"),  # a character in two pieces
        ("Rain =?iso-8859-1?Q?f=FCr?= all =?koi8-r?B?89XQ?=", "Rain für all Суп"),
        ("=?gb2312?B?xOO6ww==?=", "你好"),
        ("=?iso-2022-jp?B?GyRCJDMkcxsoQg==?=", "こん"),
        ("=?us-ascii?Q?=93Rain=94?=", "“Rain”"),
        ("=?x-unknown?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?SJIS?B?h0CCoA==?=", "①あ"),
        ("=?iso-2022-jp?B?GyRCLSEtahsoQg==?=", "①㈱"),
        ("=?euc-cn?B?xOO6ww==?=", "你好"),
        ("=?iso-8859-8-i?B?+ezl7Q==?=", "שלום"),
        ("=?utf-8*de?Q?Gr=C3=BC=C3?= =?UTF-8*de?B?n2U=?=", "Grüße"),
        ("=?shift_jis?B?gqCC?= =?shift_jis?B?og==?=", "あい"),
        ("Rain\n and\n\tsun", "Rain and sun"),
        ("=?utf-8?Q?Rain_and\n sun?=", "Rain and sun"),
        ("Grüße", "Grüße"),
        (b"Gr\xfc\xdfe", "Grüße"),
        (b"Rain \x00\x07and\x1b sun\xc2\x85", "Rain and sun"),
        ("[list] Rain", "[list] Rain"),
        ("Re-reading: a report", "Re-reading: a report"),
        *(
            (fresh, fresh)
            for fresh in ("Ref: 12", "Note: rain", "Todo: soup", "Q: why?", "Minutes: Monday", "Re2", "Tr 5: x")
        ),
        *(
            (fresh, fresh)
            for fresh in ("http://example.org", "10:30 lunch", "[list] Note: rain", "Reg: rain", "Reply: x")
        ),
        ("Reply: yes", "Reply: yes"),
        ("R: a language", "R: a language"),
        ("=?", "=?"),
        ("x" * 998, "x" * 998),
    ],
)
def test_subjects(tmp_path: Path, subject: str | bytes, expected: str) -> None:
    data = subject if isinstance(subject, bytes) else subject.encode()
    _, rows = run(mailbox(tmp_path, raw(b"Subject: " + data)))
    assert rows[0]["subject"] == expected


STATED = "Content-Type: text/plain; charset={}\nContent-Transfer-Encoding: 8bit"


@pytest.mark.parametrize(
    ("charset", "codec", "words"),
    [
        ("koi8-r", "koi8-r", "Привет, мир"),
        ("windows-1251", "cp1251", "Привет, мир"),
        ("Shift_JIS", "cp932", "①こんにちは"),
        ("SJIS", "cp932", "①こんにちは"),
        ("euc-cn", "gb18030", "你好，镕基"),
        ("big5", "cp950", "測試"),
        ("iso-8859-8-i", "iso8859_8", "שלום"),
        ("windows-874", "cp874", "สวัสดี"),
        ("iso-2022-jp", "iso-2022-jp", "こんにちは"),
        ("iso-8859-1", "utf-8", "Привет"),
        ("big5", "utf-8", "Grüße"),
        ("utf-8", "cp1252", "Grüße"),
    ],
)
def test_subjects_of_bytes_are_in_the_charset_of_the_message(
    tmp_path: Path, charset: str, codec: str, words: str
) -> None:
    subject = b"Subject: " + words.encode(codec)
    body = words.encode("utf-8" if charset == "utf-8" else codec)
    whole = raw(b"\n".join((subject, STATED.format(charset).encode())), body)
    head = b'Content-Type: multipart/mixed; boundary="q"'
    parts = b"--q\n" + STATED.format(charset).encode() + b"\n\n" + body + b"\n--q--\n"
    for mail in (whole, raw(b"\n".join((subject, head)), parts)):
        assert [row["subject"] for row in run(mailbox(tmp_path, mail))[1]] == [words]


def test_subjects_of_bytes_are_in_the_charset_that_html_states(tmp_path: Path) -> None:
    subject, body = "Привет".encode("cp1251"), "<html><meta charset=windows-1251><p>Мир".encode("cp1251")
    (row,) = run(mailbox(tmp_path, raw(b"Subject: " + subject + b"\nContent-Type: text/html", body)))[1]
    assert (row["subject"], row["text"]) == ("Привет", "Мир")
    unknown = raw(b"Subject: " + subject + b"\nContent-Type: text/plain; charset=x-foo", body)
    assert left_out(tmp_path, unknown) == {"unreadable: unknown charset x-foo": 1}


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (b"=?x-foo?B?/////w==?=", "unknown charset x-foo"),
        (b"=?utf-8?Q?Gr=FC=DFe?=", "not in the charset stated, utf-8"),
        ("Привет".encode("koi8-r"), "no charset stated, and not UTF-8"),
    ],
)
def test_subjects_that_cannot_be_read_are_counted(tmp_path: Path, subject: bytes, reason: str) -> None:
    assert left_out(tmp_path, raw(b"Subject: " + subject)) == {f"unreadable: {reason}": 1}


def test_texts_that_cannot_be_read_are_counted_by_charset(tmp_path: Path) -> None:
    mail = [raw(f"Subject: {n}\n{STATED.format(f'x-foo{n % 2}')}", "Привет".encode("koi8-r")) for n in range(3)]
    reasons = {"unreadable: unknown charset x-foo0": 2, "unreadable: unknown charset x-foo1": 1}
    assert left_out(tmp_path, *mail) == reasons


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("Mon, 06 May 2024 10:00:00 +0200", "2024-05-06T08:00:00+00:00"),
        ("6 May 2024 10:00", "2024-05-06T10:00:00+00:00"),
        ("Mon, 6 May 24 10:00:00 GMT", "2024-05-06T10:00:00+00:00"),
        ("Mon, 6 May 2024 10:00:00 EST (somewhere)", "2024-05-06T15:00:00+00:00"),
        *((nonsense, None) for nonsense in ("", "yesterday", "Mon, 99 May 2024 99:99:99", "1 Jan 1960 00:00:00 GMT")),
        *((nonsense, None) for nonsense in ("1 Jan 9999999999 00:00:00", "6 May 2024 10:00:00 +99999999", "\x00", "²")),
        ("Thu, 1 Jan 1970 00:00:00 +0000", None),
        ("2024-05-06 10:00:00", "2024-05-06T10:00:00+00:00"),
        ("2024-05-06T10:00:00+02:00", "2024-05-06T08:00:00+00:00"),
        ("2024-05-06 10:00:00 UTC", "2024-05-06T10:00:00+00:00"),
        *((other, None) for other in ("05/06/2024 10:00", "2024-13-06 10:00:00", "2024-05-06")),
    ],
)
def test_times(tmp_path: Path, date: str, expected: str | None) -> None:
    imported, rows = run(mailbox(tmp_path, raw(f"Subject: Rain\nDate: {date}")))
    assert rows[0].get("time") == expected and imported.without_time == (expected is None)


def test_times_without_a_zone_are_utc_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        _, rows = run(mailbox(tmp_path, raw("Subject: Rain\nDate: 6 May 2024 10:00")))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert rows[0]["time"] == "2024-05-06T10:00:00+00:00"


def test_ids(tmp_path: Path) -> None:
    same = [raw(f"Subject: Rain\n{line}") for line in ("Message-ID: <a@b>", "Message-ID: < a@c >\nX: 1")]
    _, rows = run(mailbox(tmp_path, same[0]))
    assert rows[0]["id"] == sha256(b"a@b").hexdigest()[:24]
    none, long = raw("Subject: Rain"), raw(f"Subject: Rain\nMessage-ID: <{'x' * 500}>")
    made = [run(mailbox(tmp_path, each))[1][0]["id"] for each in (none, long, none, raw("Subject: Sun"))]
    assert made[0] == made[2] and len(set(made)) == 3 and {len(id) for id in made} == {24}


def test_the_same_message_twice(tmp_path: Path) -> None:
    def mail(*lines: str, body: str = "It rains.") -> bytes:
        return raw("\n".join(("Subject: Rain", *lines)), body)

    monday, tuesday = "Date: Mon, 6 May 2024 10:00:00 +0000", "Date: Tue, 7 May 2024 10:00:00 +0000"
    file = mailbox(
        tmp_path,
        mail(monday, "Message-ID: <1@x>"),
        mail(monday, "Message-ID: <1@x>", body="It rains.\n\n_____________________\nthe list"),  # as it came back
        mail(monday, "X-Copy: 2"),  # as a program wrote it that keeps no ids
        mail(tuesday, "Message-ID: <2@x>"),  # written again
        mail(tuesday, "Message-ID: <3@x>", body="It rains still."),
    )
    imported, rows = run(file)
    assert [row["id"] for row in rows] == [
        sha256(id).hexdigest()[:24] for id in (b"1@x", b"2@x", b"3@x")
    ] and imported.left_out == {"the same again": 2}


# What is left out


REPLIES = [
    *("Re: Rain", "RE: Rain", "re:Rain", "Re : Rain", "Re[2]: Rain", "Re(3): Rain", "Re^2: Rain", "Re： Rain"),
    *("Fwd: Rain", "FW: Rain", "RE: FW: Rain", "Re: Re: Fwd: Rain", "[Fwd: Rain]", "Rain (fwd)", "Fwd: [Fwd: Rain]"),
    *("AW: Rain", "WG: Rain", "AW: WG: Rain", "Antwort: Rain", "SV: Rain", "VS: Rain", "VB: Rain", "Antw: Rain"),
    *(
        "RV: Rain",
        "TR: Rain",
        "Odp: Rain",
        "RIF: Rain",
        "ENC: Rain",
        "回复: Rain",
        "转发：Rain",
        "答复: Rain",
        "Отв: Rain",
    ),
]


@pytest.mark.parametrize("subject", REPLIES)
def test_replies_and_forwards_only_where_they_are_asked_for(tmp_path: Path, subject: str) -> None:
    body = f"Yes.\n\nOn Monday, Bob <{BOB}> wrote:\n> Rain?\n"
    assert left_out(tmp_path, message(subject, body)) == {"replies and forwards": 1}
    assert [(row["subject"], row["text"]) for row in taken(tmp_path, message(subject, body), replies=True)][-1] == (
        "Rain",
        "Yes.",
    )


IN_THREAD = [
    *(
        "R: Rain",
        "I: Rain",
        "Xx: Rain",
        "Ref: Rain",
        "Hiv: Rain",
        "Ynt : Rain",
        "Atsak: Rain",
        "Rép.: Rain",
        "Xx[2]: Rain",
    ),
    *(
        "Xx：Rain",
        "Одг: Rain",
        "Πρ: Rain",
        "Հղ: Rain",
        "მიმ: Rain",
        "उत्तर: Rain",
        "উত্তর: Rain",
        "பதில்: Rain",
        "ตอบ: Rain",
    ),
    *("Xx: Re: Rain", "Xx(3): Rain", "Xx2: Rain", "ပြန်: Rain", "פר: Rain", "返: Rain"),
]
LISTED = [
    *(
        "Re*2: Rain",
        "Re2: Rain",
        "RE﹕ Rain",
        "Ｒｅ： Rain",
        "ＦＷＤ：Rain",
        "RÉF: Rain",
        "Vá: Rain",
        "ODG: Rain",
        "ATS: Rain",
    ),
    *(
        "İLT: Rain",
        "YNT: Rain",
        "Yanıt: Rain",
        "ΣΧΕΤ: Rain",
        "Απ: Rain",
        "Відп: Rain",
        "ОТГ: Rain",
        "BLS: Rain",
        "TRS: Rain",
    ),
    *(
        "回覆：Rain",
        "轉寄: Rain",
        "返信：Rain",
        "転送: Rain",
        "답장: Rain",
        "رد: Rain",
        "إعادة توجيه: Rain",
        "תגובה: Rain",
    ),
    *(
        "הועבר: Rain",
        "ส่งต่อ: Rain",
        "[list] [x] Re: Rain",
        "【list】Re: Rain",
        "Re: AW: Rain",
        "SV: VS: Rain",
        "FWD: Enc: Rain",
    ),
]


@pytest.mark.parametrize("subject", IN_THREAD + LISTED)
def test_prefixes_of_every_language(tmp_path: Path, subject: str) -> None:
    thread = {} if subject in LISTED else {"In_Reply_To": "<1@x>"}
    assert left_out(tmp_path, message(subject, "Yes.", **thread)) == {"replies and forwards": 1}
    (row,) = taken(tmp_path, message(subject, "Yes.", **thread), replies=True)
    assert row["subject"].removeprefix("[list] [x] ").removeprefix("【list】") == "Rain"
    if subject in IN_THREAD and "Re" not in subject and "ตอบ" not in subject and "Одг" not in subject:
        plain = [{}, {"Thread_Topic": subject}]
        kept = [
            taken(tmp_path, message(subject, "Yes.", **head))[0]["subject"] for head in plain if "Ynt" not in subject
        ]
        assert all(each == subject for each in kept)


def test_other_signs_of_a_thread(tmp_path: Path) -> None:
    signs = ({"References": "<1@x>"}, {"Thread_Topic": "Rain"}, {"X_Forwarded_Message_Id": "<1@x>"})
    for sign in signs:
        assert left_out(tmp_path, message("Xx: Rain", "Yes.", **sign)) == {"replies and forwards": 1}
    rows = taken(tmp_path, message("Re: Note: rain", "Yes.", References="<1@x>"), replies=True)
    assert rows[0]["subject"] == "Note: rain"  # what stands after a known prefix is the subject


def test_more_about_replies(tmp_path: Path) -> None:
    assert left_out(tmp_path, message("R: Rain", "Sì.", In_Reply_To="<1@x>")) == {"replies and forwards": 1}
    assert left_out(tmp_path, message("[list] Re: [list] Rain", "Yes.")) == {"replies and forwards": 1}
    rows = taken(tmp_path, message("[list] Re: Rain", "Yes."), message("New", "No.", References="<1@x>"), replies=True)
    assert {row["subject"] for row in rows} >= {"[list] Rain", "New"}
    quoting = message("Re: Rain", "> Rain?\n", number=7)
    empty = message("Re:", "Yes.", number=8)
    assert left_out(tmp_path, quoting, empty, replies=True) == {
        "without text of their own": 1,
        "without a subject": 1,
    }


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        *(
            ("not sent by you", message("S", "Rain", From=sender))
            for sender in (BOB, f"{ME} <{BOB}>", "ada+x@example.org")
        ),
        ("not sent by you", message("S", "Rain", From=None)),
        ("not sent by you", message("S", "Rain", From="")),
        *(("drafts", message("S", "Rain", X_Gmail_Labels=label)) for label in ("Drafts", "Opened,Draft", "Entwürfe")),
        *(("drafts", message("S", "Rain", Status="T", X_Status=flag)) for flag in ("", "F")),
        ("drafts", message("S", "Rain", Status="RO", X_Status="FT")),
        ("drafts", message("S", "Rain", X_Mozilla_Draft_Info="internal/draft; vcard=0")),
        ("drafts", message("S", "Rain", Date=None, To=None)),
        ("deleted", message("S", "Rain", X_Mozilla_Status="0009")),
        ("deleted", message("S", "Rain", X_Status="AD")),
        *(("deleted", message("S", "Rain", X_Gmail_Labels=label)) for label in ("Sent,Trash", "Gesendet,Papierkorb")),
        ("not sent by you", message("I know what you did", "Pay", X_Gmail_Labels="Spam")),
        ("not sent by you", message("I know what you did", "Pay", X_Spam_Flag="YES")),
        *(("automatic", message("S", "Rain", Auto_Submitted=how)) for how in ("auto-replied", "Auto-Generated; x")),
        *(("automatic", message("S", "Rain", Precedence=how)) for how in ("bulk", "auto_reply", "Junk")),
        ("automatic", message("S", "Rain", X_Autoreply="yes")),
        ("automatic", message("Chat with Bob", "Rain", X_Gmail_Labels="Chat,Sent")),
        ("automatic", raw('Subject: S\nContent-Type: multipart/report; boundary="x"', "--x\n\nRead.")),
        ("automatic", raw("Subject: Accepted: S\nContent-Type: text/calendar; method=REPLY", "BEGIN:VCALENDAR")),
        (
            "automatic",
            raw(
                'Subject: Accepted: S\nContent-Type: multipart/alternative; boundary="x"',
                "--x\n\nI come.\n--x\nContent-Type: text/calendar; method=REPLY\n\nBEGIN:VCALENDAR\n--x--",
            ),
        ),
        ("without a subject", message(None, "Rain")),
        ("without a subject", message("  ", "Rain")),
        ("without a subject", message("(no subject)", "Rain")),
        ("without a subject", raw("Subject: =?utf-8?B?A?= cannot be decoded")),
        ("without text of their own", message("S", "")),
        ("without text of their own", message("S", " \n\t👍 ...\n")),
        ("without text of their own", message("S", "> Rain\n-- \nAda")),
        ("without text of their own", message("S")),
        ("without text of their own", raw("Subject: S\nContent-Type: multipart/mixed", "no boundary")),
        ("without text of their own", raw("Subject: S\nContent-Type: application/pkcs7-mime", "MIIB")),
        ("damaged", b"no header at all\n"),
        ("damaged", b"\n"),
    ],
)
def test_left_out(tmp_path: Path, reason: str, left: Given) -> None:
    assert left_out(tmp_path, left) == {reason: 1}


@pytest.mark.parametrize(
    "kept",
    [
        message("S", "Rain", Auto_Submitted="no"),
        message("S", "Rain", Auto_Submitted="No; sent by hand"),
        message("S", "Rain", Precedence="list"),
        message("S", "Rain", Status="RO", X_Status="A"),
        message("S", "Rain", Status="Total", X_Mozilla_Status="0001"),
        message("S", "Rain", X_Mozilla_Status="8 or so"),
        message("S", "Rain", X_Spam_Flag="NO", X_Gmail_Labels="Trash cans,My drafts"),
        message("S", "Rain", Date=None),
        message("S", "Rain", To=None),
        message("S", "Rain", From=BOB, Sender=f"Ada <{ME.upper()}>"),
        message("S", "Rain", From=f"{BOB}, {ME}"),
        raw("From: =?utf-8?Q?L=2C_Ada?= <ADA@example.ORG>\nSubject: S"),
        raw('From: "Bob <bob@example.com>" <ada@example.org>\nSubject: S'),
        raw('From: "Ada \\"A\\" <b@x>" <ada@example.org>\nSubject: S'),
        raw("From: ada@example.org <ada@example.org>\nSubject: S"),
        raw("From: Ada @ work < Ada@example.org >\nSubject: S"),
        raw("From: ada@example.org (Ada L.)\nSubject: S"),
        raw("Subject: S\nContent-Type: text/calendar; method=REQUEST", "x") + b"",
    ][:-1],
)
def test_taken(tmp_path: Path, kept: Given) -> None:
    assert [row["subject"] for row in taken(tmp_path, kept)] == ["S"]


def test_invitations_are_the_persons_own(tmp_path: Path) -> None:
    head = 'Subject: S\nContent-Type: multipart/alternative; boundary="x"'
    body = "--x\n\nPlease come.\n--x\nContent-Type: text/calendar; method=REQUEST\n\nBEGIN:VCALENDAR\n--x--"
    assert run(mailbox(tmp_path, raw(head, body)))[1][0]["text"] == "Please come."


# Whose mail it is


@pytest.mark.parametrize(
    "label",
    [
        *("Sent", "Opened,Sent,Category Personal", '"Sent"', "Gesendet", "=?UTF-8?Q?Messages_envoy=C3=A9s,Ouvert?="),
        *("Enviados", "Posta inviata", "=?UTF-8?B?6YCB5L+h5riI44G/?=", "=?UTF-8?Q?Wys=C5=82ane,?=\n =?UTF-8?Q?X?="),
        *("=?UTF-8?Q?Ge=C3=B6ffnet,?=\n =?UTF-8?Q?Gesendet?=",),
    ],
)
def test_gmail_says_what_was_sent(tmp_path: Path, label: str) -> None:
    sent = raw(f"Subject: Rain\nX-Gmail-Labels: {label}")
    work = raw(f"From: ada@work.example\nSubject: Work\nX-Gmail-Labels: {label}")
    received = raw(f"From: {BOB}\nSubject: Sun\nX-Gmail-Labels: Inbox,Sent to me")
    itself = raw("Subject: To myself, not sent\nX-Gmail-Labels: Inbox")
    imported, rows = run(mailbox(tmp_path, received, work, sent, raw(f"Subject: R\nX-Gmail-Labels: {label}"), itself))
    assert [row["subject"] for row in rows] == ["Work", "Rain", "R"]
    assert imported.records == {pseudonym(ME): 3} and imported.left_out == {"not sent by you": 2}
    assert len(run(mailbox(tmp_path, received, work, sent), me=["ada@work.example"])[1]) == 1


# How Gmail names sent mail, drafts and the bin.
LANGUAGES = [
    *(("Gesendet", "Entwürfe", "Papierkorb"), ("Messages envoyés", "Brouillons", "Corbeille")),
    *(
        ("Posta inviata", "Bozze", "Cestino"),
        ("Correio enviado", "Rascunhos", "Lixo"),
        ("Wysłane", "Wersje robocze", "Kosz"),
    ),
    *(("Đã gửi", "Bản nháp", "Thùng rác"), ("Thư đã gửi", "Thư nháp", "Thùng rác"), ("Terkirim", "Draf", "Sampah")),
    *(("Poslano", "Skice", "Smeće"), ("Poslana pošta", "Osnutki", "Koš"), ("Послате", "Недовршене", "Отпад")),
    *(("Изпратени", "Чернови", "Кошче"), ("Надіслані", "Чернетки", "Кошик"), ("Odoslaná pošta", "Koncepty", "Kôš")),
    *(("Trimise", "Ciorne", "Coș de gunoi"), ("Saadetud kirjad", "Mustandid", "Prügikast")),
    *(("Išsiųsti laiškai", "Juodraščiai", "Šiukšliadėžė"), ("Nosūtītās vēstules", "Melnraksti", "Miskaste")),
    *(("דואר יוצא", "טיוטות", "אשפה"), ("بريد مرسل", "مسودات", "المهملات"), ("ارسال شده", "پیش‌نویس‌ها", "زباله‌دان")),
    *(("भेजी गई मेल", "ड्राफ़्ट", "ट्रैश"), ("จดหมายที่ส่งแล้ว", "ร่างจดหมาย", "ถังขยะ"), ("已发送", "草稿", "已删除邮件")),
    *(("寄件備份", "草稿", "垃圾桶"), ("보낸편지함", "임시보관함", "휴지통"), ("送信済み", "下書き", "ゴミ箱")),
    *(("Gönderilmiş Postalar", "Taslaklar", "Çöp Kutusu"), ("GÖNDERİLENLER", "TASLAKLAR", "ÇÖP")),
    *(("[Gmail]/Gesendet", "[Gmail]/Entwürfe", "[Google Mail]/Papierkorb"), (r"\\Sent", r"\\Draft", r"\\Trash")),
    *(("Gestuurde pos", "Konsepte", "Asblik"), ("Bidalitakoak", "Zirriborroak", "Zakarrontzia")),
    *(("Xsent", "Xdrafts", "Trash"),),  # a language that is not listed
]


def labelled(subject: str, *labels: str, **head: str | None) -> EmailMessage:
    given = Header(",".join(labels), "utf-8", maxlinelen=60).encode(linesep="")
    return message(subject, f"{subject}.", number=hash(subject) % 3000, X_Gmail_Labels=given, **head)


@pytest.mark.parametrize(("sent", "drafts", "trash"), LANGUAGES)
def test_labels_of_every_language(tmp_path: Path, sent: str, drafts: str, trash: str) -> None:
    file = box(
        tmp_path,
        labelled("Received", "Xinbox", "Xopened", From=BOB),
        *(labelled(f"Sent {n}", sent, "Xopened") for n in range(3)),
        labelled("To myself", sent, "Xinbox"),
        labelled("Draft", drafts, "Xopened"),
        labelled("Another draft", drafts, To=None),
        labelled("Binned", sent, trash),
    )
    listed = sent != "Xsent"
    for me in ([ME], []) if listed else ([ME],):
        imported, rows = run(file, me=me)
        assert {row["subject"] for row in rows} == {"Sent 0", "Sent 1", "Sent 2", "To myself"}
        assert imported.left_out.get("deleted") == 1
        assert imported.labels == {sent: 4, "Xopened": 3, "Xinbox": 1}
    if not listed:
        assert imported.left_out["drafts, by the label Xdrafts"] == 2


def test_what_else_is_labelled_is_no_draft(tmp_path: Path) -> None:
    answer = labelled("An answer", "Xinbox", From=BOB, In_Reply_To="<old@x>")
    kept = [
        labelled("Sent", "Sent", "Work, urgent"),
        labelled("Moved here", "Old mail", Message_ID="<old@x>"),  # somebody answered it
        labelled("From a list", "List", Received="from x by y; Mon, 6 May 2024 10:00:00 +0200"),
        labelled("Quoted", "Sent", '"Plans, Drafts"'),
        message("No label", "None."),
    ]
    assert len(taken(tmp_path, answer, *kept)) == 5
    assert len(taken(tmp_path, *(labelled(f"S {n}", "Xsent") for n in range(3)))) == 3
    assert len(taken(tmp_path, labelled("S", "Xsent", "Xa"), labelled("T", "Xsent", "Xb"))) == 2


@pytest.mark.parametrize(
    "head",
    [
        {"X_Unsent": "1"},
        {"X_Uniform_Type_Identifier": "com.apple.mail-draft"},
        {"X_Draft_Info": "type=reply; uid=1"},
        {"X_GM_Labels": "Draft"},
    ],
)
def test_programs_mark_drafts(tmp_path: Path, head: dict[str, str]) -> None:
    assert left_out(tmp_path, message("S", "Rain", **head)) == {"drafts": 1}


def test_one_single_sender_needs_no_telling(tmp_path: Path) -> None:
    imported, rows = run(box(tmp_path, message("Rain", "Rain."), message("Sun", "Sun.", From=f"A <{ME.upper()}>")))
    assert len(rows) == 2 and imported.records == {pseudonym(ME): 2}


def test_several_senders_need_telling(tmp_path: Path) -> None:
    file = box(tmp_path, *(message("S", SECRET, From=f"{SECRET}{n}@example.org", number=n) for n in range(3)))
    error = refused(file)
    assert error.got == "mail from 3 addresses" and "--me" in str(error.command)
    assert "0 addresses" in str(refused(mailbox(tmp_path, b"no mail at all")))
    both = [f"{SECRET}1@example.org".upper(), f"Ada <{SECRET}2@example.org>"]
    imported, _ = run(file, me=both)
    assert imported.records == {pseudonym(both[0]): 2} and imported.left_out == {"not sent by you": 1}


def test_names_are_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    file = box(tmp_path, message("Rain", "Rain.", From="Ada <Ada@Example.org>"))
    assert run(file, keep_names=True)[1][0]["user_id"] == "ada@example.org"
    assert run(file, keep_names=True, me=["ADA@example.org", BOB])[1][0]["user_id"] == "ada@example.org"


@pytest.mark.parametrize("given", ["", " ", "ada", "<>", "Ada <ada>", "\x00"])
def test_what_is_no_address_is_refused(tmp_path: Path, given: str) -> None:
    assert "not a mail address" in str(refused(box(tmp_path, message("Rain", "Rain.")), me=[given]))


# Files


def test_what_is_no_mailbox(tmp_path: Path) -> None:
    file = tmp_path / f"{SECRET[:1]}.mbox"
    with pytest.raises(DataError, match="There is no file"):
        import_mbox(file, tmp_path / "out.jsonl")
    contents = {
        b"": "an empty file",
        b"\n\nSubject: a\n": "another beginning",
        b"Subject: a single message\n\nIt rains.": "another beginning",
        b'{"user_id": "u"}\n': "another beginning",
        b"from a Mon May  6 10:00:00 2024\n": "another beginning",
        b"\x1f\x8b\x08\x00": "a packed file",
        b"PK\x03\x04": "a packed file",
        bytes(range(256)): "another beginning",
        b"From": "another beginning",
    }
    for content, got in contents.items():
        file.write_bytes(content)
        error = refused(file)
        assert error.got == got and ("unpack" in str(error.hint)) == ("packed" in got)


def test_folders_are_no_mailboxes(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / "mail" / name).mkdir(parents=True)
    assert "Maildir" in str(refused(tmp_path / "mail", tmp_path / "out.jsonl"))
    apple = tmp_path / "Sent.mbox"
    apple.mkdir()
    assert "folder" in str(refused(apple, tmp_path / "out.jsonl"))
    write_messages(apple / "mbox", [message("Rain", "Rain.")])
    assert str(apple / "mbox") in str(refused(apple, tmp_path / "out.jsonl").hint)


def test_pipes_and_devices_are_no_mailboxes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (here, _) = socket.socket(socket.AF_UNIX), None
    here.bind(str(tmp_path / "socket"))
    for file in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
        assert "is not a regular file" in str(refused(file, tmp_path / "out.jsonl"))
    here.close()


def test_the_mailbox_is_not_overwritten(tmp_path: Path) -> None:
    file = box(tmp_path, message("Rain", "Rain."))
    before = file.read_bytes()
    (tmp_path / "link").symlink_to(file)
    os.link(file, tmp_path / "other")
    for out in (file, tmp_path / "link", tmp_path / "other"):
        with pytest.raises(DataError, match="written over the mailbox"):
            import_mbox(file, out)
    assert file.read_bytes() == before
    run(tmp_path / "link")


def test_out_must_be_writable(tmp_path: Path) -> None:
    file = box(tmp_path, message("Rain", "Rain."))
    for out in (tmp_path, tmp_path / "missing" / "out.jsonl"):
        with pytest.raises(DataError, match=r"cannot be written|is a folder"):
            import_mbox(file, out)
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    file = tmp_path / "box" / "some.mbox"
    file.parent.mkdir()
    write_mailbox(file)
    command = ("import", "mbox", str(file), str(tmp_path / "out.jsonl"), "--me", ME)
    run_with_mount('mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"', file.parent, *command)
    assert (tmp_path / "out.jsonl").is_file() and list(file.parent.iterdir()) == [file]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    only = [message("Re: Rain", SECRET, number=n) for n in range(2)] + [message(None, SECRET)]
    error = refused(box(tmp_path, *only))
    assert error.got == "left out: 2 replies and forwards, 1 without a subject" and "--replies" in str(error.command)
    others = refused(box(tmp_path, *only), me=["bela@example.org"])
    assert str(others.got).endswith("3 not sent by you") and others.hint == "check the owner's address"


# Mailboxes that are not as they should be


def test_lines_that_begin_with_from(tmp_path: Path) -> None:
    body = "Hello,\nFrom here on it rains.\n\nFrom my window: rain.\nFrom Monday 10:00 to 12:00: sun.\n\nFrom\nBye\n"
    assert taken(tmp_path, message("Rain", body))[0]["text"] == body.strip()  # as the library escapes it
    _, rows = run(mailbox(tmp_path, raw("Subject: Rain", body), raw("Subject: Sun")))  # as some do not
    assert [row["subject"] for row in rows] == ["Rain", "Sun"] and rows[0]["text"] == body.strip()
    quoted = ">From me.\n>>From you.\n> From him."
    assert run(mailbox(tmp_path, raw("Subject: Rain", quoted)))[1][0]["text"] == "From me."
    last = mailbox(tmp_path, raw("Subject: Rain", "It rains.\nFrom where?"))
    last.write_bytes(last.read_bytes().rstrip())
    assert run(last)[1][0]["text"] == "It rains.\nFrom where?"


@pytest.mark.parametrize(
    "line",
    [
        "From here it goes on, said Bob.\nfoo: bar",
        "From here it goes on, said Bob.\nSubject: none",
        "From me at 10:00 Mon\nend",
        "From Bob on Mon at 10:00\nend",
        "From Mon, 10:00, it rains\nfoo: bar",
        "From what I know of Mon May 6 10:00:00 2024\nend",
        "From here\nfoo: bar",
        "From: Bob\nSubject: Sun",
        "From bob@example.com I know this.\nend: now",
    ],
)
def test_lines_of_text_that_begin_with_from_after_a_blank_line(tmp_path: Path, line: str) -> None:
    body = f"Hello,\n\n{line}\n\nMore of it."
    _, rows = run(mailbox(tmp_path, raw("Subject: Rain", body), raw("Subject: Sun")))
    assert [row["subject"] for row in rows] == ["Rain", "Sun"] and rows[0]["text"].startswith("Hello,\n\nFrom")
    assert rows[0]["text"].endswith("More of it.")


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n \n", b"\n" * 5000])
def test_a_mailbox_that_begins_with_a_mark_or_blank_lines(tmp_path: Path, before: bytes) -> None:
    file = mailbox(tmp_path, raw("Subject: Rain"), raw("Subject: Sun"))
    file.write_bytes(before + file.read_bytes())
    assert [row["subject"] for row in run(file)[1]] == ["Rain", "Sun"]


@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "UTF-16BE", "utf-32", "ucs-2", "ibm037", "hz-gb-2312"])
def test_ascii_headers_are_not_in_the_charset_of_the_body(tmp_path: Path, charset: str) -> None:
    codec = {"ucs-2": "utf-16", "ibm037": "cp037", "hz-gb-2312": "hz"}.get(charset, charset)
    body = base64.b64encode("It rains.".encode(codec))
    head = f"Subject: The ~{{rain~~\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: base64"
    (row,) = taken(tmp_path, raw(head, body))
    assert (row["subject"], row["text"]) == ("The ~{rain~~", "It rains.")


@pytest.mark.parametrize(
    "start",
    [
        b"From ada at example.org  Mon May  6 10:00:00 2024\n",
        b"From MAILER-DAEMON@localhost Mon May  6 10:00 CEST 2024\n",
        b"From Ada Lovelace Mon May  6 10:00:00 2024\n",
        b"From ada@example.org 2024-05-06 10:00:00\n",
        b"From ada@example.org  Mon May  6 10:00:00 2024 remote from host\n",
        b"From - Mon May 06 10:00:00 2024\n",
        b"From 1798000000000000000@xxx Mon May 06 10:00:00 +0000 2024\n",
        b"From ada@example.org Mon, 6 May 2024 10:00:00 +0000\n",
        b"From ???@??? Mon May 06 10:00:00 2024\n",
        b"From \n",
        b"From ada\n",
        b"From ada@example.org\r\n",
        b"From " + b"x" * 200_000 + b"\n",
    ],
)
def test_the_line_between_messages_comes_in_many_forms(tmp_path: Path, start: bytes) -> None:
    _, rows = run(mailbox(tmp_path, raw("Subject: Rain"), raw("Subject: Sun"), raw("Subject: Snow"), start=start))
    assert [row["subject"] for row in rows] == ["Rain", "Sun", "Snow"]
    assert {row["text"] for row in rows} == {"It rains."}


def test_messages_without_a_blank_line_between_them(tmp_path: Path) -> None:
    file = tmp_path / "some.mbox"
    file.write_bytes(FROM + raw("Subject: Rain") + FROM + raw("Subject: Sun") + FROM)
    rows = run(file)[1]
    assert [(row["subject"], row["text"]) for row in rows] == [("Rain", "It rains."), ("Sun", "It rains.")]


def test_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "some.mbox"
    write_mailbox(file)
    expected = run(file, me=[ME])[1]
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert run(file, me=[ME])[1] == expected


def test_a_mailbox_that_was_cut(tmp_path: Path) -> None:
    file = tmp_path / "whole.mbox"
    write_mailbox(file)
    whole, expected = file.read_bytes(), run(file, me=[ME])[1]
    cut = tmp_path / "cut.mbox"
    for end in [*range(1400, len(whole), 1009), len(whole) - 1]:
        cut.write_bytes(whole[:end])
        _, rows = run(cut, me=[ME])
        assert rows[:-1] == expected[: len(rows) - 1]
        assert expected[len(rows) - 1]["text"].startswith(rows[-1]["text"][:30])


def test_a_text_with_nul_bytes_and_halves_of_characters(tmp_path: Path) -> None:
    body = b"It\x00rains.\n\xff\xfe\xed\xa0\x80\x1b[31m"
    _, rows = run(mailbox(tmp_path, raw(b"Subject: Ra\x00in", b"It\x00rains.\n\x1b[31m")))
    assert rows[0]["subject"] == "Ra in" and rows[0]["text"] == "It rains.\n[31m"
    head = b"Subject: Ra\x00in\nContent-Type: text/plain; charset=utf-7"
    assert left_out(tmp_path, raw(head, body)) == {"unreadable: not in the charset stated, utf-7": 1}
    _, rows = run(mailbox(tmp_path, raw("Subject: a\nContent-Type: text/plain; charset=utf-7", "a +2AA- b")))
    assert rows[0]["text"] == "a b"


def nested(depth: int, inside: str = "\nIt rains.\n") -> bytes:
    heads = (f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(depth))
    return raw("Subject: Deep", "")[:-2] + "".join(heads).encode() + inside.encode()


def test_parts_within_parts(tmp_path: Path) -> None:
    assert run(mailbox(tmp_path, nested(20)))[1][0]["text"] == "It rains."
    for deep in (nested(1000), nested(50_000), raw("Subject: D\nFrom: " + "(" * 9000 + "ada@example.org")):
        (reason,) = left_out(tmp_path, deep)  # it depends on the version of Python
        assert reason in ("damaged", "without text of their own", "not sent by you")
    rows = run(mailbox(tmp_path, raw("Subject: S"), raw("Subject: D\nFrom: " + ":" * 9000)))[1]  # whose is it?
    assert [row["subject"] for row in rows] == ["S"]
    letters = "Content-Type: message/rfc822\n\n" * 5000
    assert set(left_out(tmp_path, raw("Subject: D\n" + letters, "x"))) <= {"damaged", "without text of their own"}


@pytest.mark.parametrize(
    "head",
    [
        "Subject: S\nContent-Type: " + ";" * 5000,
        "Subject: S\nContent-Type: text/plain; charset*0*=''%FF; charset*x=; =; format",
        "Subject: S\nContent-Type: text/plain; charset*=utf-8'en'%E2%82",
        "Subject: S\nContent-Type: =?utf-8?B?AAAA?=",
        "Subject: S\nContent-Disposition: attachment2; x",
        "Subject: S\nContent-Transfer-Encoding: =?x?=",
        "Subject: S\nMessage-ID: " + "<" * 3000,
        "Subject: S\nDate: " + "Mon, " * 3000,
        "Subject: S\nX-Gmail-Labels: =?utf-8?B?!!?=",
        "Subject: S\n: no name\nno colon",
        "Subject: S\nSubject: T\nSubject:",
        "Subject: S\n" + "X: y\n" * 3000 + "Z: y",
        "Subject: S\nX: " + "y" * 50_000,
        "Subject: S\nBcc: \r\n evil@example.org\r\nX-Injected: =?utf-8?Q?a=0D=0ASubject:_T?=",
    ],
)
def test_odd_headers(tmp_path: Path, head: str) -> None:
    assert [row["subject"] for row in run(mailbox(tmp_path, raw(head)))[1]] == ["S"]


def test_line_ends_do_not_come_out_of_an_encoded_subject(tmp_path: Path) -> None:
    _, rows = run(mailbox(tmp_path, raw("Subject: =?utf-8?Q?Rain=0D=0ATo:_Bob=00?=")))
    assert rows[0]["subject"] == "Rain To: Bob"


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=80),
            st.sampled_from(
                [
                    *(FROM, b"From ", b"\nFrom a\n", b"\n", b"\r\n", b"\n\n", b": ", b"=?utf-8?B?", b"?=", b"\xff"),
                    *(b"From: ada@example.org\n", b"Subject: Rain\n", b"Subject: Re: ", b"Date: Mon, 6 May 2024\n"),
                    *(b"Content-Type: multipart/mixed; boundary=x\n", b"\n--x\n", b"--x--", b"Message-ID: <1@x>\n"),
                    *(
                        b"Content-Type: text/html; charset=",
                        b"utf-16\n",
                        b"Content-Transfer-Encoding: base64\n",
                        b"<a ",
                    ),
                    *(
                        b"Content-Type: text/plain; format=flowed\n",
                        b"It rains. \n",
                        b"> ",
                        b"Content-Type: message/rfc822\n",
                    ),
                ]
            ),
        ),
        max_size=14,
    ),
    st.booleans(),
)
def test_any_bytes_after_from(tmp_path: Path, pieces: list[bytes], replies: bool) -> None:
    file = tmp_path / "any.mbox"
    file.write_bytes(b"From " + b"".join(pieces))
    for me in ([], [ME]):
        try:
            run(file, me=me, replies=replies)
        except DataError as error:
            assert error.hint


# Size


def test_many_messages_take_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "many.mbox"
    with file.open("wb") as stream:
        for number in range(2000):
            stream.write(
                FROM + raw(f"Subject: Rain {number}\nMessage-ID: <{number}@x>", f"It rains {number} times.") + b"\n"
            )
        attached = raw('Subject: Big\nContent-Type: multipart/mixed; boundary="x"', "--x\n\nHere it is.\n--x")
        stream.write(FROM + attached + b"Content-Transfer-Encoding: base64\nContent-Type: image/png\n\n")
        for _ in range(50):
            stream.write((b"A" * 76 + b"\n") * 13_700)  # a megabyte
        stream.write(b"\n--x--\n\n" + FROM + raw("Subject: Endless", b"It rains. " * 1_000_000))
    code = f"""
import resource
from pathlib import Path
from ownlm.importers.mbox import import_mbox
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
imported = import_mbox(Path({str(file)!r}), Path({str(tmp_path / "out.jsonl")!r}))
print(sum(imported.records.values()), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records, megabytes = map(int, done.stdout.split())
    assert records == 2002
    assert megabytes < 120, megabytes
    last = (tmp_path / "out.jsonl").read_text("utf8").splitlines()
    assert json.loads(last[-2])["text"] == "Here it is." and json.loads(last[-1])["text"].startswith(
        "It rains. It rains."
    )
