"""One row of a file, as a record or a query."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ownlm.errors import DataError, OwnlmError
from ownlm.history.files import parse_line
from ownlm.history.json_stream import Repeated
from ownlm.history.labels import check_answer
from ownlm.history.record import Query, Record
from ownlm.history.task import Task, parse_query
from ownlm.history.times import UnitCheck
from ownlm.history.values import Unreadable, as_id, as_text, as_time, as_user, column, is_time_like, pick_fields

_USER_LIKE: Final = frozenset({"userid", "user", "author", "author_id", "reviewer_id", "reviewerid", "uid"})


class Rows:
    """Collects bad rows, or raises at the first one.

    Args:
        skip_bad: collect bad rows instead of raising.
        hint: what to do about a bad row.
        command: the shell command for that action.

    Attributes:
        bad: "place: what is wrong" of each bad row.
        times: unit check of the records' numeric times.
        query_times: unit check of the queries' numeric times.
    """

    def __init__(self, skip_bad: bool, hint: str = "correct it there", command: str | None = None) -> None:
        self.skip_bad, self.hint, self.command = skip_bad, hint, command
        self.bad: list[str] = []
        self.times, self.query_times = UnitCheck(), UnitCheck()
        self._time_like: str | None = None
        self._user_like: str | None = None

    @contextmanager
    def row(self, place: str) -> Iterator[None]:
        """Context of reading one row: an error in it makes the row bad."""
        try:
            yield
        except (OwnlmError, ValueError) as error:
            found = error if isinstance(error, OwnlmError) else OwnlmError(str(error))
            if not self.skip_bad:
                hint, command = (found.hint, found.command) if found.hint else (self.hint, self.command)
                raise DataError(
                    f"{place}: {found.what}", got=found.got, expected=found.expected, hint=hint, command=command
                ) from None
            self.bad.append(f"{place}: {found.what}")

    def see_times(self, row: Mapping[str, Any], task: Task) -> None:
        """Remembers the first unread column that may hold the time."""
        if self._time_like is None:
            names = (name for name in row if is_time_like(name) and name not in task.record_fields)
            self._time_like = next((name for name in names if row[name] not in (None, "")), None)

    def see_user(self, question: Mapping[str, Any]) -> None:
        """Remembers the first unread member of a LaMP question that may name the user."""
        if self._user_like is None and question.get("user_id") is None:
            self._user_like = next((name for name in question if name.casefold() in _USER_LIKE), None)

    def notes(self, path: Path, *, timed: bool) -> list[str]:
        """Hints about unread columns; `timed`: the records have times from another column."""
        notes = []
        if self._time_like is not None and not timed:
            notes.append(
                f"the records of {path} have no time and stand in the file's order: its column {self._time_like!r} is "
                "not read; rename it to 'time' if it is one"
            )
        if self._user_like is not None:
            notes.append(
                f"each question of {path} is a user of its own: {self._user_like!r} is not read; rename it to "
                "'user_id' if it names the user"
            )
        return notes

    def check_majority(self, path: Path) -> None:
        """Raises a DataError if the first time's unit is the exception: the rows left out would be good."""
        for check in (self.times, self.query_times):
            if check.outnumbered:
                raise DataError(
                    f"The first time of the file {path} is in another unit than most others",
                    got=check.outnumbered.partition("; ")[0], expected="one unit, or ISO 8601 dates",
                    hint="correct the first one, or write all of them in one unit",
                )  # fmt: skip


def to_record(row: object, task: Task, *, unlabelled: bool = False, user: str | None = None) -> Record:
    """Makes a record from a row.

    Args:
        unlabelled: whether the answer field may be missing.
        user: the user, where the row has no `user_id`.

    Raises:
        ValueError: the row is not a record of the task.
    """
    content = as_object(row)
    user = column(content, "user_id", as_user) if user is None else user
    with _of_user(user):
        required = set(task.required_in_records) - ({task.answer_field} if unlabelled else set())
        fields, time = pick_fields(content, task.record_fields, required), time_of(content)
        if not fields:
            raise ValueError(f"the record has none of the fields {', '.join(task.record_fields)}")
        check_answer(task.labels, task.answer_field, fields.get(task.answer_field))
        return Record(user, _own_id(content, user, time, fields), fields, time)


def to_query(row: object, task: Task) -> Query:
    """Makes a query from a row with `input` (a text or an object of fields) or with the task's input fields.

    Raises:
        ValueError: the row is not a query of the task.
    """
    content = as_object(row)
    user = column(content, "user_id", as_user)
    with _of_user(user):
        given = content.get("input")
        if isinstance(given, str) and not given.strip() and task.required_inputs:  # an empty cell of CSV
            given = None
        if isinstance(given, str):
            fields = parse_query(task, given)[0]
        else:
            fields = pick_fields(
                content if given is None else as_object(given), task.input_fields, task.required_inputs
            )
        time = time_of(content)
        return Query(user, _own_id(content, user, time, fields), fields, gold_of(content, task), time)


def gold_of(query: Mapping[str, Any], task: Task) -> str | None:
    """The right answer in a query: as `gold`, as LaMP's `output`, or in the task's answer field.

    Raises:
        ValueError: the query has several answers that differ.
    """
    names = dict.fromkeys(("gold", "output", task.answer_field))
    golds = [column(query, name, as_text) for name in names if name not in task.input_fields]
    known = list(dict.fromkeys(gold for gold in golds if gold is not None))
    if len(known) > 1:
        raise ValueError(f"query {query.get('id')!r} has right answers that differ, as {' and '.join(names)}")
    return known[0] if known else None


def as_object(row: object) -> Mapping[str, Any]:
    """The row as a mapping; a line of JSON is parsed.

    Raises:
        ValueError: the row is not an object, is unreadable, or has a repeated name.
    """
    if isinstance(row, bytes):
        row = parse_line(row)
    if isinstance(row, Unreadable):
        raise ValueError(row.what)
    if isinstance(row, Repeated):
        shown = f"the name {row.name!r}" if row.name.isidentifier() and len(row.name) < 40 else "a name"
        raise ValueError(f"{shown} is repeated in the JSON object")
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected here, not a {type(row).__name__}")
    return row


def time_of(row: Mapping[str, Any]) -> str | None:
    """The row's `time`, else its `date`."""
    return column(row, "time", as_time) or column(row, "date", as_time)


def _own_id(row: Mapping[str, Any], user: str, time: str | None, fields: Mapping[str, str]) -> str:
    """The row's id, or a hash of its content, so that adding the row again adds nothing."""
    given = row.get("id")
    if given is not None and not (isinstance(given, str) and not given.strip()):
        return column(row, "id", as_id)
    content = json.dumps([user, time, sorted(fields.items())])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


@contextmanager
def _of_user(user: str) -> Iterator[None]:
    try:
        yield
    except OwnlmError as error:
        raise DataError(f"user {user!r}: {error.what}", got=error.got, expected=error.expected) from None
    except ValueError as error:
        raise ValueError(f"user {user!r}: {error}") from None
