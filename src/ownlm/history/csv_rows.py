"""Rows of a CSV or TSV file whose first line names the columns, `user_id` among them."""

import csv
import io
import re
from collections import deque
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from ownlm.errors import DataError
from ownlm.filesystem import LINE_BYTES
from ownlm.history.content import open_content
from ownlm.history.values import Unreadable, is_time_like

_DELIMITERS: Final = ",;\t|"
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes
_MISSING: Final = frozenset({"NULL", "NaN", "\\N", "<NA>", "NaT"})  # as programs write a cell without a value
_NO_USER: Final = _MISSING | {"nan", "None", "null"}
_FLOAT: Final = re.compile(r"\d+\.0+", re.ASCII)
_ROW_LINES: Final = 10_000  # lines of one row, in whose quoted cells there are line ends
_ROW_LETTERS: Final = 16 << 20
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
) -> Iterator[tuple[str, dict[str, str | Unreadable] | Unreadable]]:
    """The rows, each with "file:line", the line on which it begins; an empty cell is there as an empty text.

    Args:
        names: columns to read, where the file has them; those that may be a time are read too.
        required: those it must have.

    Returns:
        Rows; one that has more or fewer columns than the first line, that is not UTF-8, that repeats the first line, or
        whose quotes do not match or seem not to be escaped, is `Unreadable`. After such quotes reading goes on at the
        next line.

    Raises:
        DataError: the file is empty, or the first line lacks a column, or names one twice.
    """
    with io.TextIOWrapper(open_content(path), "utf-8-sig", errors="surrogateescape", newline="") as file:
        lines, first = _Lines(path, file), ""
        while not first.strip() or first.lower().startswith("sep="):  # Excel writes sep=; for itself
            try:
                first = next(lines)
            except StopIteration:
                raise DataError(f"The file {path} holds no rows", expected="a first line with the columns") from None
        delimiter = delimiter_of(first) or ","
        header = _header(first, delimiter)
        _check_header(path, header, names, required)
        wanted = [name for name in header if name in names or is_time_like(name)]
        places = {name: header.index(name) for name in wanted}
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin_row()
            place, again = f"{path}:{lines.number + 1}", lines.again > 0
            try:
                cells = next(reader, None)
            except (csv.Error, _EndlessRow):
                yield place, Unreadable(f"the quotes of the row do not match{lines.span()}")
                lines.back_up()
                continue
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue  # a blank line, or one of empty cells, as spreadsheets write
            if _are_rows(lines.taken, delimiter, len(header)):
                yield place, Unreadable(f"a cell in quotes runs over what look like rows{lines.span()}")
                lines.back_up()
                continue
            wrong = _wrong(cells, header, again)
            yield place, Unreadable(wrong) if wrong else _row(cells, places, required)


def _wrong(cells: list[str], header: list[str], again: bool) -> str | None:
    """What is wrong with a row; `again` where it is read again after quotes that do not match."""
    if len(cells) != len(header):
        return f"the row has {len(cells)} columns, the first line {len(header)}"
    if [cell.strip("\ufeff \t") for cell in cells] == header:
        return "the row repeats the first line, as where files are joined"
    if any(not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells):
        return "the line is not UTF-8"
    if again and _is_prose(cells):
        return "the line looks like a part of the cell whose quotes do not match, before it"
    return None


def _row(cells: list[str], places: dict[str, int], required: Collection[str]) -> dict[str, str | Unreadable]:
    row: dict[str, str | Unreadable] = {}
    for name, place in places.items():
        cell = cells[place]
        row[name] = "" if name not in required and cell.strip() in _MISSING else cell
    user = cells[places["user_id"]].strip() if "user_id" in places else ""
    if user in _NO_USER:
        row["user_id"] = Unreadable("is missing: its cell holds a program's word for that")
    elif _FLOAT.fullmatch(user):
        row["user_id"] = Unreadable("is a whole number written with a point; write it without")
    return row


