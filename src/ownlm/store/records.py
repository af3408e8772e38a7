"""Records of users: counts, pages, limits, tombstones, conflicts with concurrent changes, errors for unknown names."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    cast,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    text,
)

from ownlm.errors import ChangedRecordError, DataError, NotFoundError, UnknownUserError, argument, nearest
from ownlm.history.record import History, Record, order_of
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo, digest_of, record_digest

if TYPE_CHECKING:
    from ownlm.store.store import Store

_TOMBSTONE = "forgotten "  # prefix of a key in the table `meta`
_SEARCHED = 10_000  # names compared with an unknown one; those with the same first letter come first


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on one user's records in one task: their number, and the bytes of their fields as stored."""

    records: int
    bytes: int

    def check(self, db: Connection, task: str, user: str) -> None:
        """Raises a DataError where a user has more."""
        r, hint = tables.records.c, "delete older records first, or ask the operator of this server for a higher limit"
        mine = select(func.count()).where(r.task == task, r.user == user)
        if (count := db.execute(mine).scalar_one()) > self.records:
            expected = f"at most {self.records:,}"
            raise DataError("There are too many records", got=f"{count:,}", expected=expected, hint=hint)
        if (size := _bytes_of(db, task, user)) > self.bytes:
            expected = f"at most {self.bytes:,} bytes"
            raise DataError("The history is too large", got=f"{size:,} bytes", expected=expected, hint=hint)


