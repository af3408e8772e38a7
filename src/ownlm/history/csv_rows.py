"""Rows of a CSV or TSV file whose first line names the columns, `user_id` among them."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ownlm.errors import DataError
from ownlm.filesystem import LINE_BYTES
from ownlm.history.content import open_content
from ownlm.history.values import Unreadable

_DELIMITERS: Final = ",;\t|"
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes
csv.field_size_limit(LINE_BYTES)  # of 128 KiB by default, which a text may exceed


def delimiter_of(line: str) -> str | None:
    """What separates the columns that a first line names; None where `user_id` is not among them.

    >>> delimiter_of('"user_id";"text"'), delimiter_of("user_id\\ttext"), delimiter_of("id,text")
    (';', '\\t', None)
    """
    return next((mark for mark in _DELIMITERS if "user_id" in _header(line, mark)), None)


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read_csv(
    path: Path, names: Collection[str], required: Collection[str]
) -> Iterator[tuple[str, dict[str, str] | Unreadable]]:
    """The rows, each with "file:line", the line on which it begins; an empty cell is there as an empty text.

    Args:
        names: columns to read, where the file has them.
        required: those it must have.

    Returns:
        Rows; one that has more or fewer columns than the first line, that is not UTF-8, or whose quotes do not match,
        is `Unreadable`.

    Raises:
        DataError: the first line lacks a column, or names one twice.
    """
    with io.TextIOWrapper(open_content(path), "utf-8-sig", errors="surrogateescape", newline="") as file:
        lines, first, before = _lines(path, file), "", 0
        while not first.strip() or first.lower().startswith("sep="):  # Excel writes sep=; for itself
            first, before = next(lines, "user_id"), before + 1
        delimiter = delimiter_of(first)
        header = _header(first, delimiter or ",")
        _check_header(path, header, names, required)
        places = {name: header.index(name) for name in names if name in header}
        reader = csv.reader(lines, delimiter=delimiter or ",", strict=True)
        while True:
            line = before + reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error:
                yield f"{path}:{line}", Unreadable("the quotes of the row do not match")
                continue
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue  # a blank line, or one of empty cells, as spreadsheets write
            if len(cells) != len(header):
                yield (
                    f"{path}:{line}",
                    Unreadable(f"the row has {len(cells)} columns, the first line {len(header)}"),
                )
            elif any(not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells):
                yield f"{path}:{line}", Unreadable("the line is not UTF-8")
            else:
                yield f"{path}:{line}", {name: cells[place] for name, place in places.items()}


def _lines(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    for line in iter(lambda: file.readline(LINE_BYTES), ""):
        if len(line) == LINE_BYTES:
            raise DataError(f"A line of the file {path} is too long", expected=f"less than {LINE_BYTES:,} letters")
        yield line


def _check_header(path: Path, header: list[str], names: Collection[str], required: Collection[str]) -> None:
    if missing := set(required) - set(header):
        raise DataError(
            f"The file {path} lacks the columns {', '.join(sorted(missing))}",
            expected=f"a first line with the columns {', '.join(sorted(required))}",
            hint="rename its columns, or write a task file with its names",
        )
    if twice := [name for name in names if header.count(name) > 1]:
        raise DataError(f"The file {path} has two columns {twice[0]!r}", hint="rename or remove one")
