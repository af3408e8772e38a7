"""Files that list users: for commands about many of them at once."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ownlm.errors import DataError
from ownlm.filesystem import DOCUMENT_BYTES, read_regular

STDIN = Path("-")
_KEYS = ("user", "share", "licence")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NAMED = 20  # wrong lines; of more the rest is counted


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A line of such a file: a user, and what it says of their consent; None where it says nothing."""

    line: int
    user: str
    share: bool | None = None
    licence: str | None = None


def read_user_list(path: Path) -> list[ListedUser]:
    """The users of a file, each once, in its order.

    A line is a user's name; or, in a file that begins with "{", a JSON object; or, in a .csv file or one that begins
    with a header that has the column `user`, a row. Objects and rows may have `share` (true or false) and `licence`.

    Args:
        path: the file; "-" for stdin.

    Raises:
        DataError: it cannot be read, or some lines are wrong: all of them are named.
    """
    name = "stdin" if path == STDIN else str(path)
    listed: dict[str, ListedUser] = {}
    wrong: list[str] = []
    for line, found in _rows(_text(path, name), path.suffix.lower()):
        one = found if isinstance(found, str) else _listed(line, found)
        if isinstance(one, str):
            wrong.append(f"line {line}: {one}")
        elif (first := listed.setdefault(one.user, one)) and (first.share, first.licence) != (one.share, one.licence):
            wrong.append(f"line {line}: something else than line {first.line} says of the same user")
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise DataError(
            f"The list of users in {name} is wrong in {len(wrong):,} lines; nothing was changed",
            got="; ".join(wrong[:_NAMED]) + more,
            expected='a user a line; or objects {"user": ..., "share": true, "licence": ...}; or CSV with such columns',
        )
    if not listed:
        raise DataError(f"The list of users in {name} is empty", expected="a user a line")
    return list(listed.values())


def _text(path: Path, name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else read_regular(path, DOCUMENT_BYTES)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"The list of users in {name} cannot be read", got=error.strerror or error) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"The list of users in {name} is not UTF-8", got=f"another byte at {error.start:,}", hint="save it as UTF-8"
        ) from None


def _rows(text: str, suffix: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Lines with their numbers: as keys and values, or as what is wrong with them."""
    first = text.lstrip().split("\n", 1)[0].rstrip("\r")
    columns = [one.strip() for one in next(csv.reader([first]), [])]
    if not first.startswith("{") and (suffix == ".csv" or ("user" in columns and set(columns) <= set(_KEYS))):
        yield from _csv_rows(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not (line := line.removesuffix("\r")).strip():
            continue
        if not first.startswith("{"):
            yield number, {"user": line.strip()}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = [one.strip() for one in cells]
                if "user" not in columns:
                    yield reader.line_num, "a header without a column `user`"
                    return
            elif len(cells) != len(columns):
                yield reader.line_num, f"{len(cells)} cells under {len(columns)} columns"
            else:
                row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
                yield reader.line_num, {name: cell for name, cell in row.items() if cell or name == "user"}
    except csv.Error as error:
        yield reader.line_num, f"no CSV: {error}"


def _listed(line: int, row: dict[str, Any]) -> ListedUser | str:
    """A row as a listed user, or what is wrong with it."""
    if unknown := sorted(row.keys() - set(_KEYS)):
        return f"an unknown key {unknown[0]!r}"
    user, share, licence = (row.get(key) for key in _KEYS)
    if isinstance(share, str):
        share = _WORDS.get(share.strip().lower(), share)
    if not isinstance(user, str) or not user or user != user.strip():
        return "no user's name, or one with blanks around it"
    if not isinstance(share, bool | None):
        return "a `share` that is neither true nor false"
    if not isinstance(licence, str | None) or (licence is not None and not licence.strip()):
        return "an empty licence, or one that is no text"
    if licence is not None and share is False:
        return "a licence for a user who does not share"
    return ListedUser(line, user, share, licence)
