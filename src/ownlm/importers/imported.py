"""What every import comes to: a history file, written whole or not at all, and an account of it."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ownlm.durable import sync, unfinished
from ownlm.errors import DataError
from ownlm.filesystem import open_regular
from ownlm.json_lines import json_line


@dataclass(slots=True)
class Imported:
    """An account of an import.

    Attributes:
        task: what to give as `--task`: a shipped task's name, or the path of the task file written.
        records: how many records each person has, by user id.
        left_out: how much was not taken, by reason.
        files: what was written, the history first.
        labels: how many records were taken with each of Gmail's labels.
        templates: how many texts of each repeated template were left out, the most frequent first.
        without_time: how many records have no time, because none that can be read was given.
        queries: how many queries were written.
        golds: how many of them have their right answer.
    """

    task: str
    records: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    templates: dict[str, int] = field(default_factory=dict)
    without_time: int = 0
    queries: int = 0
    golds: int = 0


def pseudonym(address: str) -> str:
    """A user id that does not show an address, and is the same for it everywhere.

    A pseudonym, not anonymity: who knows the address can compute it too.

    >>> pseudonym("Ada@Example.org") == pseudonym("ada@example.org")
    True
    """
    return "u" + sha256(address.strip().lower().encode()).hexdigest()[:12]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows as JSON Lines: a whole file under its name, or what was there before.

    Returns:
        How many.

    Raises:
        DataError: the file cannot be written, or is there and holds something else than such rows.
    """
    if path.is_file() and not _is_ours(path):
        raise DataError(
            f"The file {path} is there already, and is no history",
            expected="a new file, or one of an earlier import",
            hint="name another OUT.jsonl",
        )
    if path.is_dir():  # known now, rather than when all is written
        raise DataError(f"{path} is a folder", expected="a file to write", hint="name a file in it")
    count = 0
    try:
        with unfinished(path) as temporary:  # for its owner alone: mail and commits are their author's
            with temporary.open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json_line(row))
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.absolute().parent)
    except OSError as error:
        raise DataError(
            f"The file {path} cannot be written", got=error.strerror, hint="check the folder, and that it has room"
        ) from None
    return count


def _is_ours(path: Path) -> bool:
    """Whether a file is empty or begins with a row of a user."""
    try:
        with open_regular(path) as file:
            first = file.readline(1 << 24)
        return not first or "user_id" in json.loads(first)
    except (OSError, ValueError, TypeError):
        return False
