"""Small messages, and what is read of them."""

import base64
import quopri
from email import message_from_bytes
from email.message import Message

from ownlm.importers.mail.text import own_text

FLOWED = "text/plain; format=flowed"
BOB = "Bob Builder <bob@example.com>"


def mail(body: bytes | str, kind: str = "text/plain; charset=utf-8", coding: str | None = None) -> Message:
    data = body.encode() if isinstance(body, str) else body
    coded = {"base64": base64.encodebytes, "quoted-printable": quopri.encodestring}.get(coding or "", bytes)(data)
    head = f"Content-Type: {kind}\n" + (f"Content-Transfer-Encoding: {coding}\n" if coding else "")
    return message_from_bytes(b"From: ada@example.org\n" + head.encode() + b"\n" + coded)


def text(body: bytes | str, kind: str = "text/plain; charset=utf-8", coding: str | None = None) -> str:
    return own_text(mail(body, kind, coding))


def several(*parts: str | bytes, kind: str = "mixed") -> Message:
    """A multipart message of parts with their own headers."""
    pieces = [part if isinstance(part, bytes) else part.encode() for part in parts]
    body = b"".join(b"--==\n" + piece + b"\n" for piece in pieces) + b"--==--\n"
    return mail(b"preamble\n" + body + b"epilogue\n", f'multipart/{kind}; boundary="=="')


def flowed(body: str) -> str:
    return text(body, FLOWED)


def html(body: str) -> str:
    return text(body, "text/html; charset=utf-8")
