"""Histories and queries out of files. What is not whole, or not what it claims to be, is refused.

A row is `{"user_id", "id"?, "time"? or "date"?, ...}` with the task's fields. Text comes without the blanks around it;
numbers become text. In plain rows a record has all of the task's required fields; only what a choice between options
is made from may be missing. In LaMP's files a record may lack its answer: it is kept, and no example is made of it.
Fields that the task does not name are not kept.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from ownlm.errors import DataError
from ownlm.history.files import kind_of, read_document, read_lines, reading
from ownlm.history.lamp import Asked, is_lamp, lamp_queries, lamp_records, read_people
from ownlm.history.parquet import read_parquet
from ownlm.history.record import Dataset, Query, Record, in_order
from ownlm.history.row import Rows, to_query, to_record
from ownlm.history.task import Task, with_instruction


def read_dataset(path: Path, task: Task, *, labels: Path | None = None, skip_bad: bool = False) -> Dataset:
    """The histories in a file, and in LaMP's JSON the queries, with what they say about the task.

    Args:
        path: JSON Lines, a JSON array or Parquet of plain rows; or one of LaMP's shapes.
        labels: the right answers to a LaMP file's queries, where they do not lie beside it under their usual name.
        skip_bad: leave bad rows out and note them in `Dataset.bad`. A file that is bad as a whole is refused still.

    Returns:
        People in the order in which they first appear, each with at least one record, oldest first. A record that
        stands twice is there once.

    Raises:
        DataError: a file or row is bad. It says which, and what is wrong, and repeats nothing of the text.
    """
    rows = Rows(skip_bad, "mend it there; `ownlm history add --skip-bad` leaves such rows out")
    items = _items(path)
    if items is not None and is_lamp(items):
        people = list(read_people(path, items, rows))
        asked = lamp_queries(path, people, task, labels, rows)
        labelled = with_instruction(task, None, asked.labels)  # the labels that the file's own questions list
        return _dataset(path, lamp_records(path, people, labelled, rows), asked, rows)
    _refuse(labels, path)
    return _dataset(path, _plain_records(path, items, task, rows), Asked([]), rows)


def read_queries(path: Path, task: Task, *, labels: Path | None = None) -> list[Query]:
    """The queries in a file, as many as it has, in its order.

    Args:
        path: plain rows with `input` (a text, or an object of fields) or the task's input fields themselves, and
            `gold` where the right answer is known; or one of LaMP's shapes.
        labels: as for `read_dataset`.

    Raises:
        DataError: as `read_dataset`.
    """
    rows, items = Rows(skip_bad=False), _items(path)
    if items is not None and is_lamp(items):
        return lamp_queries(path, read_people(path, items, rows), task, labels, rows).queries
    _refuse(labels, path)
    queries: list[Query] = []
    known: dict[tuple[str, str], Query] = {}
    names = ("user_id", "id", "time", "date", "input", "gold", *task.input_fields)
    for place, row in _plain(path, items, names, ("user_id",)):
        with rows.row(place):
            query = to_query(row, task)
            rows.times.check(query.time, place)
            if known.setdefault((query.user_id, query.id), query).fields != query.fields:
                raise ValueError(f"user {query.user_id!r}: the query {query.id!r} stands twice, with different content")
            queries.append(query)
    if not queries:
        raise DataError(f"The file {path} holds no rows", expected="JSON Lines, JSON or Parquet with at least one")
    return queries


def _items(path: Path) -> list[object] | None:
    """What a JSON array holds; None if the file is none."""
    return list(read_document(path)) if kind_of(path) == "document" else None


def _plain(
    path: Path, items: list[object] | None, names: Collection[str], required: Collection[str]
) -> Iterator[tuple[str, object]]:
    """Rows, each with its place; `names` and `required` are for the columns of Parquet."""
    if items is not None:
        yield from ((f"{path}, item {number}", item) for number, item in enumerate(items, 1))
    elif kind_of(path) == "parquet":
        with reading(path):
            yield from read_parquet(path, names, required)
    else:
        yield from read_lines(path)


def _plain_records(path: Path, items: list[object] | None, task: Task, rows: Rows) -> Iterator[tuple[str, Record]]:
    names = ("user_id", "id", "time", "date", *task.record_fields)
    for place, row in _plain(path, items, names, ("user_id", *task.required_in_records)):
        records = []
        with rows.row(place):
            records.append(to_record(row, task))
        yield from ((place, record) for record in records)


def _dataset(path: Path, records: Iterable[tuple[str, Record]], asked: Asked, rows: Rows) -> Dataset:
    people: dict[str, dict[str, Record]] = {}
    for place, record in records:
        with rows.row(place):
            rows.times.check(record.time, place)
            known = people.setdefault(record.user_id, {}).setdefault(record.id, record)
            if known != record:
                raise ValueError(
                    f"user {record.user_id!r}: the record {record.id!r} stands twice, with different content"
                )
    if not (people or asked.queries or rows.bad):
        raise DataError(f"The file {path} holds no rows", expected="JSON Lines, JSON or Parquet with at least one")
    histories = [in_order(user, list(mine.values())) for user, mine in people.items()]
    return Dataset(histories, asked.queries, asked.instruction, asked.labels, rows.bad)


def _refuse(labels: Path | None, path: Path) -> None:
    if labels is not None:
        raise DataError(
            f"The file {path} holds plain rows, which go with no label file",
            hint="leave --labels out; plain rows of queries carry the right answer as `gold`",
        )
