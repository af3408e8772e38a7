"""Which pools wait for a withdrawal, as a state in their rows and in those of the recipes made of them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, or_, select, update

from ownlm.store import tables
from ownlm.store.rows import WAITS, AdapterInfo, sharer_digest


def sharers_in(db: Connection) -> dict[str, set[str]]:
    """The random ids of this home's sharers in each pool, by the pool's digest, oldest pool first.

    Copies of a pool, taken in from outside, have the same sharers.
    """
    p, s, v = tables.pools.c, tables.sharers.c, tables.pool_versions.c
    linked = db.execute(select(s.id, s.pool)).all()
    inside = {digest: set[str]() for digest in db.execute(select(p.digest).order_by(p.number)).scalars()}
    for row in linked:
        inside[row.pool].add(row.id)
    of_digest = {sharer_digest(row.id): row.id for row in linked}
    for row in db.execute(select(v.digest, v.sharers).where(v.digest.in_(inside))):
        inside[row.digest] |= {of_digest[one] for one in row.sharers if one in of_digest}
    return inside


def mark_waiting(db: Connection) -> None:
    """Marks the pools that wait for a withdrawal, and recipes of their pieces as stale; unmarks those that do not wait.

    A pool waits while it has pieces of a sharer who does not agree to share. Every transaction that changes consents,
    sharers or pools ends with this, so that readers look at these marks alone.
    """
    p, s, v, a = tables.pools.c, tables.sharers.c, tables.pool_versions.c, tables.adapters.c
    agreed = select(tables.consents.c.user)
    withdrawn = set(db.execute(select(s.id).where(s.user.not_in(agreed))).scalars())
    waiting = {digest for digest, sharers in sharers_in(db).items() if not sharers.isdisjoint(withdrawn)}
    if withdrawn:  # which sharers are in a pool that came into a home of format 6 or older is not known
        unknown = select(p.digest).where(p.own.is_(False), p.digest.not_in(select(v.digest)))
        waiting |= set(db.execute(unknown).scalars())
    db.execute(update(tables.pools).values(waits=p.digest.in_(waiting)))
    db.execute(update(tables.adapters).where(a.stale == WAITS, a.pool.not_in(waiting)).values(stale=None))
    db.execute(update(tables.adapters).where(a.stale.is_(None), a.pool.in_(waiting)).values(stale=WAITS))


def mark_made(db: Connection, adapters: Iterable[AdapterInfo]) -> None:
    """Marks those of these new recipes as stale that are made of a pool that waits for a withdrawal."""
    if made := [one.id for one in adapters if one.pool is not None]:
        a, waiting = tables.adapters.c, select(tables.pools.c.digest).where(tables.pools.c.waits)
        db.execute(update(tables.adapters).where(a.id.in_(made), a.pool.in_(waiting)).values(stale=WAITS))


def is_kept(columns: Any) -> ColumnElement[bool]:
    """Whether an adapter's row is not stale for good."""
    return or_(columns.stale.is_(None), columns.stale == WAITS)
