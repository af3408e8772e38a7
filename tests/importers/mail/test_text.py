# ruff: noqa: RUF001
"""What people wrote, out of what mail programs made of it: bytes and parts; and no text takes long."""

import base64
import time
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.importers.mail.charsets import CharsetError, decoded
from ownlm.importers.mail.html import html_text
from ownlm.importers.mail.text import own_text, tidy
from tests.importers.mail.messages import FLOWED, flowed, mail, several, text

# Bytes


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [
        ("utf-8", "utf-8", "Grüße, €5"),
        ("UTF8", "utf-8", "Grüße"),
        ("iso-8859-1", "latin-1", "Grüße"),
        ("iso-8859-1", "cp1252", "“Grüße”, €5…"),
        ("us-ascii", "cp1252", "“Grüße” – €5"),
        ("us-ascii", "utf-8", "Grüße €"),
        ("iso-8859-1", "utf-8", "Grüße €"),
        ("iso-8859-1", "latin-1", "caf\xe9"),
        ("koi8-r", "koi8-r", "Привет"),
        ("windows-1251", "cp1251", "Привет"),
        ("iso-8859-2", "iso-8859-2", "Žluťoučký kůň"),
        ("iso-8859-9", "cp1254", "Gönderi “İş”"),
        ("gb2312", "gb18030", "你好，镕基"),
        ("big5", "big5", "你好"),
        ("shift_jis", "cp932", "こんにちは①"),
        *(
            ("SJIS", "cp932", "㈱髙橋①"),
            ("x-sjis", "cp932", "①"),
            ("Windows-31J", "cp932", "①"),
            ("MS_Kanji", "cp932", "①"),
        ),
        *(
            (name, "gb18030", "你好，镕基€")
            for name in ("euc-cn", "GBK", "x-gbk", "cn-gb", "CP936", "gb_2312-80", "chinese")
        ),
        ("gb18030-2022", "gb18030", "你好𠮷"),
        ("hz-gb-2312", "hz", "你好"),
        *((name, "iso8859_8", "שלום") for name in ("iso-8859-8-i", "ISO-8859-8-E", "csISO88598I", "iso-8859-8")),
        ("iso-8859-8-i", "cp1255", "שלום “עולם”"),
        ("iso-8859-6-i", "iso8859_6", "مرحبا"),
        *(
            (name, "cp874", "สวัสดี “ครับ”")
            for name in ("windows-874", "x-windows-874", "dos-874", "tis-620", "iso-8859-11")
        ),
        ("cp50221", "iso-2022-jp", "こんにちは"),
        ("iso-2022-jp-2", "iso2022_jp_2", "你好 안녕"),
        *((name, "euc_jp", "日本語") for name in ("euc-jp", "x-euc-jp", "eucJP-ms", "cp51932")),
        *((name, "cp949", "안녕 똠") for name in ("ks_c_5601-1987", "ks_c_5601-1989", "windows-949", "UHC", "korean")),
        *((name, "cp950", "測試€碁") for name in ("big5", "x-x-big5", "cn-big5", "cp950", "windows-950", "big5-eten")),
        ("big5", "big5hkscs", "喺嚟冇"),
        ("big5-hkscs", "big5hkscs", "喺嚟冇"),
        *((name, "cp1251", "Привет “мир”") for name in ("win-1251", "windows1251", "x-cp1251", "cp-1251", "ANSI-1251")),
        *((name, "koi8-u", "Їжак") for name in ("koi8-u", "koi8-ru", "cp21866")),
        *((name, "mac_cyrillic", "Привет") for name in ("x-mac-cyrillic", "x-mac-ukrainian", "cp10007")),
        *((name, "mac_roman", "Grüße") for name in ("macintosh", "x-mac-roman", "mac", "csMacintosh")),
        ("x-mac-ce", "mac_latin2", "Žluťoučký"),
        ("x-mac-greek", "mac_greek", "Γειά"),
        *(
            (name, "cp1252", "“Grüße”…")
            for name in ("latin1", "8859-1", "ISO88591", "iso_8859-1:1987", "windows-28591")
        ),
        ("iso-8859-1", "cp1252", "Æþing á Þýðing"),
        ("latin-9", "iso8859_15", "€ Grüße"),
        ("iso-8859-2", "cp1250", "“Žluťoučký”"),
        ("iso-8859-7", "cp1253", "“Γειά”"),
        ("iso-8859-13", "cp1257", "“Ąžuolas”"),
        ("windows-1258", "cp1258", "Đô-la"),
        ("koi8-r", "utf-8", "Привет"),
        *((name, "utf-7", "Grüße") for name in ("utf-7", "unicode-1-1-utf-7", "UTF7")),
        *(
            (name, "utf-8", "Grüße 你好")
            for name in ("utf8mb4", "unicode-1-1-utf-8", "UTF-8; foo", "'utf-8'", "utf-8*en")
        ),
        *((name, "utf-8", "Grüße 你好") for name in ("ansi_x3.110", "viscii", "iso-2022-cn", "no charset", "utf-8859")),
        ("ANSI_X3.4-1968", "cp1252", "¿Qué? «Él» l’été – naïve, Ærø"),
        ("us-ascii", "iso-2022-jp", "こんにちは"),
        ("iso-2022-jp", "iso-2022-jp", "こんにちは"),
        ("euc-kr", "cp949", "안녕 똠"),
        ("x-unknown", "utf-8", "Grüße"),
        ("unknown-8bit", "latin-1", "Grüße"),
        ("", "utf-8", "Grüße"),
        ("3Dutf-8", "utf-8", "Grüße"),
        ("a\x00b", "utf-8", "Grüße"),
        ("base64", "utf-8", "Grüße"),
        ("zlib", "utf-8", "Grüße"),
        ("punycode", "utf-8", "Grüße"),
        ("idna", "utf-8", "Grüße"),
        ("unicode_escape", "utf-8", r"C:\new"),
    ],
)
def test_charsets_right_and_wrong(name: str, codec: str, words: str) -> None:
    for coding in (None, "base64", "quoted-printable", "8bit", "x-unknown"):
        assert text(words.encode(codec), f'text/plain; charset="{name}"', coding) == words, coding


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        # Vendors' rows of JIS: NEC's row 13, IBM's kanji as NEC chose them, half-width kana three ways.
        ("iso-2022-jp", b"\x1b$B-!-j\x1b(B 1", "①㈱ 1"),
        ("iso-2022-jp", b"\x1b$B|b66\x1b(B", "髙橋"),
        ("iso-2022-jp", b"\x1b$B-!\x1b(B\r\n\x1b(IC^@\x1b(B", "①\nﾃﾞﾀ"),
        ("iso-2022-jp", b"\x1b$B-!\x1b(B\x0eC^@\x0f ok", "①ﾃﾞﾀ ok"),
        ("iso-2022-jp", b"\x1b$B-!\x1b$(D0!\x1b(B", "①丂"),
        ("euc-jp", b"\xad\xa1\xfc\xe2\xb6\xb6\x8e\xc3\x8f\xb0\xa1 1", "①髙橋ﾃ丂 1"),
        ("shift_jis", b"\x87\x40\xfb\xfc", "①髙"),
    ],
)
def test_vendors_rows_of_japanese_charsets(name: str, data: bytes, expected: str) -> None:
    for coding in (None, "base64", "quoted-printable"):
        assert text(data, f"text/plain; charset={name}", coding) == expected


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        *(
            (name, "Привет, мир".encode("cp1251"), "unknown charset ")
            for name in ("x-foo", "ansi_x3.110", "viscii", "t.61")
        ),
        *(
            (name, "Gr\xfc\xdfe".encode("latin-1"), "unknown charset ")
            for name in ("zlib", "punycode", "mbcs", "utf-8859")
        ),
        ("a\x00b", b"\xff", "unknown charset with a name that is none"),
        ("iso-2022-cn", b"\x1b$)A\x0eDc:C\x0f", "unknown charset iso-2022-cn"),
        ("utf-8", "Grüße und so".encode("latin-1"), "not in the charset stated, utf-8"),
        ("utf-8", "Привет".encode("koi8-r"), "not in the charset stated, utf-8"),
        ("big5", b"\xff\xff\xff rain", "not in the charset stated, big5"),
        ("iso-2022-jp", b"\x1b$Bx\x1b(B and rain", "not in the charset stated, iso-2022-jp"),
        ("iso-8859-1", b"\x81\x8d\x8f", "not in the charset stated, iso-8859-1"),
        ("iso-8859-5", "“Привет”".encode("cp1251"), "not in the charset stated, iso-8859-5"),
        ("utf-7", b"It\xff\xfe rains", "not in the charset stated, utf-7"),
        *(
            (name, words.encode(codec), "no charset stated, and not UTF-8")
            for name in ("us-ascii", "", "x-unknown", "unknown-8bit", "x-user-defined")
            for codec, words in (
                *(
                    ("cp1251", "Привет, мир"),
                    ("koi8-r", "Привет, мир"),
                    ("cp932", "こんにちは"),
                    ("euc_jp", "日本語です"),
                ),
                *(("gb18030", "你好，世界"), ("big5", "測試"), ("cp949", "안녕하세요"), ("iso8859_8", "שלום")),
                *(("cp1253", "Γειά σου"), ("cp1256", "مرحبا بك"), ("cp874", "สวัสดี"), ("cp1250", "Žluťoučký kůň")),
                *(
                    ("iso8859_2", "Łódź, żółw"),
                    ("cp1250", "Gdańsk, książka"),
                    ("cp1254", "ışık ve güneş"),
                    ("cp1257", "ąžuolas"),
                ),
            )
        ),
    ],
)
def test_what_cannot_be_read_is_no_text(name: str, data: bytes, reason: str) -> None:
    for coding in (None, "base64"):
        with pytest.raises(CharsetError) as caught:
            text(data, f'text/plain; charset="{name}"' if name else "text/plain", coding)
        assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("kind", "meta", "codec"),
    [
        ("text/html", '<meta charset="windows-1251">', "cp1251"),
        ("text/html", "<META CHARSET=koi8-r />", "koi8-r"),
        ("text/html", '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS">', "cp932"),
        ("text/html", "<meta content='text/html;charset=gb2312' http-equiv=content-type>", "gb18030"),
        ("text/html", "<!-- <meta charset=koi8-r> --><meta charset=iso-8859-5>", "iso8859_5"),
        ("text/html; charset=us-ascii", "<meta charset=windows-1251>", "cp1251"),
        ("text/html; charset=x-unknown", "<meta charset=windows-1251>", "cp1251"),
        ("text/html; charset=x-foo", "<meta charset=windows-1251>", "cp1251"),
        ("text/html; charset=utf-8", "<meta charset=windows-1251>", "utf-8"),
        ("text/html; charset=utf-8", "<meta charset=windows-1251>", "cp1251"),
        ("text/html; charset=windows-1251", "<meta charset=koi8-r>", "cp1251"),
        ("text/html; charset=iso-8859-1", "<meta charset=windows-1251>", "cp1251"),
        ("text/html; charset=windows-1252", "<meta charset=koi8-r>", "koi8-r"),
        ("text/html", "<meta charset=utf-16>", "utf-8"),
        ("text/html", "", "utf-16"),
    ],
)
def test_html_states_its_own_charset(kind: str, meta: str, codec: str) -> None:
    body = f"<html><head>{meta}</head><body>Привет, мир</body></html>".encode(codec)
    for coding in ("base64", "quoted-printable"):
        assert text(body, kind, coding) == "Привет, мир"


