"""Importer of mbox mailboxes: the texts and subjects that the mailbox's owner wrote."""

import os
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import parseaddr
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from ownlm.errors import DataError, quoted
from ownlm.filesystem import open_regular
from ownlm.history.files import reading
from ownlm.importers.imported import Imported, at_least_one, pseudonym, reasons, write_rows
from ownlm.importers.mail.charsets import CharsetError
from ownlm.importers.mail.headers import (
    addresses,
    answers_invitation,
    has_bytes,
    header,
    is_automatic,
    is_deleted,
    is_draft,
    is_sent,
    is_spam,
    labels,
    moment,
    own_subject,
    stated_charset,
)
from ownlm.importers.mail.labels import LabelUse
from ownlm.importers.mail.text import own_text
from ownlm.progress import Progress, silent

_MOST: Final = 4 << 20  # most bytes read of a message: the text comes before attachments
_HEAD: Final = 64 << 10  # most bytes of its headers
_PIECE: Final = 64 << 10  # most bytes read of a line at a time

_DAY: Final = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH: Final = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATE: Final = rb"%s,? +(?:%s +\d{1,2}|\d{1,2}[ -]%s)\b.{0,12}?\b\d{1,2}:\d\d" % (_DAY, _MONTH, _MONTH)
# "From ", an address or its substitute ("-", "a at example.org"), and a date in asctime or mail form.
_SENDER_LINE: Final = re.compile(rb"From (?:\S{1,200}(?: at \S{1,200})?)? *" + _DATE)
# Without such a date: at most one word, an address with another date, or a name with a date.
_UNDATED_LINE: Final = re.compile(rb"From (?:\S*\s*$|(?:-|\S*@\S*|MAILER-DAEMON) .*\d|.{1,200} %s)" % _DATE)
_FIELD: Final = re.compile(rb"[!-9;-~]{1,80}[ \t]*:|>From ")
_USUAL_FIELD: Final = re.compile(
    rb"(?:From|To|Cc|Bcc|Subject|Date|Received|Return-Path|Delivered-To|Envelope-To|Message-ID|MIME-Version|Sender"
    rb"|Reply-To|In-Reply-To|References|Status|Content-[\w-]+|X-[\w-]+|DKIM-Signature|Authentication-Results"
    rb"|ARC-[\w-]+|Thread-[\w-]+|User-Agent|List-[\w-]+|Resent-[\w-]+|Priority|Importance|Organization)[ \t]*:|>From ",
    re.I,
)
_ESCAPED: Final = re.compile(rb"^>(>*From )", re.M)
_BLANK: Final = re.compile(rb"\r?\n\r?\n")
_NO_HEADER: Final = re.compile(rb"^(?![!-9;-~]+:|[ \t\r\n]).*\n?", re.M)  # the parser expects text after such a line

# compat32 accepts broken headers, on which the newer policies fail, and is ten times faster.
_PARSER: Final = BytesParser(policy=compat32)


class _Owner(NamedTuple):
    """The owner of the mailbox."""

    address: str  # how the owner is recognised
    sent: Callable[[Message], bool]  # whether a message is the owner's
    messages: int  # number of messages, of all senders
    drafts: frozenset[str] = frozenset()  # labels of drafts, from the mailbox's own use


def import_mbox(
    file: Path,
    out: Path,
    *,
    me: Sequence[str] = (),
    replies: bool = False,
    keep_names: bool = False,
    progress: Progress = silent,
) -> Imported:
    """Writes the history of the mail that an mbox mailbox's owner sent, for the task `mail-subject`.

    Other senders' mail, drafts, automatic mail, and replies and forwards (whose subjects are another sender's) are left
    out. A record's text is without quotations, signatures and attachments.

    Args:
        file: the mailbox, which is not changed.
        out: the history file to write.
        me: the owner's addresses; by default the sender of mail with Gmail's label for sent mail, or the only sender.
        replies: include replies and forwards, their subjects without 'Re:'.
        keep_names: use the mail address as user id, instead of its hash.

    Returns:
        The result.

    Raises:
        DataError: the mailbox is missing, its owner is unclear, or no message can be used. Nothing is written then.

    Source: ours.
    """
    _check(file, out)
    owner = _owner(file, [_address(given) for given in me], progress)
    user = owner.address if keep_names else pseudonym(owner.address)
    imported, left_out, used = Imported("mail-subject", files=[out]), Counter[str](), Counter[str]()
    found = _rows(file, owner, replies, left_out, used, progress)
    rows = at_least_one(found, lambda: _nothing(file, left_out))
    imported.records[user] = write_rows(out, ({"user_id": user, **row} for row in rows))
    imported.without_time = used.pop("", 0)
    imported.left_out, imported.labels = dict(left_out.most_common()), dict(used.most_common())
    return imported


