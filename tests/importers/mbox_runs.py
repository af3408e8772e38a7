"""Imports of small mailboxes, and what must be so after each of them."""

import json
from collections import Counter
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task
from ownlm.importers.imported import Imported
from ownlm.importers.mbox import import_mbox
from tests.history.files import SECRET
from tests.importers.mailbox_files import ME, message, write_messages

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