def test_an_alternative_that_can_be_read_is_taken() -> None:
    good = "Content-Type: text/html; charset=utf-8\n\n<p>Привет".encode()
    bad = b"Content-Type: text/plain; charset=x-foo\n\n" + "Привет".encode("koi8-r")
    assert own_text(several(bad, good, kind="alternative")) == "Привет"
    for parts, kind in (((bad, good), "mixed"), ((bad,), "alternative")):
        with pytest.raises(CharsetError, match="x-foo"):
            own_text(several(*parts, kind=kind))


def test_wide_charsets() -> None:
    for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert text("Grüße 你好".encode(codec), f"text/plain; charset={codec}", "base64") == "Grüße 你好"
    assert text("Grüße".encode("utf-16"), "text/plain", "base64") == "Grüße"
    assert text(b"\xef\xbb\xbfRain", "text/plain") == "Rain"


def test_text_that_was_cut_within_a_character() -> None:
    assert text("Grüße €".encode()[:-1]) == "Grüße"
    assert text("你好".encode("gb18030")[:-1], "text/plain; charset=gb2312") == "你"
    whole = base64.encodebytes(b"It rains, and rains. " * 9)
    for length in range(100, 130):
        head = b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
        assert ("It rains, and rains. " * 9).startswith(own_text(message_from_bytes(head + whole[:length]))[:70])