def split_mailbox(file: Path, most: int = _MOST) -> Iterator[tuple[bytes, int]]:
    """Yields the messages of a mailbox, cut to their first bytes, without their line "From ...", and the position.

    Mail programs differ in how they mark a line of text that begins with "From ". A separator has an address and a
    date, and a blank line before it or a header after it. With a doubtful date, it has at most one word, an address or
    a name with a date, and comes between a blank line and a usual mail header.
    """
    message, place, held = bytearray(), 0, b""
    starts, blank, begun = True, False, False
    with reading(file), open_regular(file) as stream:
        while piece := stream.readline(_PIECE):
            if held and starts:
                if not begun or _separates(held, piece, blank):
                    if begun:
                        yield bytes(message), place
                    message.clear()
                    begun = True
                else:
                    message += held
                held, blank = b"", False
            if not place:
                piece, place = piece.removeprefix(BOM_UTF8), len(piece) - len(piece.removeprefix(BOM_UTF8))
            if starts and piece.startswith(b"From "):
                held = piece
            elif not held:
                blank = starts and not piece.strip()
                if len(message) < most:
                    message += piece
            starts = piece.endswith(b"\n")
            place += len(piece)
    yield bytes(message if _SENDER_LINE.match(held) else message + held), place


def _separates(line: bytes, following: bytes, blank: bool) -> bool:
    """Whether a line that begins with "From " separates messages; blank: an empty line precedes it."""
    if _SENDER_LINE.match(line):
        return blank or bool(_FIELD.match(following))
    return blank and bool(_UNDATED_LINE.match(line) and _USUAL_FIELD.match(following))


def _check(file: Path, out: Path) -> None:
    with reading(file):
        if file.is_dir():
            raise DataError(
                f"{file} is a folder",
                got="a Maildir" if (file / "cur").is_dir() else None,
                expected="a mailbox in mbox format, which is one file",
                hint=f"give {quoted(file / 'mbox')}" if (file / "mbox").is_file() else "export the mail as mbox",
            )
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is not a regular file", expected="a regular file", hint="save the mail to a file")
        with open_regular(file) as stream:
            head = stream.read(_HEAD).removeprefix(BOM_UTF8).lstrip()[:5]
        if out.exists() and os.path.samefile(file, out):
            raise DataError(f"The history would be written over the mailbox {file}", hint="give it another name")
    if head != b"From ":
        packed = head.startswith((b"\x1f\x8b", b"PK", b"BZh", b"\xfd7zXZ", b"7z"))
        raise DataError(
            f"The file {file} is not a mailbox in mbox format",
            got="an empty file" if not head else "a packed file" if packed else "another beginning",
            expected="a file that begins with 'From '",
            hint="unpack it" if packed else "Google Takeout, Thunderbird and Apple Mail can export mail as mbox",
        )


def _address(given: str) -> str:
    address = parseaddr(given)[1].strip().lower()
    if "@" not in address:
        raise DataError(
            "The address of the mailbox's owner is not a mail address", expected="an address such as ada@example.org"
        )
    return address


