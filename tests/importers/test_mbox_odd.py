"""Mailboxes that are not as they should be, and large ones."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownlm.errors import DataError
from tests.importers.mailbox_files import ME, message, write_mailbox
from tests.importers.mbox_runs import FROM, left_out, mailbox, raw, run, taken

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