def _are_rows(lines: list[str], delimiter: str, columns: int) -> bool:
    """Whether the lines of one row are rows themselves, as where a quotation mark of a text is not escaped.

    Half of them or more have as many columns as the first line of the file, two of them filled, and are no prose. The
    line in which the row's other cells stand does not count: the last one where they follow the quoted cell, else the
    first one.

    >>> _are_rows(['ada,"hello', "bob,hello", 'cem,bye"'], ",", 2), _are_rows(['ada,"Hello', 'Well, bye"'], ",", 2)
    (True, False)
    """
    if columns < 2 or len(lines) < 2:
        return False
    cells_follow = f'"{delimiter}' in lines[-1]
    looked_at = lines[:-1] if cells_follow else lines[1:]
    filled = [line.rstrip("\r\n").split(delimiter) for line in looked_at if line.strip()]
    alike = sum(
        len(cells) == columns and sum(bool(cell.strip('" \t')) for cell in cells) > 1 and not _is_prose(cells)
        for cells in filled
    )
    if cells_follow and lines[0].rstrip().endswith(delimiter):  # such as "Dear all,
        alike -= 1
    return alike > 0 and 2 * alike >= len(filled)


def _is_prose(cells: list[str]) -> bool:
    """Whether delimiters stand as in prose: a blank follows, or they part the thousands of a number.

    >>> _is_prose(["Well", " bye"]), _is_prose(["there were 10", "000 of them"]), _is_prose(["ada", "100"])
    (True, True, False)
    """
    return any(
        cell.startswith(" ") or bool(re.search(r"(^|\s)\d{1,3}$", before) and re.match(r"\d{3}\b", cell))
        for before, cell in pairwise(cells)
    )


class _EndlessRow(Exception):
    """A row is longer than any."""


class _Lines(Iterator[str]):
    """The lines of a file, which can be read again from the second one of a row on.

    Attributes:
        taken: the lines of the row that is being read.
        number: how many lines were read.
        again: how many of the next lines were read before.
    """

    def __init__(self, path: Path, file: io.TextIOWrapper) -> None:
        self._path, self._file, self._next, self._letters = path, file, deque[str](), 0
        self.taken, self.number = list[str](), 0

    @property
    def again(self) -> int:
        return len(self._next)

    def __next__(self) -> str:
        line = self._next.popleft() if self._next else self._file.readline(LINE_BYTES)
        if not line:
            raise StopIteration
        if len(line) == LINE_BYTES:
            raise DataError(
                f"A line of the file {self._path} is too long", expected=f"less than {LINE_BYTES:,} letters"
            )
        self.taken.append(line)
        self.number += 1
        if len(self.taken) > 1:
            self._letters += len(line)
            if len(self.taken) > _ROW_LINES or self._letters > _ROW_LETTERS:
                raise _EndlessRow
        return line

    def begin_row(self) -> None:
        self.taken, self._letters = [], 0

    def back_up(self) -> None:
        """Goes back to the second line of the row."""
        self.number -= len(self.taken) - 1
        self._next.extendleft(reversed(self.taken[1:]))

    def span(self) -> str:
        """The lines of the row, in words; nothing where it is one line."""
        first = self.number - len(self.taken) + 1
        if len(self.taken) < 2:
            return ""
        return f", lines {first} to {self.number}; a quotation mark within a text is written twice, in a quoted cell"


def _check_header(path: Path, header: list[str], names: Collection[str], required: Collection[str]) -> None:
    if missing := set(required) - set(header):
        raise DataError(
            f"The file {path} lacks the columns {', '.join(sorted(missing))}",
            expected=f"a first line with the columns {', '.join(sorted(required))}",
            hint="rename its columns, or write a task file with its names",
        )
    if twice := [name for name in names if header.count(name) > 1]:
        raise DataError(f"The file {path} has two columns {twice[0]!r}", hint="rename or remove one")
