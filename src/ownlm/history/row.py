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
    """Says where a bad row stands: stops there, or notes it and goes on.

    Args:
        skip_bad: go on.
        hint: what to do about a bad row.

    Attributes:
        bad: what was noted: "place: what is wrong".
        times: the unit of the numbers in the records' times.
        query_times: the same of queries.
    """

    def __init__(self, skip_bad: bool, hint: str = "mend it there") -> None:
        self.skip_bad, self.hint = skip_bad, hint
        self.bad: list[str] = []
        self.times, self.query_times = UnitCheck(), UnitCheck()
        self._time_like: str | None = None
        self._user_like: str | None = None

    @contextmanager
    def row(self, place: str) -> Iterator[None]:
        """Around the reading of one row."""
        try:
            yield
        except (OwnlmError, ValueError) as error:
            told = error if isinstance(error, OwnlmError) else OwnlmError(str(error))
            if not self.skip_bad:
                raise DataError(
                    f"{place}: {told.what}", got=told.got, expected=told.expected, hint=told.hint or self.hint
                ) from None
            self.bad.append(f"{place}: {told.what}")

    def see_times(self, row: Mapping[str, Any], task: Task) -> None:
        """Remembers a column that is perhaps the time, and is not read as it."""
        if self._time_like is None:
            names = (name for name in row if is_time_like(name) and name not in task.record_fields)
            self._time_like = next((name for name in names if row[name] not in (None, "")), None)

    def see_user(self, question: Mapping[str, Any]) -> None:
        """Remembers a member that perhaps names the user of a question of LaMP, and is not read as such."""
        if self._user_like is None and question.get("user_id") is None:
            self._user_like = next((name for name in question if name.casefold() in _USER_LIKE), None)

    def notes(self, path: Path, *, timed: bool) -> list[str]:
        """What to say about columns that are not read; `timed` where records have times all the same."""
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
        """Raises a DataError where the first row is the odd one: the rows left out would be the good ones."""
        for check in (self.times, self.query_times):
            if check.outnumbered:
                raise DataError(
                    f"The first time of the file {path} is in another unit than most others",
                    got=check.outnumbered.partition("; ")[0], expected="one unit, or ISO 8601 dates",
                    hint="mend the first one, or write all of them in one unit",
                )  # fmt: skip


def to_record(row: object, task: Task, *, unlabelled: bool = False, user: str | None = None) -> Record:
    """A record from a row.

    Args:
        unlabelled: whether the answer may be missing.
        user: whose record it is, where the row does not say it.

    Raises:
        ValueError: the row is no record of the task.
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
    """A query from a row with `input`, a text or an object of fields, or with the task's input fields themselves.

    Raises:
        ValueError: the row is no query of the task.
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
    """The right answer that a query carries itself: as `gold`, as LaMP's `output`, or under the task's own name.

    Raises:
        ValueError: it carries several that differ.
    """
    names = dict.fromkeys(("gold", "output", task.answer_field))
    golds = [column(query, name, as_text) for name in names if name not in task.input_fields]
    known = list(dict.fromkeys(gold for gold in golds if gold is not None))
    if len(known) > 1:
        raise ValueError(f"query {query.get('id')!r} carries right answers that differ, as {' and '.join(names)}")
    return known[0] if known else None


def as_object(row: object) -> Mapping[str, Any]:
    """The row itself; a line of JSON is parsed.

    Raises:
        ValueError: it is no object, could not be read, or has a name twice.
    """
    if isinstance(row, bytes):
        row = parse_line(row)
    if isinstance(row, Unreadable):
        raise ValueError(row.what)
    if isinstance(row, Repeated):
        shown = f"the name {row.name!r}" if row.name.isidentifier() and len(row.name) < 40 else "a name"
        raise ValueError(f"{shown} stands twice in the JSON object")
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected here, not a {type(row).__name__}")
    return row


def time_of(row: Mapping[str, Any]) -> str | None:
    """The row's `time`, or else its `date`."""
    return column(row, "time", as_time) or column(row, "date", as_time)


def _own_id(row: Mapping[str, Any], user: str, time: str | None, fields: Mapping[str, str]) -> str:
    """The row's id; one that has none is known by its content, so that adding it again adds nothing."""
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