def test_a_wrong_transfer_encoding() -> None:
    head = b"Content-Transfer-Encoding: %s\n\n%s"
    with pytest.raises(CharsetError):
        own_text(message_from_bytes(head % (b"base64", b"no base64 at all!")))
    assert own_text(message_from_bytes(head % (b"quoted-printable", b"a=ZZb =\nc=3"))) == "a=ZZb c=3"
    assert own_text(message_from_bytes(head % (b"x-uuencode", b"begin 6\n$8V]N9P\nend"))) is not None


@given(st.binary(max_size=60), st.sampled_from(["utf-8", "utf-7", "utf-16", "gb2312", "iso-2022-jp", "hz", "x", None]))
def test_any_bytes_become_text_that_can_be_written(data: bytes, charset: str | None) -> None:
    try:
        text = tidy(decoded(data, charset))
    except CharsetError:
        return
    assert text.encode("utf-8").decode("utf-8") == text
    assert not [letter for letter in text if letter != "\n" and category(letter) in ("Cc", "Cs")]


def test_control_characters_become_blanks_and_blanks_come_one_at_a_time() -> None:
    given = "a\x00b\tc \u00a0 \u3000d\x1b[31m\x85e\u2028f\ufeff\u200bg\r\nh\ri\r\n\r\n\r\n\r\n  j  \n\udc80k\n"
    assert tidy(given) == "a b c d [31m e\nfg\nh\ni\n\nj\nk"
    assert tidy("👩\u200d🚀 is\xad land") == "👩\u200d🚀 is land"


