"""Reader of LongLaMP's Parquet files: a row is a user's query with its answer and a profile."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ownlm.history.files import reading
from ownlm.history.lamp import no_answers
from ownlm.history.parquet import read_parquet
from ownlm.history.record import Dataset, Query, Record, in_order
from ownlm.history.row import Rows, as_object, to_record
from ownlm.history.task import Task, parse_query
from ownlm.history.values import as_text, as_user, column
from ownlm.importers.imported import plain_rows

USER_COLUMNS: Final = ("reviewerId", "name", "author")  # of reviews, abstracts, topics
GIVEN_AWAY: Final = "records that are the answer to a query of the same user"

_ROWS: Final = 128  # rows in memory: each has a whole history


def _as_author(value: object) -> str:
    """An author's name as a user id: all blanks become single plain ones."""
    return as_user(" ".join(value.split()) if isinstance(value, str) else value)


def read_longlamp(files: Sequence[Path], task: Task, left_out: Counter[str]) -> Dataset:
    """Reads the histories and queries of a split.

    A user may have several queries, each in a row with its own profile. The profiles become one history,
    without repeated records and without the answers to the user's queries, which the profile of a later query may
    contain. A record's id is a hash of its content, since reviews have none; a query's id is its file and row.

    Args:
        files: the Parquet files of one task and split, in order.
        left_out: counts what was left out, by reason.

    Returns:
        Histories and queries, with the queries' instruction where all have the same.

    Raises:
        DataError: a file is damaged or has another shape, or a row does not fit the task.

    Source: LongLaMP (arXiv 2407.11016). Differs: one history per user, not per query.
    """
    by_user: dict[str, dict[str, Record]] = {}
    queries: list[Query] = []
    instructions: set[str | None] = set()
    rows = Rows(skip_bad=False)
    for file in files:
        for number, (place, row) in enumerate(_rows(file), 1):
            with rows.row(place):
                user = column(row, row["user"], _as_author)
                fields, instruction, _ = parse_query(task, column(row, "input", as_text) or "")
                instructions.add(instruction)
                queries.append(Query(user, f"{file.stem}:{number}", fields, column(row, "output", as_text)))
                records = by_user.setdefault(user, {})
                for record in _profile(row["profile"], task, user):
                    records.setdefault(record.id, record)
    answers: dict[str, set[str | None]] = {}
    for query in queries:
        answers.setdefault(query.user_id, set()).add(query.gold)
    histories = []
    for user, mine in by_user.items():
        kept = [record for record in mine.values() if record.fields.get(task.answer_field, "") not in answers[user]]
        left_out[GIVEN_AWAY] += len(mine) - len(kept)
        histories += [in_order(user, kept)] if kept else []
    if not any(task.answer_field in record.fields for history in histories for record in history.records):
        raise no_answers(files[0], task)
    return Dataset(histories, queries, instructions.pop() if len(instructions) == 1 else None)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows, each with its place, and with the user column renamed to `user`."""
    names = (*USER_COLUMNS, "input", "output", "profile")
    with reading(file):
        for place, row in read_parquet(file, names, ("input", "profile"), at_once=_ROWS):
            users = [name for name in USER_COLUMNS if name in row]
            if len(users) != 1:
                what = f"The file {file} does not have exactly one user column"
                raise plain_rows(what, f"one of {', '.join(USER_COLUMNS)}")
            yield place, {**row, "user": users[0]}


def _profile(profile: object, task: Task, user: str) -> Iterator[Record]:
    if not isinstance(profile, list):
        raise ValueError(f"user {user!r}: the profile is not a list")
    for item in profile:
        yield to_record(_as_here(as_object(item), task), task, unlabelled=True, user=user)


def _as_here(item: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Converts a profile item to a row: its year is the time, its rating is written as in queries."""
    row = {name: item.get(name) for name in task.record_fields}
    if isinstance(rating := row.get("overall"), str):
        row["overall"] = rating.strip().removesuffix(".0")
    year = str(item.get("year") or "").removesuffix(".0")
    return {**row, "time": year} if len(year) == 4 and year.isdigit() and year > "1000" else row
