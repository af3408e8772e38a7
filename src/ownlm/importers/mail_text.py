"""What a person wrote themselves in a message: the text of its parts, without quotes, signatures and attachments."""

import codecs
import re
from binascii import a2b_base64
from email.errors import InvalidBase64LengthDefect, MissingHeaderBodySeparatorDefect
from email.message import Message
from typing import Any, Final

from ownlm.importers.mail_html import html_text
from ownlm.importers.mail_quotes import without_quotes

_MEANT: Final = {  # what mail programs call by the name of a part of it
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "gb_2312-80"), "gb18030"),
    **dict.fromkeys(("ks_c_5601-1987", "euc-kr"), "cp949"),
    **dict.fromkeys(("shift_jis", "x-sjis", "windows-31j"), "cp932"),
    **{"iso-8859-9": "cp1254", "iso-8859-11": "cp874", "big5": "big5hkscs", "x-mac-roman": "mac_roman"},
}
_LATIN: Final = frozenset({"ascii", "utf-8", "iso8859-1", "cp1252"})  # any of them may stand for any other
_NO_CHARSETS: Final = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"})

_CONTROLS: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSEEN: Final = re.compile("[\xad\u200b\u2060\ufeff]")


def own_text(message: Message) -> str:
    """What the sender wrote in a message, without quotations, forwarded messages, signatures and attachments.

    Blanks and blank lines come one at a time. It may be empty.
    """
    texts = (tidy(without_quotes(tidy(text))) for text in _texts(message))
    return "\n\n".join(text for text in texts if text)


def decoded(data: bytes, charset: str | None) -> str:
    """Text from bytes in a charset that may be wrong or unknown: then they are UTF-8, or else cp1252 or latin-1.

    >>> [decoded("Grüße".encode(real), name) for real, name in (("cp1252", "us-ascii"), ("utf8", "x-unknown"))]
    ['Grüße', 'Grüße']
    """
    name = (charset or "ascii").strip("'\" ").lower()
    if name == "ascii" and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        name = "utf-16"
    try:
        codec = codecs.lookup(_MEANT.get(name, name)).name
        if codec not in _LATIN | _NO_CHARSETS:
            return data.decode(codec, "replace")
    except (LookupError, ValueError):  # no charset, or not even a name
        codec = "ascii"
    try:
        return codecs.utf_8_decode(data, "strict", codec != "utf-8")[0]  # where it says so, it may be cut off
    except UnicodeDecodeError:
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            return data.decode("latin-1")


def tidy(text: str) -> str:
    """Text without control characters and halves of characters, and with no more blanks and blank lines than it needs.

    >>> tidy(" a \\t b\\x00\\n\\n\\n\\nc\\ud800 ")
    'a b\\n\\nc'
    """
    text = _UNSEEN.sub("", re.sub("\r\n|[\r\u2028\u2029]", "\n", text))
    text = re.sub(r"[^\S\n]+", " ", _CONTROLS.sub(" ", text))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def _texts(part: Any) -> list[str]:
    """The texts in a part; of alternatives the first that says something, plain text before HTML."""
    kind = part.get_content_type()
    if part.is_multipart():
        inside = part.get_payload()
        if kind == "multipart/alternative":
            inside = sorted(inside, key=lambda each: each.get_content_type() != "text/plain")
            return next((texts for each in inside if any(map(str.strip, texts := _texts(each)))), [])
        # A message within the message is someone else's.
        return [text for each in inside for text in _texts(each)] if kind.startswith("multipart/") else []
    if kind not in ("text/plain", "text/html") or _is_no_text(part):
        return []
    text = decoded(_bytes(part), part.get_content_charset())
    if kind == "text/html":
        return [html_text(text)]
    return [_joined(text, _param(part, "delsp") == "yes") if _param(part, "format") == "flowed" else text]


def _bytes(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    if any(isinstance(defect, InvalidBase64LengthDefect) for defect in part.defects):  # cut off; left undecoded
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
        data = a2b_base64(letters[: len(letters) // 4 * 4])
    return data


def _is_no_text(part: Message) -> bool:
    cut = any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in part.defects)  # within its headers
    return cut or part.get_content_disposition() == "attachment" or part.get_filename() is not None


def _param(part: Message, name: str) -> str:
    value = part.get_param(name)
    return value.lower() if isinstance(value, str) else ""


def _joined(text: str, delete_blanks: bool) -> str:
    """Lines as they were before format=flowed (RFC 3676) broke them: after a blank, and equally deep in a quotation."""
    pieces: list[str] = []
    open_depth = -1  # of the last line, if it goes on
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.lstrip(">")
        depth = len(line) - len(bare)
        bare = bare.removeprefix(" ")  # put before lines that could be taken for something else
        goes_on = bare.endswith(" ") and bare != "-- "
        if open_depth != depth or bare in ("", "-- "):
            pieces.append("\n" + ">" * depth + " " * (depth > 0))
        pieces.append(bare[:-1] if goes_on and delete_blanks else bare)
        open_depth = depth if goes_on else -1
    return "".join(pieces)