def _owner(file: Path, me: list[str], progress: Progress) -> _Owner:
    count, labelled, senders, use, mine = 0, Counter[str](), Counter[str](), LabelUse(), frozenset(me)
    size = file.stat().st_size
    for message, place in split_mailbox(file, _HEAD):
        count += 1
        if count % 256 == 0 or place >= size > 1e6:
            progress("megabytes", place / 1e6, size / 1e6)
        with suppress(Exception):  # as in _rows; there it is counted
            head = _PARSER.parsebytes(_halves(message)[0])
            if not me:
                (labelled if is_sent(head) else senders).update(addresses(head, "from")[:1])
            elif mine.isdisjoint(addresses(head, "from", "sender")):
                use.add_others(labels(head), f"{header(head, 'in-reply-to')} {header(head, 'references')}")
            else:
                use.add_own(labels(head), header(head, "message-id"), "received" in head)
    if me:
        return _Owner(
            me[0], lambda head: not mine.isdisjoint(addresses(head, "from", "sender")), count, use.drafts()
        )  # fmt: skip
    if labelled:
        return _Owner(labelled.most_common(1)[0][0], is_sent, count)
    if len(senders) != 1:
        raise DataError(
            f"The owner of the mailbox {file} is unclear",
            got=f"mail from {len(senders):,} addresses",
            expected="mail from one, or Gmail's label for what was sent",
            hint="say which address is the owner's",
            command=f"ownlm import mbox --me ADDRESS {quoted(file)} OUT.jsonl",
        )
    (only,) = senders
    return _Owner(only, lambda head: only in addresses(head, "from"), count)


def _halves(message: bytes) -> tuple[bytes, bytes]:
    """Splits a message into its headers, without malformed lines, and its body."""
    end = _BLANK.search(message)
    middle = end.start() if end else len(message)
    return _NO_HEADER.sub(b"", message[:middle]), message[middle:]


def _rows(
    file: Path, owner: _Owner, replies: bool, left_out: Counter[str], used: Counter[str], progress: Progress
) -> Iterator[dict[str, str]]:
    known: set[bytes] = set()
    for number, (message, _) in enumerate(split_mailbox(file), 1):
        try:
            found = _row(message, owner, replies, known, used)
        except CharsetError as error:
            found = f"unreadable: {error.reason}"
        except Exception:  # the library's parsers raise many kinds of errors on malformed and hostile mail
            found = "damaged"
        if isinstance(found, str):
            left_out[found] += 1
        else:
            yield found
        if number % 256 == 0 or number == owner.messages:
            progress("messages", number, owner.messages)


def _row(data: bytes, owner: _Owner, replies: bool, known: set[bytes], used: Counter[str]) -> dict[str, str] | str:
    """A record's row, or the reason for leaving the message out."""
    before, after = _halves(data)
    head = _PARSER.parsebytes(before)
    if not owner.sent(head) or is_spam(head):
        return "not sent by you" if head.keys() else "damaged"

    def whole() -> Message:
        return _PARSER.parsebytes(before + _ESCAPED.sub(rb"\1", after))

    raw = has_bytes(head, "subject")
    subject, answers = own_subject(head, stated_charset(whole()) if raw else None)
    given = labels(head)
    unsent = [name for label, name in given.items() if label in owner.drafts]
    reasons = {
        "drafts": is_draft(head),
        f"drafts, by the label {unsent[0] if unsent else ''}": bool(unsent),
        "deleted": is_deleted(head),
        "automatic": is_automatic(head),
        "replies and forwards": answers and not replies,
        "without a subject": not subject,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        return reason
    message = whole()
    if answers_invitation(message):
        return "automatic"
    text, time = own_text(message), moment(head)
    if not any(map(str.isalnum, text)):
        return "without text of their own"
    content = _digest("\0".join((time or "", subject, text)))
    id = header(head, "message-id").strip("<> ")
    marks = {content, _digest(id)} if id else {content}
    if not known.isdisjoint(marks):
        return "the same again"
    known |= marks
    used.update(given.values() if time else [*given.values(), ""])
    # Hashed, because message ids contain names of machines and domains.
    row = {"id": _digest(id).hex() if id else content.hex(), "time": time, "text": text, "subject": subject}
    return {name: value for name, value in row.items() if value}


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()[:12]


def _nothing(file: Path, left_out: Counter[str]) -> DataError:
    """The error for a mailbox without a message to learn from."""
    hint, command = "give a mailbox with sent mail in it", None
    if left_out["replies and forwards"]:
        hint, command = "include replies and forwards", f"ownlm import mbox --replies {quoted(file)} OUT.jsonl"
    elif left_out["not sent by you"] == left_out.total():
        hint = "check the owner's address"
    return DataError(
        f"The mailbox {file} has no message to learn from",
        got=reasons(left_out),
        expected="messages with a subject and a text that you sent",
        hint=hint,
        command=command,
    )
