"""Extraction of the sender's own text from a message: no quotations, signatures or attachments."""

import re
from binascii import a2b_base64
from email.errors import InvalidBase64LengthDefect, MissingHeaderBodySeparatorDefect
from email.message import Message
from typing import Any, Final

from ownlm.importers.mail.charsets import CharsetError, decoded, html_charset, is_stated
from ownlm.importers.mail.html import html_text
from ownlm.importers.mail.quotes import without_quotes

_CONTROLS: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSEEN: Final = re.compile("[\xad\u200b\u2060\ufeff]")


def own_text(message: Message) -> str:
    """The sender's own text in a message, without quotations, forwarded messages, signatures and attachments.

    Repeated blanks and blank lines are merged. The text may be empty.

    Raises:
        CharsetError: a part cannot be decoded and has no readable alternative.
    """
    texts = (tidy(without_quotes(tidy(text))) for text in _texts(message))
    return "\n\n".join(text for text in texts if text)


def tidy(text: str) -> str:
    """Removes control characters and lone surrogates, and merges blanks and blank lines.

    >>> tidy(" a \\t b\\x00\\n\\n\\n\\nc\\ud800 ")
    'a b\\n\\nc'
    """
    text = _UNSEEN.sub("", re.sub("\r\n|[\r\u2028\u2029]", "\n", text))
    text = re.sub(r"[^\S\n]+", " ", _CONTROLS.sub(" ", text))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def _texts(part: Any) -> list[str]:
    """Yields the texts of a part; of alternatives the first that is not empty, plain text before HTML."""
    kind = part.get_content_type()
    if part.is_multipart():
        inside = part.get_payload()
        if kind == "multipart/alternative":
            return _alternative(sorted(inside, key=lambda each: each.get_content_type() != "text/plain"))
        # An attached message has another sender.
        return [text for each in inside for text in _texts(each)] if kind.startswith("multipart/") else []
    if kind not in ("text/plain", "text/html") or _is_no_text(part):
        return []
    text = _decoded_part(part)
    if kind == "text/html":
        return [html_text(text)]
    return [_joined(text, _param(part, "delsp") == "yes") if _param(part, "format") == "flowed" else text]


def _alternative(parts: list[Any]) -> list[str]:
    """The texts of the first alternative that is readable and not empty."""
    failure: CharsetError | None = None
    for part in parts:
        try:
            texts = _texts(part)
        except CharsetError as error:
            failure = failure or error
            continue
        if any(map(str.strip, texts)):
            return texts
    if failure:
        raise failure
    return []


def _decoded_part(part: Message) -> str:
    """Decodes a part in the charset of its headers, else in the one of its HTML."""
    data, charset = _bytes(part), part.get_content_charset()
    own = html_charset(data) if part.get_content_type() == "text/html" else None
    if not is_stated(charset):
        return decoded(data, own or charset)
    try:
        return decoded(data, charset)
    except CharsetError:
        if not is_stated(own):
            raise
        return decoded(data, own)


def _bytes(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    if any(isinstance(defect, InvalidBase64LengthDefect) for defect in part.defects):  # cut off: left undecoded
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
        data = a2b_base64(letters[: len(letters) // 4 * 4])
    return data


def _is_no_text(part: Message) -> bool:
    cut = any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in part.defects)  # inside its headers
    return cut or part.get_content_disposition() == "attachment" or part.get_filename() is not None


def _param(part: Message, name: str) -> str:
    value = part.get_param(name)
    return value.lower() if isinstance(value, str) else ""


def _joined(text: str, delete_blanks: bool) -> str:
    """Rejoins lines of format=flowed (RFC 3676): broken after a blank, at the same quotation depth."""
    pieces: list[str] = []
    open_depth = -1  # quotation depth of the last line, if it continues
    for line in text.replace("\r\n", "\n").split("\n"):
        bare = line.lstrip(">")
        depth = len(line) - len(bare)
        bare = bare.removeprefix(" ")  # space-stuffing
        goes_on = bare.endswith(" ") and bare != "-- "
        if open_depth != depth or bare in ("", "-- "):
            pieces.append("\n" + ">" * depth + " " * (depth > 0))
        pieces.append(bare[:-1] if goes_on and delete_blanks else bare)
        open_depth = depth if goes_on else -1
    return "".join(pieces)
