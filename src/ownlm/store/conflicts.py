"""What changed while an adapter was made: its records were forgotten, its pool withdrawn, or consent taken back."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, false, or_, select

from ownlm.errors import NotFoundError
from ownlm.history.record import History
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo, digest_of, record_digest


def theirs(columns: Any, adapters: Sequence[AdapterInfo]) -> ColumnElement[bool]:
    """Whether a row is about one of the people whose adapters these are, in their task."""
    users: dict[str, set[str]] = {}
    for adapter in adapters:
        users.setdefault(adapter.task, set()).add(adapter.user)
    return or_(false(), *((columns.task == task) & columns.user.in_(own) for task, own in users.items()))


def lost_to_conflict(db: Connection, adapters: Sequence[AdapterInfo]) -> list[NotFoundError | None]:
    """For each adapter, an error where its records, or its parent's, are no longer all there, or its pool is not."""
    r, a = tables.records.c, tables.adapters.c
    records: dict[tuple[str, str], list[Any]] = {}
    for row in db.execute(select(r.task, r.user, r.id, r.digest, r.number).where(theirs(r, adapters))):
        records.setdefault((row.task, row.user), []).append(row)
    whole = set(db.execute(select(a.id).where(theirs(a, adapters), a.forgotten == 0)).scalars())
    pools = set(db.execute(select(tables.pools.c.digest)).scalars())
    told: list[NotFoundError | None] = []
    for one in adapters:
        own = records.get((one.task, one.user), [])
        known = digest_of((row.id, row.digest) for row in own if row.number <= one.upto)
        if known != one.history or (one.parent is not None and one.parent not in whole):
            what = f"Records of user {one.user!r} were forgotten or changed while an adapter learnt from them"
            told.append(NotFoundError(what, hint="it was not kept; train again"))
        elif one.pool is not None and one.pool not in pools:
            what = f"The pool {one.pool[:12]} was withdrawn while a recipe of user {one.user!r} was made from it"
            told.append(NotFoundError(what, hint=f"it was not kept; `ownlm assemble --task {one.task}`"))
        else:
            told.append(None)
    return told


def are_there(db: Connection, task: str, history: History) -> bool:
    """Whether the home still has all the records of a history."""
    r = tables.records.c
    rows = db.execute(select(r.id, r.digest).where(r.task == task, r.user == history.user_id))
    known = {row.id: row.digest for row in rows}
    return all(known.get(record.id) == record_digest(record) for record in history.records)


def no_longer_shared(task: str, users: Iterable[str]) -> NotFoundError:
    """The error of a pool that these people were chosen for, and cannot be in."""
    what = f"Consent taken back, or records forgotten, between choosing and sharing: {', '.join(sorted(set(users)))}"
    return NotFoundError(what, hint=f"the pool was not kept; `ownlm share --task {task}` makes one without")
