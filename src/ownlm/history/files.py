"""Files of rows: JSON Lines, one JSON document, or Parquet. Each row comes with the place where it stands."""

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ownlm.errors import DataError
from ownlm.filesystem import DOCUMENT_BYTES, LINE_BYTES, open_regular, read_regular


def kind_of(path: Path) -> Literal["lines", "document", "parquet"]:
    """What a file holds, by its first bytes; a file called `.parquet` is meant to be one, whatever it holds.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    with reading(path), open_regular(path) as file:
        head = file.read(4096)
    if head.startswith(b"PAR1") or path.suffix == ".parquet":
        return "parquet"
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    return "document" if start.startswith(b"[") else "lines"


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file that are not blank, one at a time, each with "file:line".

    Raises:
        DataError: it cannot be read, or a line is longer than any row.
    """
    with reading(path), open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), 1):
            if len(line) == LINE_BYTES:
                raise DataError(f"A line is too long at {path}:{number}", expected=f"less than {LINE_BYTES:,} bytes")
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if content.strip():
                yield f"{path}:{number}", content


def parse_line(line: bytes) -> Any:
    """The JSON value on a line.

    Raises:
        ValueError: it is not UTF-8, or not JSON.
    """
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("the line is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("the line is not one whole JSON object; perhaps it was cut off") from None


def read_document(path: Path) -> Any:
    """The one JSON value that a file holds.

    Raises:
        DataError: it cannot be read, or is not UTF-8 or not JSON.
    """
    with reading(path):
        content = read_regular(path, DOCUMENT_BYTES)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"The file {path} is not UTF-8", hint="save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else None
        raise DataError(
            f"The file {path} is not one whole JSON document",
            got=f"{error.msg}, {place}" if isinstance(error, json.JSONDecodeError) else None,
            hint="perhaps it was cut off while it was written or copied; fetch it again",
        ) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells what the system says about a file as a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"There is no file {path}", hint="check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", expected="a file", hint="name a file in it") from None
    except OSError as error:
        raise DataError(f"The file {path} cannot be read", got=error.strerror or type(error).__name__) from None
