"""Small files and tasks for the tests of histories."""

import json
from pathlib import Path
from typing import Any

from ownlm.history.record import History, Record
from ownlm.history.task import Task

NEWS = Task(
    name="news",
    instruction="File it under one of: {labels}.",
    input="title: {title}\narticle: {text}",
    answer="category: {category}",
    labels=("arts", "politics"),
    optional=("title",),
)
SECRET = "Sssecret"  # stands in every text that no error may repeat


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON Lines; bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_json(path: Path, document: Any) -> Path:
    """One JSON document."""
    path.write_text(json.dumps(document), "utf8")
    return path


def row(user: object = "u1", text: object = "rain", category: object = "arts", **more: object) -> dict[str, object]:
    """A good row of NEWS, unless told otherwise."""
    return {"user_id": user, "text": text, "category": category, **more}


def history_of(*fields: dict[str, str]) -> History:
    """One user's records, r0, r1 and so on, with these fields."""
    return History("u", tuple(Record("u", f"r{place}", each) for place, each in enumerate(fields)))
