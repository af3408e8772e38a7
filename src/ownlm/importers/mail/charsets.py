"""Decoding of mail: the stated charset, as mail programs use it, or an error; charsets are never guessed."""

import codecs
import re
from collections.abc import Callable
from functools import cache
from typing import Final

from ownlm.importers.mail.japanese import cp50221, cp51932
from ownlm.importers.mail.likely import is_likely_utf8, is_western, is_windows_greek

_UNSTATED: Final = frozenset(
    {
        *("", "ascii", "unknown", "unknown-8bit", "unknown-7bit", "unspecified", "none", "default", "user-defined"),
        *("8bit", "7bit", "binary", "ansi", "iso-646", "iso-ir-6", "-autodetect", "-autodetect-all", "autodetect"),
    }
)
_NAMES: Final = {  # names that Python does not know, without "x-"
    **dict.fromkeys(("gb-2312-80", "cn-gb", "csgb2312", "iso-ir-58", "mac-chinesesimp", "euc-gb"), "gb18030"),
    **dict.fromkeys(("x-big5", "cn-big5", "csbig5", "big5-eten", "big5-tw", "mac-chinesetrad"), "big5"),
    **dict.fromkeys(("ks-c-5601-1989", "ks-c-5601", "ksc-5601", "iso-ir-149", "csksc56011987", "mac-korean"), "cp949"),
    **dict.fromkeys(("iso-2022-jp-ms", "jis", "jis7", "jis-encoding", "csjisencoding"), "iso2022_jp"),
    **dict.fromkeys(("euc", "eucjp-ms", "eucjpms", "eucjp-win", "cseucpkdfmtjapanese"), "euc_jp"),
    **dict.fromkeys(
        ("windows-31j", "cswindows31j", "sjis-win", "sjis-open", "mac-japanese", "csshiftjis"), "shift_jis"
    ),
    **dict.fromkeys(("koi", "koi8", "cskoi8r", "cp20866"), "koi8-r"),
    **dict.fromkeys(("koi8-ru", "cp21866"), "koi8-u"),
    **dict.fromkeys(("mac", "mac-roman", "csmacintosh", "cp10000"), "mac_roman"),
    **dict.fromkeys(("mac-cyrillic", "mac-ukrainian", "cp10007"), "mac_cyrillic"),
    **dict.fromkeys(("mac-ce", "mac-centraleurroman", "cp10029"), "mac_latin2"),
    **{f"mac-{name}": f"mac_{name}" for name in ("greek", "turkish", "arabic", "farsi", "croatian", "romanian")},
    **{"mac-icelandic": "mac_iceland", "hz": "hz", "cp50220": "iso2022_jp", "cp50221": "iso2022_jp"},
    **{"cp50222": "iso2022_jp", "cp51932": "euc_jp", "cp51949": "cp949", "cp52936": "hz", "cp54936": "gb18030"},
    **{"cp65000": "utf-7", "cp1200": "utf-16-le", "cp1201": "utf-16-be", "cp12000": "utf-32-le"},
    **dict.fromkeys(("utf8mb4", "utf8mb3", "unicode-1-1-utf-8", "utf-8-mac", "utf-8n", "csutf8"), "utf-8"),
    **dict.fromkeys(("unicode-2-0-utf-7", "csunicode11utf7", "cputf7"), "utf-7"),
    **dict.fromkeys(("ucs-2", "iso-10646-ucs-2", "unicode", "csunicode", "ucs2"), "utf-16"),
    "unicodefffe": "utf-16-be",
    "latin-9": "iso8859-15",
}
# Real charsets by stated name; the first that fits is used.
_MEANT: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("gb2312", "gbk"), ("gb18030",)),
    **dict.fromkeys(("shift_jis", "cp932"), ("cp932", "shift_jis_2004")),
    **dict.fromkeys(("big5", "cp950"), ("cp950", "big5hkscs")),
    **dict.fromkeys(("iso8859-11", "tis-620"), ("cp874",)),
    **dict.fromkeys(
        ("iso2022_jp", "iso2022_jp_1", "iso2022_jp_ext"),
        ("iso2022_jp_ext", "cp50221", "iso2022_jp_2", "iso2022_jp_2004"),
    ),
    **{"euc_kr": ("cp949",), "euc_jp": ("euc_jp", "cp51932"), "iso8859-1": ("cp1252",), "iso8859-9": ("cp1254",)},
    **{f"iso8859-{iso}": (f"iso8859-{iso}", f"cp{cp}") for iso, cp in ((2, 1250), (7, 1253), (8, 1255), (13, 1257))},
}
_NO_CHARSETS: Final = frozenset(
    {"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined", "mbcs", "oem"}
)
_DOUBLE_BYTES: Final = frozenset({"gb18030", "cp932", "cp950", "big5hkscs", "cp949", "euc_jp", "johab"})
_OURS: Final[dict[str, Callable[[bytes], str]]] = {"cp50221": cp50221, "cp51932": cp51932}