# Parts


PLAIN, HTML = "Content-Type: text/plain\n\nplain", "Content-Type: text/html\n\n<p>html</p>"
FILE = "Content-Type: text/plain\nContent-Disposition: attachment; filename=a.txt\n\nfile"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (several(PLAIN, HTML, kind="alternative"), "plain"),
        (several(HTML, PLAIN, kind="alternative"), "plain"),
        (several("Content-Type: text/plain\n\n \n", HTML, kind="alternative"), "html"),
        (several("Content-Type: text/calendar\n\nBEGIN:VCALENDAR", HTML, kind="alternative"), "html"),
        (several(PLAIN, FILE), "plain"),
        (several(PLAIN, "Content-Type: text/plain; name=a.patch\n\nfile"), "plain"),
        (several(PLAIN, "Content-Type: text/plain\nContent-Disposition: inline; filename*=utf-8''a%20b\n\nx"), "plain"),
        (several(PLAIN, "Content-Type: image/png\n\nx", "Content-Disposition: inline\n\nmore"), "plain\n\nmore"),
        (several(PLAIN, "Content-Type: message/rfc822\n\nSubject: s\n\ninner"), "plain"),
        (
            several(PLAIN, "Content-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=q\n\n--q\n\nx"),
            "plain",
        ),
        (several(PLAIN, "Content-Type: text/x-vcard\n\nx", "Content-Type: application/pgp-signature\n\nx"), "plain"),
        (several(HTML, "Content-Type: image/png\n\nx", kind="related"), "html"),
        (several(several(PLAIN, HTML, kind="alternative").as_bytes().replace(b"==", b"~~"), FILE), "plain"),
        (several("Content-Type: application/pgp-encrypted\n\nx", kind="encrypted"), ""),
        (mail("no such type", "text"), "no such type"),
        (mail("--==\n\nno boundary", "multipart/mixed"), ""),
        (mail("--==\n\nnever closed", 'multipart/mixed; boundary="=="'), "never closed"),
        (mail("--==\n\nplain\n--==\nContent-Tr", 'multipart/mixed; boundary="=="'), "plain"),
        (mail("no part\n", 'multipart/mixed; boundary="=="'), ""),
    ],
)
def test_parts(message: Message, expected: str) -> None:
    assert own_text(message) == expected


def test_flowed_lines_are_joined() -> None:
    assert text("one \ntwo \n\nthree", FLOWED) == "one two\n\nthree"
    assert text("one \n two\n From me\n  indented", FLOWED) == "one two\nFrom me\nindented"
    assert text("one \n> quoted \n> more\ntwo \nthree", FLOWED) == "one\ntwo three"
    assert text("one \n-- \nAda", FLOWED) == "one"
    assert text("雨 \nが降る", FLOWED + "; delsp=yes; charset=utf-8") == "雨が降る"
    assert text("雨 \n が降る", FLOWED + "; delsp=yes; charset=utf-8") == "雨が降る"
    assert text("one \ntwo") == "one\ntwo"
    assert text("one \r\ntwo\r\n", FLOWED) == "one two"


TAGS = ("<a", "<!", "<!--", "</a", "<b>", "<a x='", "<![", "<script>", "</", "<?", "&#", "<div class=yahoo_quoted>")
LINES = (
    "On 1 a ", "On 1 wrote ", "wrote: ", "\n", "\n> ", "[cid:", "From: x\n", "<a@b", "(a@", "On 1 Jan 2020\n",
    "-----BEGIN PGP SIGNED MESSAGE-----\nx\n", "-----BEGIN PGP A-----\n", "x" * 70 + "\n", "On 1, b wrote:\n>x\n",
)  # fmt: skip
HOSTILE = [
    *((html_text, unit * (200_000 // len(unit))) for unit in TAGS),  # html.parser alone: a minute
    *((text, unit * (200_000 // len(unit))) for unit in LINES),
    *((flowed, body) for body in ("word " * 12 + "\n" * 30_000, "word \n" * 60_000)),
]


@pytest.mark.parametrize(("read", "body"), HOSTILE, ids=[f"{read.__name__} {body[:12]!r}" for read, body in HOSTILE])
def test_hostile_text_takes_no_time(read: Callable[[str], str], body: str) -> None:
    before = time.process_time()
    read(body)
    assert time.process_time() - before < 3
