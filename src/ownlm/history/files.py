"""Reader of rows from JSON Lines, a JSON array, CSV or Parquet, packed or not. Each row comes with its place."""

import codecs
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ownlm.errors import DataError
from ownlm.filesystem import LINE_BYTES
from ownlm.history.content import HEAD, is_parquet, open_content
from ownlm.history.csv_rows import delimiter_of, read_csv
from ownlm.history.json_stream import DECODER, ends_early, read_items, read_members
from ownlm.history.parquet import read_parquet

Kind = Literal["lines", "array", "csv", "parquet"]

_TABLES = (".csv", ".tsv")


def kind_of(path: Path) -> Kind:
    """Detects a file's format from its first bytes, and its suffix where these allow it.

    Raises:
        DataError: the file is missing, unreadable, or in an unsupported format.
    """
    with reading(path):
        if is_parquet(path):
            return "parquet"
        with open_content(path) as file:
            start = file.peek(HEAD)[:HEAD].removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith(b"["):
        return "array"
    lines = start.decode("utf-8", errors="replace").splitlines()
    header = next((line for line in lines if not line.lower().startswith("sep=")), "")
    called_so = any(path.name.endswith(end) or f"{end}." in path.name for end in _TABLES)
    if not header.startswith("{") and (called_so or delimiter_of(header)):
        return "csv"
    return "lines"


def read_rows(
    path: Path, kind: Kind, names: Collection[str], required: Collection[str]
) -> Iterator[tuple[str, object]]:
    """Yields the rows of a file, each with its place, as objects or as lines of JSON.

    Args:
        kind: the file's format, from `kind_of`.
        names: columns of CSV and Parquet to read where present.
        required: columns that the file must have.

    Raises:
        DataError: the file is unreadable, damaged, or lacks a column.
    """
    with reading(path):
        if kind == "parquet":
            yield from read_parquet(path, names, required)
        elif kind == "csv":
            yield from read_csv(path, names, required)
        elif kind == "array":
            for number, item in enumerate(read_array(path), 1):
                yield f"{path}, item {number}", item
        else:
            yield from _read_lines(path)


def read_array(path: Path) -> Iterator[object]:
    """Yields the items of a JSON array; one is in memory at a time.

    Raises:
        DataError: the file is unreadable, not UTF-8, or not one JSON array.
    """
    with reading(path), open_content(path) as file:
        yield from read_items(path, file)


def read_golds_array(path: Path, take: Callable[[object], None]) -> dict[str, Any] | None:
    """Passes the items of `golds` in a file `{"golds": [...], ...}` to `take`.

    Returns:
        The other members; None where the JSON has another shape.

    Raises:
        DataError: as `read_array`.
    """
    with reading(path), open_content(path) as file:
        return read_members(path, file, "golds", take)


def _read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_content(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), 1):
            if len(line) == LINE_BYTES:
                raise DataError(f"A line is too long at {path}:{number}", expected=f"less than {LINE_BYTES:,} bytes")
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield f"{path}:{number}", content


def parse_line(line: bytes) -> Any:
    """Parses a line of JSON.

    Raises:
        ValueError: the line is not UTF-8 or not JSON.
    """
    try:
        return DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        if b"\0" in line:
            raise ValueError("the line holds NUL bytes; perhaps the file was damaged when a machine stopped") from None
        if line.strip() in (b"{", b"[") or line.startswith((b"  ", b"\t")):
            raise ValueError("the line is not one whole JSON object; `jq -c .` writes each on one line") from None
        cut = isinstance(error, json.JSONDecodeError) and ends_early(error.doc, error.pos, error.msg)
        raise ValueError(f"the line is not one whole JSON object{'; perhaps it was cut off' if cut else ''}") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError about a file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"There is no file {path}", hint="check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", expected="a file", hint="name a file in it") from None
    except OSError as error:
        raise DataError(f"The file {path} cannot be read", got=error.strerror or type(error).__name__) from None