def new_rows(task: str, history: History, known: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a history that a user does not have yet, as rows of the table.

    Args:
        known: digests of the user's records by id; the new ones are added to it.

    Raises:
        DataError: a known id comes with another text.
    """
    rows = []
    for record in history.records:
        digest = record_digest(record)
        if record.id not in known:
            known[record.id] = digest
            rows.append({"task": task, "user": record.user_id, "id": record.id, "time": record.time,
                         "fields": dict(record.fields), "digest": digest})  # fmt: skip
        elif known[record.id] != digest:
            raise ChangedRecordError(record.user_id, record.id)
    return rows


def history_bytes(store: "Store", task: str, user: str) -> int:
    """Bytes of a user's records in a task, as stored."""
    with store.database.reading() as db:
        return _bytes_of(db, task, user)


def _bytes_of(db: Connection, task: str, user: str) -> int:
    r = tables.records.c
    size = func.coalesce(func.sum(func.length(cast(r.fields, LargeBinary))), 0)
    return int(db.execute(select(size).where(r.task == task, r.user == user)).scalar_one())


def record_counts(store: "Store", user: str) -> dict[str, int]:
    """Number of a user's records by task, in the order in which the tasks came."""
    r = tables.records.c
    query = select(r.task, func.count()).where(r.user == user).group_by(r.task).order_by(func.min(r.number))
    return {task: count for task, count in store.database.rows(query)}


def has_records(store: "Store", task: str, user: str, ids: Collection[str]) -> bool:
    """Whether a user has all of these records."""
    r = tables.records.c
    query = select(func.count()).where(r.task == task, r.user == user, r.id.in_(ids))
    (row,) = store.database.rows(query)
    return bool(row[0] == len(set(ids)))


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
        before: place of the previous page's last record among the matching ones, oldest first; None for the first page.
        contains: only records with this text in a field, in any case of letters.
        id: only the record of this id.

    Returns:
        The records, and the number of matching ones.
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


# Tombstones: hashes of what was forgotten, so that adding an old file does not bring it back


def add_tombstone(db: Connection, *names: str) -> None:
    """Notes that a user (user), one record (task, user, id) or a withdrawn sharer must not come back."""
    if (key := _tombstone(*names)) not in tombstones(db):
        db.execute(insert(tables.meta).values(key=key, value=""))


def has_tombstone(keys: set[str], *names: str) -> bool:
    """Whether these names were noted."""
    return _tombstone(*names) in keys


def clear_tombstone(db: Connection, task: str, history: History) -> None:
    """Admits a user and these records again."""
    wanted = {
        _tombstone(history.user_id),
        *(_tombstone(task, history.user_id, record.id) for record in history.records),
    }
    for key in wanted & tombstones(db):
        db.execute(delete(tables.meta).where(tables.meta.c.key == key))


def tombstones(db: Connection) -> set[str]:
    """The keys of all tombstones."""
    key = tables.meta.c.key
    return set(db.execute(select(key).where(key.startswith(_TOMBSTONE, autoescape=True))).scalars())


def without_forgotten(keys: set[str], task: str, history: History) -> History:
    """A history without the records that were forgotten, by themselves or with their user."""
    if not keys:
        return history
    if _tombstone(history.user_id) in keys:
        return History(history.user_id, ())
    kept = (one for one in history.records if _tombstone(task, one.user_id, one.id) not in keys)
    return History(history.user_id, tuple(kept))


def _tombstone(*names: str) -> str:
    return _TOMBSTONE + hashlib.sha256(json.dumps(names).encode()).hexdigest()


# Conflicts: what changed while an adapter was made


def of_users(columns: Any, adapters: Sequence[AdapterInfo]) -> ColumnElement[bool]:
    """Whether a row belongs to the user and the task of one of these adapters."""
    users: dict[str, set[str]] = {}
    for adapter in adapters:
        users.setdefault(adapter.task, set()).add(adapter.user)
    return or_(false(), *((columns.task == task) & columns.user.in_(own) for task, own in users.items()))


def conflicts(db: Connection, adapters: Sequence[AdapterInfo]) -> list[NotFoundError | None]:
    """For each adapter, an error if its records, its parent or its pool was removed or changed while it was made."""
    r, a = tables.records.c, tables.adapters.c
    records: dict[tuple[str, str], list[Any]] = {}
    for row in db.execute(select(r.task, r.user, r.id, r.digest, r.number).where(of_users(r, adapters))):
        records.setdefault((row.task, row.user), []).append(row)
    parents = set(db.execute(select(a.id).where(of_users(a, adapters), a.forgotten == 0)).scalars())
    pools = set(db.execute(select(tables.pools.c.digest)).scalars())
    errors: list[NotFoundError | None] = []
    for one in adapters:
        own = records.get((one.task, one.user), [])
        history = digest_of((row.id, row.digest) for row in own if row.number <= one.upto)
        if history != one.history or (one.parent is not None and one.parent not in parents):
            what = f"Records of user {one.user!r} were forgotten or changed while an adapter learnt from them"
            errors.append(NotFoundError(what, hint="it was not kept; train again"))
        elif one.pool is not None and one.pool not in pools:
            what = f"The pool {one.pool[:12]} was withdrawn while a recipe of user {one.user!r} was made from it"
            errors.append(
                NotFoundError(what, hint="it was not kept; assemble again", command=f"ownlm assemble --task {one.task}")
            )
        else:
            errors.append(None)
    return errors


def has_history(db: Connection, task: str, history: History) -> bool:
    """Whether the home still has all records of a history, unchanged."""
    r = tables.records.c
    rows = db.execute(select(r.id, r.digest).where(r.task == task, r.user == history.user_id))
    known = {row.id: row.digest for row in rows}
    return all(known.get(record.id) == record_digest(record) for record in history.records)


def no_longer_shared(task: str, users: Iterable[str]) -> NotFoundError:
    """The error for a pool that users cannot be in any more, though they were selected for it."""
    what = f"Consent withdrawn, or records forgotten, between selection and sharing: {', '.join(sorted(set(users)))}"
    hint = "the pool was not kept; share again without them"
    return NotFoundError(what, hint=hint, command=f"ownlm share --task {task}")


# Errors


def no_user_has_records(task: str) -> NotFoundError:
    """The error for a task without any record."""
    return NotFoundError(
        f"No user in the home has records for task {task!r}", hint="add histories", command="ownlm history add"
    )


def unknown_user(store: "Store", user: str, task: str | None = None) -> UnknownUserError:
    """The error for a user who is not in the home, or has no records in a task; see `unknown_user_in`."""
    with store.database.reading() as db:
        return unknown_user_in(db, user, task)


def unknown_user_in(db: Connection, user: str, task: str | None = None) -> UnknownUserError:
    """The error for a user who is not in the home, or has no records in a task, with the nearest known name.

    Args:
        task: the task that was searched; None for any data about the user.
    """
    records = tables.records.c
    known = select(records.user).distinct().order_by(func.substr(records.user, 1, 1) != user[:1], records.user)
    if task is not None:
        known = known.where(records.task == task)
    names = db.execute(known.limit(_SEARCHED)).scalars().all()
    elsewhere = task is not None and db.execute(select(records.user).where(records.user == user).limit(1)).first()
    near = None if elsewhere else nearest(user, names)
    if task is None:
        return UnknownUserError(f"The home has no user {user!r}", near, hint="list the users", command="ownlm users ls")
    what = f"The home has no records of user {user!r} in task {task!r}"
    return UnknownUserError(what, near, hint="list the users", command="ownlm users ls")


def no_record(task: str, user: str, record: str) -> NotFoundError:
    """The error for a record that the user does not have."""
    what = f"User {user!r} has no record {record!r} in task {task!r}"
    command = f"ownlm history show --task {task} {argument(user)}"
    return NotFoundError(what, hint="list the records", command=command)
