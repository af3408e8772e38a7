"""The result of an import, and the atomic write of its history file."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """The result of an import.

    Attributes:
        task: the task of the history: the name of a shipped task, or the path of the written task file.
        records: the number of records of each user.
        left_out: the number of items left out, by reason.
        files: the written files, the history first.
        labels: the number of imported records with each Gmail label.
        templates: the number of texts left out for each repeated template, the most frequent first.
        without_time: the number of records without a readable time.
        queries: the number of written queries.
        golds: the number of written queries with their right answer.
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
    """A user id made from a hash of a mail address.

    The id is a pseudonym and not anonymous: it can be computed from the address.

    >>> pseudonym("Ada@Example.org") == pseudonym("ada@example.org")
    True
    """
    return "u" + sha256(address.strip().lower().encode()).hexdigest()[:12]


def at_least_one(rows: Iterator[dict[str, str]], nothing: Callable[[], DataError]) -> Iterator[dict[str, str]]:
    """Passes rows on; raises the error that `nothing` makes where there are none."""
    first = next(rows, None)
    if first is None:
        raise nothing()
    yield first
    yield from rows


def reasons(left_out: Mapping[str, int]) -> str:
    """The numbers of items left out in words, the most frequent reason first.

    >>> reasons({"bots": 2, "merges": 1000})
    'left out: 1,000 merges, 2 bots'
    """
    counts = sorted(left_out.items(), key=lambda item: -item[1])
    return "left out: " + ", ".join(f"{count:,} {reason}" for reason, count in counts)


def plain_rows(what: str, expected: str) -> DataError:
    """The error for a file that is not of a benchmark's shape."""
    return DataError(
        what,
        expected=expected,
        hint="plain rows need no import: add them to the home as they are",
        command="ownlm history add FILE",
    )


def unwritable(path: Path, error: OSError) -> DataError:
    """The error for a file that cannot be written."""
    got = error.strerror or type(error).__name__
    return DataError(
        f"The file {path} cannot be written", got=got, hint="check the folder and its room, then try again"
    )


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows as JSON Lines, atomically.

    Returns:
        The number of rows.

    Raises:
        DataError: the file cannot be written, or exists and is not such a history.
    """
    if path.is_file() and not _is_ours(path):
        raise DataError(
            f"The file {path} exists and is not a history",
            expected="a new file, or one of an earlier import",
            hint="choose another name",
        )
    if path.is_dir():  # checked before the work, not after it
        raise DataError(f"{path} is a folder", expected="a file to write", hint="name a file in it")
    count = 0
    try:
        with unfinished(path) as temporary:  # readable by its owner only: mail and commits are private
            with temporary.open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json_line(row))
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.absolute().parent)
    except OSError as error:
        raise unwritable(path, error) from None
    return count


def _is_ours(path: Path) -> bool:
    """Whether a file is empty or begins with a row of a user."""
    try:
        with open_regular(path) as file:
            first = file.readline(1 << 24)
        return not first or "user_id" in json.loads(first)
    except (OSError, ValueError, TypeError):
        return False