_WESTERN: Final = frozenset({"cp1252", "iso8859-15"})
# National variants of ASCII (ISO 646), with letters instead of brackets and braces.
_NATIONAL: Final = re.compile(
    r"(?P<german>din-66003|ia5-german|iso646-de|iso-ir-21|csiso21german|cp20106)"
    r"|(?P<swedish>sen-850200-[bc]|ia5-swedish|iso646-(?:se2?|fi)|iso-ir-1[01]|csiso1[01]swedish.*|cp20107)"
    r"|(?P<norwegian>ns-4551-1|ia5-norwegian|iso646-(?:no|dk)|iso-ir-60|csiso60.*norwegian1|ds-?2089|cp20108)"
    r"|iso646-.*|ia5(?:-.*)?|ns-4551-2|bs-4730|nf-z-62-010.*|csa-z243\.4.*|jus-i\.b1\.00\d|msz-7795\.3|nc-nc00-10.*"
    r"|jis-c6220.*|gb-1988-80|iso-ir-(?:4|1[4-7]|25|57|61|69|8[4-6]|12[12]|141|151)|es2?|pt2?|uk|it|yu|hu|cuba|cn|dk"
)
_VARIANT: Final = re.compile(rb"[#$@\[\\\]^`{|}~]")
_NATIONAL_LETTERS: Final = {
    "german": str.maketrans("@[\\]{|}~", "\xa7\xc4\xd6\xdc\xe4\xf6\xfc\xdf"),
    "swedish": str.maketrans("$[\\]{|}~", "\xa4\xc4\xd6\xc5\xe4\xf6\xe5\u203e"),
    "norwegian": str.maketrans("[\\]{|}~", "\xc6\xd8\xc5\xe6\xf8\xe5\u203e"),
}

_CODE_PAGE: Final = re.compile(r"(?:microsoft-|ms-)?(?:windows|win|cp|ms|ansi|ibm|dos|pc)-?0*(\d{3,5})")
_ISO_8859: Final = re.compile(r"(?:cs)?(?:iso)?-?8859-?(\d{1,2})(?:-?[ie])?(?:-windows.*)?(?::\d+)?")
_ISO_2022: Final = re.compile(rb"\x1b(?:\$(?:[@AB]|[()*+][A-Z])|\([IJ])")
_KOREAN: Final = re.compile(rb"\x1b\$\)C")
_CHINESE: Final = re.compile(rb"\x1b\$[)*+][A-Z]")
_HZ: Final = re.compile(rb"(?:[\x00-}]|~(?!\{)|~\{(?:[!-w][!-~])+~\})*")
_SHIFTED: Final = re.compile(rb"[\x0e\x1b]")  # escapes to another 7-bit alphabet
_CONTROLS: Final = re.compile("[\x80-\x84\x86-\x9f]")  # characters that do not occur in text
# Rare letters, signs in or after words, or several accented letters in a row: the text is not cp1252.
_HIGH: Final = "[^\x00-\x7f\xa0\u2013\u2014\u2018-\u201d\u2022\u2026\u20ac]"
_LETTER: Final = "[A-Za-z\xc0-\xff]"
_NOT_WESTERN: Final = re.compile(
    f"{_HIGH}{{3}}|[\xd0\xde\xf0\xfe\xd7\xf7]|{_LETTER}[\xa1-\xa9\xac\xaf\xb1\xb4-\xb6\xb8\xb9\xbc-\xbf]"
    f"|{_LETTER}[\xaa\xab\xae\xb0\xb2\xb3\xba\xbb\u0192\u02c6\u02dc\u201a\u201e\u2020-\u2022\u2030\u2039\u203a\u2122]"
    f"{_LETTER}"
)
_META: Final = re.compile(rb"<meta\b[^>]{0,300}?\bcharset\s{0,9}=\s{0,9}[\"']?\s{0,9}([\w.:+-]{1,40})", re.I)
_COMMENT: Final = re.compile(rb"<!--.*?(?:-->|\Z)", re.S)


