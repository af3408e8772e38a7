"""Message headers: sender, time, labels, and whether the subject is the sender's own words."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.utils import getaddresses, parsedate_to_datetime
from typing import Final

from ownlm.history.times import read_time
from ownlm.importers.mail import labels as mail_labels
from ownlm.importers.mail import words
from ownlm.importers.mail.charsets import CharsetError, decoded, holds_ascii, html_charset, is_stated
from ownlm.importers.mail.text import tidy

_LONGEST: Final = 10_000  # most bytes read of a header

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_ANGLED: Final = re.compile(r"<\s*([^<>\s]+)\s*>")
_NUMBER: Final = r" ?(?:\[\d+\]|\(\d+\)|[\^*]\d+|(?<=\w)\d{1,2})? ?[:\uff1a\ufe55\ufe30]"
_PREFIX: Final = re.compile(f"(?:{'|'.join(words.PREFIXES)}){_NUMBER}", re.I)
_UNLISTED: Final = re.compile(rf"[^\W\d_][^\s:\uff1a\ufe55\ufe30\[\](){{}}\d]{{0,11}}{_NUMBER}(?!//)")  # marks a reply
_ISO_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d", re.ASCII)
_LIST: Final = re.compile(r"(?:\[[^\]]{1,40}\]|\u3010[^\u3011]{1,40}\u3011) ?")
_FORWARDED: Final = re.compile(r"\[fwd?: ?(.*)\]$|(.*) \(fwd\)$", re.I)


def header(head: Message, name: str) -> str:
    """A header's decoded text on one line; empty if missing. Undecodable parts stay encoded."""
    try:
        return _decoded(head, name, head.get_content_charset())
    except CharsetError:
        return _line(_raw(head, name))


def addresses(head: Message, *names: str) -> list[str]:
    """The addresses in the given headers, in lower case."""
    charset = head.get_content_charset()
    value = ", ".join(_line(_without_failure(_raw(head, name), charset)) for name in names)
    # Of "bob@example.com <ada@example.org>", Python's versions find both addresses, or none.
    found = _ANGLED.findall(_QUOTED.sub("", value)) or [address for _, address in getaddresses([value])]
    return [address.strip().lower() for address in found if address.strip()]


def has_bytes(head: Message, name: str) -> bool:
    """Whether a header has raw bytes outside ASCII, in an unstated charset."""
    return not _raw(head, name).isascii()


def stated_charset(message: Message) -> str | None:
    """The first charset stated by a text part, in its headers or its HTML."""
    for part in message.walk():
        if part.get_content_maintype() != "text":
            continue
        if is_stated(charset := part.get_content_charset()):
            return charset
        data = part.get_payload(decode=True)
        if part.get_content_subtype() == "html" and isinstance(data, bytes) and (charset := html_charset(data)):
            return charset
    return None


def labels(head: Message) -> dict[str, str]:
    """A message's Gmail labels: the normalised names, with the original ones."""
    given = header(head, "x-gmail-labels") or header(head, "x-gm-labels")
    return mail_labels.parsed_labels(given) if given else {}


def is_sent(head: Message) -> bool:
    """Whether Gmail labelled the message as sent."""
    return _is_labelled(head, mail_labels.SENT)


def is_spam(head: Message) -> bool:
    """Whether a filter marked it as spam, which often fakes its recipient as the sender."""
    return _is_labelled(head, mail_labels.SPAM) or header(head, "x-spam-flag").lower() == "yes"


def is_draft(head: Message) -> bool:
    """Whether it is a draft: by label or flags, or without date and recipient."""
    addressed = any(name in head for name in ("date", "to", "cc", "bcc", "newsgroups", "resent-to"))
    flagged = "T" in _flags(head, "status") + _flags(head, "x-status") or header(head, "x-unsent") == "1"
    flagged |= any(name in head for name in ("x-mozilla-draft-info", "x-draft-info"))
    flagged |= header(head, "x-uniform-type-identifier") == "com.apple.mail-draft"
    return flagged or not addressed or _is_labelled(head, mail_labels.DRAFTS)


def is_deleted(head: Message) -> bool:
    """Whether it is marked as deleted."""
    status = header(head, "x-mozilla-status")
    expunged = re.fullmatch(r"[\da-fA-F]{4}", status) and int(status, 16) & 8
    return bool(expunged) or "D" in _flags(head, "x-status") or _is_labelled(head, mail_labels.TRASH)


