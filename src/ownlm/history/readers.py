"""Readers of histories and queries. Incomplete or invalid files are refused.

A row is `{"user_id", "id"?, "time"? or "date"?, ...}` with the task's fields. Texts are stripped,
numbers become texts, and fields that the task does not name are dropped. In plain rows a record has all of the task's
required fields; only the fields of options may be missing. In LaMP's files a record may lack its answer: it is kept,
and no example is made of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ownlm.errors import DataError, argument, quoted
from ownlm.history.files import Kind, kind_of, read_rows
from ownlm.history.lamp import Labels, Queries, label_files, lamp_items, lamp_records, read_labels, read_lamp_users
from ownlm.history.record import Dataset, Query, Record, in_order
from ownlm.history.row import Rows, as_object, to_query, to_record
from ownlm.history.task import Task

_NO_ROWS = "JSON Lines, JSON, CSV or Parquet with at least one"


def read_dataset(
    path: Path, task: Task, *, labels: Path | None = None, skip_bad: bool = False, all_rows: bool = False
) -> Dataset:
    """Reads the histories of a file and, from LaMP's JSON, the queries with their instruction and labels.

    JSON is streamed: one item is in memory at a time, beside the returned dataset.

    Args:
        path: JSON Lines, a JSON array, CSV or Parquet of plain rows; or one of LaMP's shapes. JSON and CSV may be
            packed (gzip, bzip2, xz, zstd, or a zip archive of one file).
        labels: the label file of a LaMP file; by default the file of the usual name beside it.
        skip_bad: leave bad rows out and list them in `Dataset.bad`; a file without a good row is still refused.
        all_rows: the caller needs all rows: the hint about a bad one is to correct it, and not to leave it out.

    Returns:
        A dataset of users in the order of their first appearance, each with at least one record, oldest first.
        Repeated records are kept once.

    Raises:
        DataError: a file or row is invalid, or no row is valid. The error names the place and repeats no text.
    """
    if all_rows:
        rows = Rows(skip_bad, "correct the file, or the task")
    else:
        command = f"ownlm history add --skip-bad --task {quoted(task.name)} {argument(path)}"
        rows = Rows(skip_bad, "correct it there, or leave bad rows out", command)
    kind, asked = kind_of(path), Queries()
    if (items := lamp_items(path, kind)) is not None:
        label_path, known = _labels(path, labels)
        users = read_lamp_users(path, items, known, rows)
        dataset = _dataset(path, lamp_records(path, users, task, known, asked, rows), asked, task, rows)
        asked.check(path, label_path, known)
        return dataset
    _refuse(labels, path)
    return _dataset(path, _plain_records(path, kind, task, rows), asked, task, rows)


def read_queries(path: Path, task: Task, *, labels: Path | None = None) -> list[Query]:
    """Reads the queries of a file, in its order.

    Args:
        path: plain rows with `input` (a text, or an object of fields) or the task's input fields themselves, and
            the right answer, where known, as `gold`, `output` or the task's answer field; or one of LaMP's shapes.
        labels: as for `read_dataset`.

    Raises:
        DataError: as `read_dataset`.
    """
    rows, kind = Rows(skip_bad=False), kind_of(path)
    if (items := lamp_items(path, kind)) is not None:
        (label_path, known), asked = _labels(path, labels), Queries()
        for user in read_lamp_users(path, items, known, rows):
            asked.add(user, task, known, rows)
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
                raise ValueError(f"user {query.user_id!r}: the query {query.id!r} is repeated with different content")
            if earlier.gold is None:
                known_queries[query.user_id, query.id] = query
            queries.append(query)
    if not queries:
        raise DataError(f"The file {path} holds no rows", expected=_NO_ROWS)
    # of a repeated query, the one with the right answer is kept
    return [replace(query, gold=known_queries[query.user_id, query.id].gold) for query in queries]


def _labels(path: Path, given: Path | None) -> tuple[Path | None, Labels]:
    """Reads the label file that is given or lies beside the data file; None and no labels without one."""
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


def _dataset(path: Path, records: Iterable[tuple[str, Record]], asked: Queries, task: Task, rows: Rows) -> Dataset:
    users: dict[str, dict[str, Record]] = {}
    repeated = 0
    for place, record in records:
        with rows.row(place):
            rows.times.check(record.time, place)
            known = users.setdefault(record.user_id, {}).setdefault(record.id, record)
            if known != record:
                several = asked.items[record.user_id] > 1
                raise ValueError(
                    f"user {record.user_id!r}: the record {record.id!r} is repeated with different content"
                    + ("; if ids restart in each question, leave `id` out of its records" if several else "")
                )
            repeated += known is not record
    rows.check_majority(path)
    if not users and rows.bad:
        raise DataError(
            f"No row of the file {path} can be read", got=f"{len(rows.bad):,} bad ones; the first: {rows.bad[0]}",
            expected=_NO_ROWS, hint="correct the file: without its bad rows nothing is left",
        )  # fmt: skip
    if not (users or asked.queries):
        raise DataError(f"The file {path} holds no rows", expected=_NO_ROWS)
    answers, histories, given_away = asked.answers(task), [], 0
    for user, mine in users.items():
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
            hint="give no label file; plain rows of queries carry the right answer as `gold`",
        )
