"""Reader of CSV and TSV files; the first line names the columns, including `user_id`."""

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
from ownlm.history.values import Unreadable, check_columns, is_time_like

_DELIMITERS: Final = ",;\t|"
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes
_MISSING: Final = frozenset({"NULL", "NaN", "\\N", "<NA>", "NaT"})  # as programs write a cell without a value
_NO_USER: Final = _MISSING | {"nan", "None", "null"}
_FLOAT: Final = re.compile(r"\d+\.0+", re.ASCII)
_ROW_LINES: Final = 10_000  # maximum number of lines of a row with line ends in quoted cells
_ROW_LETTERS: Final = 16 << 20
csv.field_size_limit(LINE_BYTES)  # of 128 KiB by default, which a text may exceed


def delimiter_of(line: str) -> str | None:
    """The delimiter of a header line; None where no column is `user_id`.

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
    """Yields the rows, each with "file:line" of its first line; an empty cell is an empty text.

    Args:
        names: columns to read where present; columns that may hold a time are read too.
        required: columns that the file must have.

    Returns:
        Rows. A row is `Unreadable` if its number of columns differs from the header's, if it is not UTF-8, repeats the
        header, or has unmatched or unescaped quotes; reading then continues on its second line.

    Raises:
        DataError: the file is empty, or the header lacks a column or repeats one.
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
        check_columns(path, header, names, required)
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
    """Describes what is wrong with a row; `again`: the row is read again after unmatched quotes."""
    if len(cells) != len(header):
        return f"the row has {len(cells)} columns, the first line {len(header)}"
    if [cell.strip("\ufeff \t") for cell in cells] == header:
        return "the row repeats the first line, as where files are joined"
    if any(not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells):
        return "the line is not UTF-8"
    if again and _is_prose(cells):
        return "the line looks like a part of the cell before it, which has unmatched quotes"
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
    """Whether the lines of a row are rows themselves, because a quotation mark was not escaped.

    True if at least half of the lines have as many columns as the header, two of them filled, and are not prose. The
    line with the row's other cells is not counted: the last line where they follow the quoted cell, else the first.

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
    """Whether delimiters look like punctuation: followed by a blank, or between the thousands of a number.

    >>> _is_prose(["Well", " bye"]), _is_prose(["there were 10", "000 of them"]), _is_prose(["ada", "100"])
    (True, True, False)
    """
    return any(
        cell.startswith(" ") or bool(re.search(r"(^|\s)\d{1,3}$", before) and re.match(r"\d{3}\b", cell))
        for before, cell in pairwise(cells)
    )


class _EndlessRow(Exception):
    """A row has too many lines."""


class _Lines(Iterator[str]):
    """The lines of a file; the reader can go back to the second line of the current row.

    Attributes:
        taken: the lines of the current row.
        number: the number of lines read so far.
        again: the number of upcoming lines that were read before.
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
        """Goes back to the second line of the current row."""
        self.number -= len(self.taken) - 1
        self._next.extendleft(reversed(self.taken[1:]))

    def span(self) -> str:
        """The line range of the row in words; empty for a single line."""
        first = self.number - len(self.taken) + 1
        if len(self.taken) < 2:
            return ""
        return f", lines {first} to {self.number}; a quotation mark within a text is written twice, in a quoted cell"
