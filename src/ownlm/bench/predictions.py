"""Files of predictions: one line per answer, which survives kill -9; and LaMP's output format."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ownlm.durable import sync, write_whole
from ownlm.errors import DataError, StoreError
from ownlm.filesystem import DOCUMENT_BYTES, check_regular, read_regular
from ownlm.history.files import read_golds_array, reading
from ownlm.history.row import Rows, as_object
from ownlm.history.values import as_id, as_text, column
from ownlm.json_lines import json_line

_HINT = "remove the file, and run the benchmark again"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A method's answer to one query of a user, and its seconds."""

    user: str
    id: str
    output: str
    seconds: float


def read_predictions(path: Path) -> list[Prediction]:
    """Reads the predictions of a file, in its order. A last line that was cut off is left out.

    Raises:
        DataError: The file cannot be read, holds anything else, or answers a query twice.
    """
    with reading(path):
        lines = read_regular(path, DOCUMENT_BYTES).split(b"\n")[:-1]  # text after the last line's end was cut off
    known: dict[tuple[str, str], Prediction] = {}
    rows = Rows(skip_bad=False, hint=_HINT)
    for number, line in enumerate(lines, 1):
        with rows.row(f"{path}:{number}"):
            one = _prediction(as_object(line))
            if (one.user, one.id) in known:
                raise ValueError(f"the query {one.id!r} of user {one.user!r} is answered twice")
            known[one.user, one.id] = one
    return list(known.values())


def _prediction(row: Mapping[str, Any]) -> Prediction:
    seconds = row.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        raise ValueError("the field 'seconds' is no number")
    return Prediction(column(row, "user", _text), column(row, "id", _text), column(row, "output", _text), seconds)


class Writer:
    """Appends predictions to a file. Written predictions survive kill -9.

    Example:
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp()) / "predictions.jsonl"
        >>> with Writer(file) as writer:
        ...     writer.write(Prediction("ada", "q1", "sun", 0.25))
        >>> read_predictions(file)
        [Prediction(user='ada', id='q1', output='sun', seconds=0.25)]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Writer":
        """Opens or creates the file, and removes a last line that was cut off.

        Raises:
            StoreError: The file cannot be written.
        """
        try:
            with suppress(FileNotFoundError):
                check_regular(self.path)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)  # answers may repeat users' texts
            self._file = os.fdopen(handle, "r+b")
            whole = self._file.read().rfind(b"\n") + 1
            self._file.truncate(whole)
            self._file.seek(whole)
            sync(self.path.absolute().parent)
        except OSError as error:
            self.__exit__(None, None, None)
            raise self._unwritten(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        if self._file is not None:
            with suppress(OSError):  # `write` has synced or reported all lines
                self._file.close()
            self._file = None

    def write(self, *predictions: Prediction) -> None:
        """Appends predictions; they are on the disk when this returns.

        Raises:
            StoreError: The predictions cannot be written. The file has to be opened again.
        """
        if self._file is None:
            raise StoreError(f"The file {self.path} is not open")
        lines = "".join(json_line(asdict(one)) for one in predictions)
        try:
            self._file.write(lines.encode("utf-8", "replace"))  # half a character (a lone surrogate) becomes '?'
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritten(error) from None

    def _unwritten(self, error: OSError) -> StoreError:
        return StoreError(
            f"The predictions cannot be written to {self.path}",
            got=error.strerror or type(error).__name__,
            hint="check the folder and its room, then run the benchmark again: it continues",
        )


@dataclass(frozen=True, slots=True)
class LampFile:
    """The content of a file in LaMP's output format: the task's name, if there is one, and outputs by query id."""

    task: str | None
    outputs: dict[str, str]


def official_name(task: str) -> str:
    """The name of a task in LaMP's files, which is one for both of its second tasks.

    >>> official_name("LaMP_2M"), official_name("LaMP_3")
    ('LaMP_2', 'LaMP_3')
    """
    return "LaMP_2" if task in ("LaMP_2M", "LaMP_2N") else task


def write_lamp(path: Path, task: str, outputs: Mapping[str, str]) -> None:
    """Writes outputs by query id in LaMP's format, whole or not at all.

        {"task": "LaMP_2", "golds": [{"id": "110", "output": "comedy"}]}

    Raises:
        StoreError: The file cannot be written.
    """
    document = {
        "task": official_name(task),
        "golds": [{"id": key, "output": output} for key, output in outputs.items()],
    }
    try:
        write_whole(path, json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n")
    except OSError as error:
        raise StoreError(
            f"The predictions cannot be written to {path}", got=error.strerror, hint="check the folder and its room"
        ) from None


def read_lamp(path: Path) -> LampFile:
    """Reads a file in LaMP's output format. Outputs may be empty; numbers become text.

    Raises:
        DataError: The file has another format, or a query id occurs twice.
    """
    outputs: dict[str, str] = {}
    rows, numbers = Rows(skip_bad=False), count(1)

    def take(item: object) -> None:
        with rows.row(f"{path}, gold {next(numbers)}"):
            content = as_object(item)
            key = column(content, "id", as_id)
            if key in outputs:
                raise ValueError(f"the query id {key!r} is repeated in the file")
            outputs[key] = column(content, "output", _output)

    document = read_golds_array(path, take)
    if document is None:
        raise DataError(
            f"{path} is not in LaMP's output format", expected='{"task": ..., "golds": [{"id": ..., "output": ...}]}'
        )
    return LampFile(as_text(document.get("task")), outputs)


def _output(value: object) -> str:
    """An answer: text as it is, or a number as text."""
    if isinstance(value, str):
        return value
    text = as_text(value)
    if text is None:
        raise ValueError("is missing; an answer that says nothing is an empty text")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is missing, or no text")
    return value