class CharsetError(ValueError):
    """Bytes that cannot be decoded in their stated charset.

    Attributes:
        reason: the reason, with the charset's name.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decoded(data: bytes, charset: str | None) -> str:
    """Decodes bytes in their stated charset, or UTF-8.

    A name means what mail programs mean by it: cp1252 for iso-8859-1, cp932 for shift_jis. Valid UTF-8 is decoded as
    UTF-8 under any single-byte charset, under a double-byte charset if UTF-8 is likelier, and where the stated charset
    is unknown or does not fit. ISO 2022 escape sequences are followed under any name. Without a charset, or under
    us-ascii, iso-8859-1 and windows-1252 (which programs state that do not know the charset), other bytes are decoded
    as cp1252 if the text looks like a western language.

    Not detected, since that takes statistics of each language: a double-byte charset under the name of another (GB
    18030 stated as Big5), a Cyrillic charset under the name of another, UTF-7 under another name.

    Raises:
        CharsetError: the charset is unknown, or the bytes are not in it.

    >>> [decoded("Grüße".encode(real), name) for real, name in (("cp1252", "us-ascii"), ("utf8", "x-unknown"))]
    ['Grüße', 'Grüße']
    """
    name = _cleaned(charset)
    if not is_stated(name):
        return _unstated(data)
    meant = _meant(name)
    shown = name if re.fullmatch(r"[a-z0-9_.:+-]{1,40}", name) else "with a name that is none"
    if not meant and (national := _NATIONAL.fullmatch(_plain(name))) and data.isascii():
        if (letters := _NATIONAL_LETTERS.get(national.lastgroup or "")) is None and _VARIANT.search(data):
            raise CharsetError(f"unknown charset {shown}")
        return data.decode("ascii").translate(letters or {})
    meant = _shifted(data, meant) or meant
    if not meant and _SHIFTED.search(data):
        raise CharsetError(f"unknown charset {shown}")
    first = not meant or _is_single_byte(meant[0]) or (meant[0] in _DOUBLE_BYTES and is_likely_utf8(data))
    order = ("utf-8", *meant) if first else meant
    fallback = () if meant and data.isascii() else ("utf-8",)
    for codec in (*order, *fallback):
        try:
            text = _strictly(data, codec, cut=codec == meant[0] if meant else False)
        except (UnicodeError, ValueError):
            continue
        if codec not in _WESTERN or is_western(text):
            return text
    raise CharsetError(f"not in the charset stated, {shown}" if meant else f"unknown charset {shown}")


def html_charset(data: bytes) -> str | None:
    """The charset in an HTML document's meta tags."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return name
    if not (found := _META.search(_COMMENT.sub(b"", data[:16384]))):
        return None
    name = found[1].decode("ascii", "replace").lower()
    return "utf-8" if name.startswith("utf-16") else name  # UTF-16 would not be readable here


def is_stated(charset: str | None) -> bool:
    """Whether a charset name states a charset."""
    name = _plain(_cleaned(charset))
    return name not in _UNSTATED and _looked_up(name) != "ascii"


