# ruff: noqa: RUF001
"""What becomes of a message; and files that are no mailboxes."""

import os
import socket
import time
from email.header import Header
from hashlib import sha256
from pathlib import Path

import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset
from ownlm.importers.imported import pseudonym
from ownlm.importers.mbox import import_mbox
from ownlm.prompt.example import history_examples
from tests.history.files import SECRET
from tests.importers.mailbox_files import ME, message, write_mailbox, write_messages
from tests.importers.mbox_runs import TASK, box, left_out, mailbox, raw, refused, run, taken
from tests.namespace import run_with_mount

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


# Subjects that look like answers, and are none.
OWN_SUBJECTS = (
    "[list] Rain|Re-reading: a report|Ref: 12|Note: rain|Todo: soup|Q: why?|Minutes: Monday|Re2|Tr 5: x|Reply: yes"
    "|http://example.org|10:30 lunch|[list] Note: rain|Reg: rain|Reply: x|R: a language"
)


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
        ("=?utf-8?Q?Rain=0D=0ATo:_Bob=00?=", "Rain To: Bob"),
        ("Grüße", "Grüße"),
        (b"Gr\xfc\xdfe", "Grüße"),
        (b"Rain \x00\x07and\x1b sun\xc2\x85", "Rain and sun"),
        *((own, own) for own in OWN_SUBJECTS.split("|")),
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
