"""Records of one user, looked up without reading all of them: sizes, counts and pages."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, LargeBinary, cast, func, select, text

from ownlm.errors import ChangedRecordError, DataError
from ownlm.history.record import History, Record, order_of
from ownlm.store import tables
from ownlm.store.rows import record_digest

if TYPE_CHECKING:
    from ownlm.store.store import Store


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a user may have in one task: records, and bytes of their fields as they are stored."""

    records: int
    bytes: int

    def check(self, db: Connection, task: str, user: str) -> None:
        """Raises a DataError where a user has more."""
        r, hint = tables.records.c, "delete older records first, or ask whoever runs this server for a higher limit"
        mine = select(func.count()).where(r.task == task, r.user == user)
        if (count := db.execute(mine).scalar_one()) > self.records:
            expected = f"at most {self.records:,}"
            raise DataError("There are too many records", got=f"{count:,}", expected=expected, hint=hint)
        if (size := _bytes_of(db, task, user)) > self.bytes:
            expected = f"at most {self.bytes:,} bytes"
            raise DataError("The history is too large", got=f"{size:,} bytes", expected=expected, hint=hint)


def new_rows(task: str, history: History, there: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a history that a user does not have yet, as rows of the table.

    Args:
        there: digests of the user's records by id; the new ones are added to it.

    Raises:
        DataError: a record's id is there with another text.
    """
    rows = []
    for record in history.records:
        digest = record_digest(record)
        if record.id not in there:
            there[record.id] = digest
            rows.append({"task": task, "user": record.user_id, "id": record.id, "time": record.time,
                         "fields": dict(record.fields), "digest": digest})  # fmt: skip
        elif there[record.id] != digest:
            raise ChangedRecordError(record.user_id, record.id)
    return rows


def history_bytes(store: "Store", task: str, user: str) -> int:
    """How large a user's records in a task are, as they are stored."""
    with store.database.reading() as db:
        return _bytes_of(db, task, user)


def _bytes_of(db: Connection, task: str, user: str) -> int:
    r = tables.records.c
    size = func.coalesce(func.sum(func.length(cast(r.fields, LargeBinary))), 0)
    return int(db.execute(select(size).where(r.task == task, r.user == user)).scalar_one())


def record_counts(store: "Store", user: str) -> dict[str, int]:
    """How many records a user has in each task, in the order in which the tasks came."""
    r = tables.records.c
    query = select(r.task, func.count()).where(r.user == user).group_by(r.task).order_by(func.min(r.number))
    with store.database.reading() as db:
        return {task: count for task, count in db.execute(query)}


def has_records(store: "Store", task: str, user: str, ids: Collection[str]) -> bool:
    """Whether a user has all of these records."""
    r = tables.records.c
    query = select(func.count()).where(r.task == task, r.user == user, r.id.in_(ids))
    with store.database.reading() as db:
        return bool(db.execute(query).scalar_one() == len(set(ids)))


def history_page(
    store: "Store",
    task: str,
    user: str,
    limit: int,
    *,
    before: int | None = None,
    contains: str = "",
    id: str | None = None,
) -> tuple[list[Record], int]:
    """A page of a user's records in one task, the latest first.

    Args:
        before: how many of the records that match, oldest first, come before those of the previous page; None for the
            first page.
        contains: only records in a field of which this stands, in whatever case.
        id: only the record of this id.

    Returns:
        The records, and how many match in all.
    """
    r = tables.records.c
    query = select(r.number, r.time).where(r.task == task, r.user == user).order_by(r.number)
    matching = select(r.number).where(r.task == task, r.user == user)
    if contains:
        matching = matching.where(text("holds(records.fields, :wanted)").bindparams(wanted=contains.casefold()))
    if id is not None:
        matching = matching.where(r.id == id)
    with store.database.reading() as db:
        rows = db.execute(query).all()
        found = None if not contains and id is None else set(db.execute(matching).scalars())
        places = [rows[place].number for place in order_of([row.time for row in rows])]
        if found is not None:
            places = [number for number in places if number in found]
        end = len(places) if before is None else min(before, len(places))
        page = places[max(0, end - limit) : end][::-1]
        shown = select(r.number, r.id, r.fields, r.time).where(r.number.in_(page))
        by_number = {row.number: Record(user, row.id, row.fields, row.time) for row in db.execute(shown)}
    return [by_number[number] for number in page], len(places)