def holds_ascii(charset: str | None) -> bool:
    """Whether a charset is a superset of ASCII; UTF-16 is not."""
    meant = _meant(_cleaned(charset))
    return not meant or b"az".decode(meant[0] if meant[0] not in _OURS else "ascii", "replace") == "az"


def _cleaned(charset: str | None) -> str:
    name = re.split(r"[*;,\s]", (charset or "").strip("'\"<>= \t\r\n"), maxsplit=1)[0].strip("'\"").lower()
    return re.sub(r"^3d['\"]?(?=[a-z])", "", name)  # "=3D" of undecoded quoted-printable


def _plain(name: str) -> str:
    return name.replace("_", "-").removeprefix("x-")


@cache
def _meant(name: str) -> tuple[str, ...]:
    """Codecs for a stated charset, the likeliest first; empty for an unknown one."""
    name = re.sub(r"^(gb18030|big5-hkscs)[-:]\d+$", r"\1", _plain(name))
    if page := _CODE_PAGE.fullmatch(name):
        number = int(page[1])
        name = f"iso8859-{number - 28590}" if 28591 <= number <= 28606 else f"cp{number:03}"
    elif iso := _ISO_8859.fullmatch(name):
        name = f"iso8859-{iso[1]}"
    codec = _looked_up(_NAMES.get(name, name))
    return _MEANT.get(codec, (codec,)) if codec else ()


def _looked_up(name: str) -> str:
    """Python's name of a text codec; empty if there is none."""
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        return ""
    return codec.name if codec._is_text_encoding and codec.name not in _NO_CHARSETS else ""


@cache
def _is_single_byte(codec: str) -> bool:
    """Whether a codec is a single-byte superset of ASCII."""
    ascii = bytes(range(32, 127))
    if codec in _OURS or ascii.decode(codec, "replace") != ascii.decode():
        return False
    return len(b"\xe3\xe3\xe3\xe3".decode(codec, "replace")) == 4 and not codec.startswith(("utf", "iso2022"))


def _strictly(data: bytes, codec: str, cut: bool) -> str:
    """Decodes strictly; of data that may be cut, without an incomplete last character."""
    if ours := _OURS.get(codec):
        return ours(data)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        if not cut or error.end < len(data) or len(data) - error.start > 4:
            raise
        text = data[: error.start].decode(codec)
    if _is_single_byte(codec) and _CONTROLS.search(text):
        raise ValueError("control characters")
    return text


def _shifted(data: bytes, meant: tuple[str, ...]) -> tuple[str, ...]:
    """Codecs recognised from the bytes under another charset's name: ISO 2022, HZ, Windows Greek.

    Raises:
        CharsetError: Python has no codec for it.
    """
    if meant[:1] == ("iso8859-7",) and is_windows_greek(data):
        return ("cp1253",)
    if meant[:1] == ("gb18030",) and data.isascii() and b"~{" in data and _HZ.fullmatch(data):
        return ("hz",)
    keeps_escapes = not meant or (meant[0] not in _OURS and b"\x1b$B".decode(meant[0], "replace") == "\x1b$B")
    if not keeps_escapes or not _ISO_2022.search(data):
        return ()
    if _KOREAN.search(data):
        return ("iso2022_kr",)
    if _CHINESE.search(data):
        raise CharsetError("unknown charset iso-2022-cn")
    return _MEANT["iso2022_jp"]


def _unstated(data: bytes) -> str:
    order: tuple[str, ...]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data, order = data[: len(data) // 2 * 2], ("utf-16",)
    else:
        order = _shifted(data, ()) or ("utf-8", "cp1252")
    for codec in order:
        try:
            text = _strictly(data, codec, cut=False)
        except ValueError:
            continue
        if codec != "cp1252" or (is_western(text) and not _NOT_WESTERN.search(text)):
            return text
    raise CharsetError("no charset stated, and not UTF-8")
