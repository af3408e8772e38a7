"""What changed while an adapter was made: its records were forgotten, or its pool withdrawn."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, false, or_, select

from ownlm.errors import NotFoundError
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo, digest_of


def theirs(columns: Any, adapters: Sequence[AdapterInfo]) -> ColumnElement[bool]:
    """Whether a row is about one of the people whose adapters these are, in their task."""
    users: dict[str, set[str]] = {}
    for adapter in adapters:
        users.setdefault(adapter.task, set()).add(adapter.user)
    return or_(false(), *((columns.task == task) & columns.user.in_(own) for task, own in users.items()))


def gone_meanwhile(db: Connection, adapters: Sequence[AdapterInfo]) -> list[NotFoundError | None]:
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
            what = f"Records of user {one.user!r} were forgotten while an adapter learnt from them"
            told.append(NotFoundError(what, hint="it was not kept; train again"))
        elif one.pool is not None and one.pool not in pools:
            what = f"The pool {one.pool[:12]} was withdrawn while a recipe of user {one.user!r} was made from it"
            told.append(NotFoundError(what, hint=f"it was not kept; `ownlm assemble --task {one.task}`"))
        else:
            told.append(None)
    return told
