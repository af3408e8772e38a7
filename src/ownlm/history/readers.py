"""Histories and queries out of files. What is not whole, or not what it claims to be, is refused.

A row is `{"user_id", "id"?, "time"? or "date"?, ...}` with the task's fields. Text comes without the blanks around it;
numbers become text. In plain rows a record has all of the task's required fields; only what a choice between options
is made from may be missing. In LaMP's files a record may lack its answer: it is kept, and no example is made of it.
Fields that the task does not name are not kept.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ownlm.errors import DataError
from ownlm.history.files import Kind, kind_of, read_rows
from ownlm.history.lamp import Asked, Labels, label_files, lamp_items, lamp_records, read_labels, read_people
from ownlm.history.record import Dataset, Query, Record, in_order
from ownlm.history.row import Rows, as_object, to_query, to_record
from ownlm.history.task import Task

_NO_ROWS = "JSON Lines, JSON, CSV or Parquet with at least one"

SKIP_BAD = "mend it there; `ownlm history add --skip-bad` leaves such rows out"
MEND = "correct the file, or the task"  # where no row can be left out


def read_dataset(
    path: Path, task: Task, *, labels: Path | None = None, skip_bad: bool = False, hint: str = SKIP_BAD
) -> Dataset:
    """The histories in a file, and in LaMP's JSON the queries, with what they say about the task.

    Of JSON, one item is in memory at a time, beside what is returned.

    Args:
        path: JSON Lines, a JSON array, CSV or Parquet of plain rows; or one of LaMP's shapes. JSON and CSV may be
            packed (gzip, bzip2, xz, zstd, or a zip archive of one file).
        labels: the right answers to a LaMP file's queries, where they do not lie beside it under their usual name.
        skip_bad: leave bad rows out and note them in `Dataset.bad`. A file that is bad as a whole is refused still.
        hint: what to do about a bad row.

    Returns:
        Users in the order in which they first appear, each with at least one record, oldest first. A record that
        stands twice is there once.

    Raises:
        DataError: a file or row is bad, or no row is good. It says which, and what is wrong, and repeats nothing of
            the text.
    """
    rows = Rows(skip_bad, hint)
    kind, asked = kind_of(path), Asked()
    if (items := lamp_items(path, kind)) is not None:
        label_path, known = _labels(path, labels)
        people = read_people(path, items, known, rows)
        dataset = _dataset(path, lamp_records(path, people, task, known, asked, rows), asked, task, rows)
        asked.check(path, label_path, known)
        return dataset
    _refuse(labels, path)
    return _dataset(path, _plain_records(path, kind, task, rows), asked, task, rows)


def read_queries(path: Path, task: Task, *, labels: Path | None = None) -> list[Query]:
    """The queries in a file, as many as it has, in its order.

    Args:
        path: plain rows with `input` (a text, or an object of fields) or the task's input fields themselves, and
            the right answer as `gold`, `output` or the task's answer field where it is known; or one of LaMP's shapes.
        labels: as for `read_dataset`.

    Raises:
        DataError: as `read_dataset`.
    """
    rows, kind = Rows(skip_bad=False), kind_of(path)
    if (items := lamp_items(path, kind)) is not None:
        (label_path, known), asked = _labels(path, labels), Asked()
        for person in read_people(path, items, known, rows):
            asked.add(person, task, known, rows)
        asked.check(path, label_path, known)
        return list(asked.queries.values())
    _refuse(labels, path)
    queries: list[Query] = []
    known_queries: dict[tuple[str, str], Query] = {}
    names = dict.fromkeys(("user_id", "id", "time", "date", "input", "gold", "output"))
    names |= dict.fromkeys((task.answer_field, *task.input_fields))
    for place, row in read_rows(path, kind, list(names), ("user_id",)):
        with rows.row(place):
            query = to_query(row, task)
            rows.query_times.check(query.time, place)
            earlier = known_queries.setdefault((query.user_id, query.id), query)
            golds = {gold for gold in (earlier.gold, query.gold) if gold is not None}
            if earlier.fields != query.fields or len(golds) > 1:
                raise ValueError(f"user {query.user_id!r}: the query {query.id!r} stands twice, with different content")
            if earlier.gold is None:
                known_queries[query.user_id, query.id] = query
            queries.append(query)
    if not queries:
        raise DataError(f"The file {path} holds no rows", expected=_NO_ROWS)
    # a query that stands twice, once with its right answer, has it
    return [replace(query, gold=known_queries[query.user_id, query.id].gold) for query in queries]


def _labels(path: Path, given: Path | None) -> tuple[Path | None, Labels]:
    """The label file given, or the one beside a file where there is one, and what is in it."""
    chosen = given or next((beside for beside in label_files(path) if beside.is_file()), None)
    return chosen, Labels({}, {}) if chosen is None else read_labels(chosen)


def _plain_records(path: Path, kind: Kind, task: Task, rows: Rows) -> Iterator[tuple[str, Record]]:
    names = ("user_id", "id", "time", "date", *task.record_fields)
    for place, row in read_rows(path, kind, names, ("user_id", *task.required_in_records)):
        records = []
        with rows.row(place):
            content = as_object(row)
            records.append(to_record(content, task))
            rows.see_times(content, task)
        yield from ((place, record) for record in records)


def _dataset(path: Path, records: Iterable[tuple[str, Record]], asked: Asked, task: Task, rows: Rows) -> Dataset:
    people: dict[str, dict[str, Record]] = {}
    repeated = 0
    for place, record in records:
        with rows.row(place):
            rows.times.check(record.time, place)
            known = people.setdefault(record.user_id, {}).setdefault(record.id, record)
            if known != record:
                several = asked.items[record.user_id] > 1
                raise ValueError(
                    f"user {record.user_id!r}: the record {record.id!r} stands twice, with different content"
                    + ("; where ids begin again in each question, leave `id` out of its records" if several else "")
                )
            repeated += known is not record
    rows.check_majority(path)
    if not people and rows.bad:
        raise DataError(
            f"No row of the file {path} can be read", got=f"{len(rows.bad):,} bad ones; the first: {rows.bad[0]}",
            expected=_NO_ROWS, hint="mend the file; leaving bad rows out leaves nothing",
        )  # fmt: skip
    if not (people or asked.queries):
        raise DataError(f"The file {path} holds no rows", expected=_NO_ROWS)
    answers, histories, given_away = asked.answers(task), [], 0
    for user, mine in people.items():
        kept = [record for record in mine.values() if record not in answers]
        given_away += len(mine) - len(kept)
        histories += [in_order(user, kept)] if kept else []
    instruction, labels = next(iter(asked.carried), (None, None))
    notes = rows.notes(path, timed=any(one.time is not None for history in histories for one in history.records))
    return Dataset(histories, list(asked.queries.values()), instruction, labels, rows.bad, given_away, repeated, notes)


def _refuse(labels: Path | None, path: Path) -> None:
    if labels is not None:
        raise DataError(
            f"The file {path} holds plain rows, which go with no label file",
            hint="leave --labels out; plain rows of queries carry the right answer as `gold`",
        )