def is_automatic(head: Message) -> bool:
    """Whether a program wrote it: automatic replies, receipts, chat logs."""
    return (
        header(head, "auto-submitted").lower().partition(";")[0].strip() not in ("", "no")
        or header(head, "precedence").lower() in ("bulk", "junk", "auto_reply")
        or any(name in head for name in ("x-autoreply", "x-autorespond"))
        or head.get_content_type() == "multipart/report"
        or _is_labelled(head, mail_labels.CHATS)
    )


def answers_invitation(message: Message) -> bool:
    """Whether the message is an answer to a calendar invitation."""
    calendars = (part for part in message.walk() if part.get_content_type() == "text/calendar")
    return any(str(part.get_param("method")).lower() in ("reply", "counter") for part in calendars)


def moment(head: Message) -> str | None:
    """The time in ISO 8601 and UTC; None before 1970 and from 2106 on, which come from wrong clocks."""
    try:
        date = _date(header(head, "date"))
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):  # raised by the library on nonsense
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat() if 0 < seconds < 2**32 else None


def _date(text: str) -> datetime:
    if _ISO_DATE.match(text):
        return datetime.fromisoformat(read_time(text))
    return parsedate_to_datetime(text)


def own_subject(head: Message, charset: str | None = None) -> tuple[str, bool]:
    """The subject without prefixes such as 'Re:', and whether it had any (then another sender wrote it).

    Args:
        charset: the charset of raw bytes.

    Raises:
        CharsetError: the subject cannot be decoded.
    """
    subject = _decoded(head, "subject", charset)
    if subject.lower() in words.NO_SUBJECT:
        return "", False
    topic = header(head, "thread-topic")  # Outlook's: the subject without prefixes
    in_thread = any(name in head for name in ("in-reply-to", "references", "x-forwarded-message-id"))
    in_thread |= bool(topic) and subject != topic and subject.endswith(topic)
    lists, answers = "", False
    while True:
        if match := _FORWARDED.match(subject):
            subject, answers = match[1] or match[2] or "", True
        elif match := _PREFIX.match(subject) or (_UNLISTED.match(subject) if in_thread and not answers else None):
            subject, answers = subject[match.end() :].strip(), True
        elif match := _LIST.match(subject):
            lists, subject = lists + match[0], subject[match.end() :]
        else:
            return (lists + subject).strip(), answers


def _flags(head: Message, name: str) -> str:
    flags = header(head, name)
    return flags if re.fullmatch("[A-Z]{1,6}", flags) else ""


def _is_labelled(head: Message, listed: frozenset[str]) -> bool:
    return not listed.isdisjoint(labels(head))


def _decoded(head: Message, name: str, charset: str | None) -> str:
    raw = _raw(head, name)
    if "=?" not in raw:
        return _line(_decoded_bytes(raw, charset))
    try:
        parts = decode_header(raw)
    except (HeaderParseError, ValueError):
        return ""
    pieces = []
    for part, stated in parts:
        text = part if isinstance(part, str) else part.decode("latin-1")
        pieces.append(_decoded_bytes(text, charset) if stated is None else decoded(text.encode("latin-1"), stated))
    return _line("".join(pieces))


def _decoded_bytes(raw: str, charset: str | None) -> str:
    """Decodes a header's raw bytes in the message's charset, or without one where they are ASCII."""
    data = raw.encode("latin-1")
    if data.isascii() or not holds_ascii(charset):
        return decoded(data, None)
    try:
        return decoded(data, charset)
    except CharsetError:
        with suppress(CharsetError):
            return decoded(data, None)
        raise


def _without_failure(raw: str, charset: str | None) -> str:
    try:
        return _decoded_bytes(raw, charset)
    except CharsetError:
        return raw


def _raw(head: Message, name: str) -> str:
    """A raw header on one line, one character per byte."""
    value = next((value for key, value in head.raw_items() if key.lower() == name), "")
    data = value[:_LONGEST].encode("ascii", "surrogateescape")
    return data.decode("latin-1").replace("\r", "").replace("\n", " ")


def _line(text: str) -> str:
    return " ".join((text if text.isprintable() else tidy(text)).split())
