"""Pools of pieces, consents of users, and the links between the random ids of sharers and users.

A pool names no user. Only the home where it was made links its random ids to users, while their pieces are in it. Links
are written and deleted in one transaction with the pool.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from ownlm.durable import sync
from ownlm.errors import NotFoundError, PoolError, StoreError, SupersededError, many
from ownlm.history.record import History
from ownlm.store import tables
from ownlm.store.records import add_tombstone, has_history, has_tombstone, no_longer_shared, tombstones
from ownlm.store.rows import WAITS, AdapterInfo, BaseInfo, PoolInfo, PoolVersion
from ownlm.store.store import Store
from ownlm.store.tables import narrowed, without_number
from ownlm.store.withdrawals import is_kept, mark_waiting, sharers_in

FOLDER = "pools"  # in the home, for its own pools
LIST = "list the pools"
REMOVED = "its pool was removed"
_SHARER = "sharer"  # first part of the tombstone of a withdrawn sharer
_NAMED = 5  # users named in a message; the rest is counted

# Consent


def consents(store: Store) -> dict[str, tuple[str, str]]:
    """All users who agree to share, with the licence and since when."""
    query = select(tables.consents).order_by(tables.consents.c.user)
    return {row.user: (row.licence, row.created) for row in store.database.rows(query)}


# Sharers


def sharers_of(store: Store, user: str) -> list[tuple[str, str]]:
    """A user's random ids, each with the task of its pool."""
    s = tables.sharers.c
    rows = store.database.rows(select(s.id, s.task).where(s.user == user).order_by(s.task, s.id))
    return [(row.id, row.task) for row in rows]


def user_of(store: Store, sharer: str) -> str | None:
    """The user behind a random id; None where its pool was not made in this home."""
    s = tables.sharers.c
    row = store.database.first(select(s.user).where(s.id == sharer))
    return None if row is None else str(row.user)


def users_of(store: Store, task: str | None = None, pool: str | None = None) -> dict[str, str]:
    """Users with pieces in this home's own pools, by random id; of a task, or of the pool with this digest."""
    s = tables.sharers.c
    query = narrowed(select(s.id, s.user).order_by(s.id), s, task, None)
    rows = store.database.rows(query if pool is None else query.where(s.pool == pool))
    return {row.id: row.user for row in rows}


def pools_with(db: Connection, user: str, task: str | None = None) -> list[str]:
    """Digests of the pools, or of those of a task, with pieces of a user, oldest first."""
    p, s = tables.pools.c, tables.sharers.c
    query = select(p.digest).where(p.digest.in_(select(s.pool).where(s.user == user))).order_by(p.number)
    return list(db.execute(query if task is None else query.where(p.task == task)).scalars())


# Pools


def add_pool(
    store: Store,
    pool: PoolInfo,
    users: Mapping[str, str],
    histories: Iterable[History] = (),
    licences: Mapping[str, str] | None = None,
    seen: PoolVersion | None = None,
) -> None:
    """Registers a pool and the users behind its sharers.

    Args:
        users: users by new random sharer id; empty for a pool from outside.
        histories: histories that the pieces were trained on.
        licences: by user, the licence that they had agreed to when they were selected.
        seen: version by which the home will recognise it.

    Raises:
        NotFoundError: a user's consent was withdrawn or changed, or records of theirs were forgotten, since then.
        StoreError: the home has this pool.
    """
    c, r = tables.consents.c, tables.records.c
    with store.database.writing() as db:
        agreed = {row.user: row.licence for row in db.execute(select(c.user, c.licence))}
        there = set(db.execute(select(r.user).where(r.task == pool.task).distinct()).scalars())
        gone = {user for user in users.values() if user not in agreed or user not in there}
        gone |= {user for user, licence in (licences or {}).items() if agreed.get(user) != licence}
        gone |= {history.user_id for history in histories if not has_history(db, pool.task, history)}
        if gone:
            raise no_longer_shared(pool.task, gone)
        _insert(store, db, pool, seen)
        rows = [
            {"id": sharer, "task": pool.task, "user": user, "pool": pool.digest, "created": pool.created}
            for sharer, user in users.items()
        ]
        if rows:
            db.execute(insert(tables.sharers), rows)
        mark_waiting(db)


def check_not_withdrawn(store: Store, sharers: Iterable[str]) -> None:
    """Raises a PoolError where one of these random ids was withdrawn here, or was removed with its pool."""
    with store.database.reading() as db:
        noted = tombstones(db)
    if gone := sorted(sharer for sharer in sharers if has_tombstone(noted, _SHARER, sharer)):
        what = "The pool has pieces of sharers who were withdrawn here, or whose pool was removed here"
        hint = "get a version of it without them, or let them share again"
        raise PoolError(what, got=", ".join(gone), hint=hint)


def move_pool(store: Store, digest: str, folder: str) -> None:
    """Stores the new folder of a pool."""
    with store.database.writing() as db:
        where = tables.pools.c.digest == digest
        db.execute(update(tables.pools).where(where).values(folder=store.kept(folder)))


def replace_pool(
    store: Store,
    old: str,
    new: PoolInfo | None,
    recipes: Mapping[str, bytes],
    stale: Mapping[str, str],
    *,
    withdrawn: Collection[str],
    seen: PoolVersion | None = None,
    note: Callable[[Connection], object] = lambda db: None,
) -> list[str]:
    """Replaces a pool by its next version, or removes it, and updates the recipes that name it.

    Args:
        old: digest of the version to replace; the caller removes its folder afterwards.
        new: the next version; None where no sharer is left in it.
        recipes: updated recipes for the new version, by adapter id.
        stale: reason for each recipe that cannot be moved to the new version.
        withdrawn: random ids of the sharers removed from the new version.
        seen: version by which the home will recognise the new one.
        note: called with the same transaction.

    Returns:
        Ids of the adapters that named the old version and are in neither: they are stale too.

    Raises:
        NotFoundError: the home has no such pool, or no longer.
        StoreError: the home has the new version already.
    """
    p, s, a = tables.pools.c, tables.sharers.c, tables.adapters.c
    with store.database.writing() as db:
        number = db.execute(select(p.number).where(p.digest == old)).scalar()
        if number is None:
            raise _no_longer(old)
        for adapter, why in stale.items():
            db.execute(update(tables.adapters).where(a.id == adapter, a.pool == old).values(stale=why))
        gone = s.pool == old
        if new is not None:
            _insert(store, db, new, seen)
            for adapter, recipe in recipes.items():
                size = a.bytes - func.length(a.recipe) + len(recipe)
                now_so = {"recipe": recipe, "bytes": size, "pool": new.digest, "stale": None}
                db.execute(update(tables.adapters).where(a.id == adapter, a.pool == old).values(**now_so))
            db.execute(update(tables.sharers).where(gone, s.id.not_in(withdrawn)).values(pool=new.digest))
        db.execute(delete(tables.sharers).where(gone))
        for sharer in withdrawn:
            add_tombstone(db, _SHARER, sharer)
        db.execute(delete(tables.pools).where(p.digest == old))
        if new is not None:  # in its place: withdrawing makes no pool the newest
            db.execute(update(tables.pools).where(p.digest == new.digest).values(number=number))
        left = (a.pool == old) & is_kept(a)
        late = list(db.execute(select(a.id).where(left).order_by(a.number)).scalars())
        db.execute(update(tables.adapters).where(left).values(stale="its pool was replaced while it was made"))
        mark_waiting(db)
        note(db)
    return late


def remove_pool(store: Store, digest: str, note: Callable[[Connection], object] = lambda db: None) -> None:
    """Removes a pool, and the links between its sharers and users. Older versions of adapters made of it are stale.

    Links of sharers whom another pool has too go to that pool. The random ids of the others may not come back with an
    old copy: the home no longer knows the user who could withdraw them.

    Args:
        note: called with the same transaction.

    Raises:
        NotFoundError: the home has no such pool, or no longer.
        PoolError: current recipes are made of it.
    """
    p, s, a = tables.pools.c, tables.sharers.c, tables.adapters.c
    with store.database.writing() as db:
        if db.execute(select(p.number).where(p.digest == digest)).scalar() is None:
            raise _no_longer(digest)
        newest = select(func.max(a.number)).group_by(a.task, a.user)
        current = select(a.user).where(a.number.in_(newest), a.pool == digest, is_kept(a)).order_by(a.user)
        if users := list(db.execute(current).scalars()):
            raise PoolError(
                f"The pool {digest[:12]} is in use: recipes of {many(len(users), 'user')} are made of its pieces",
                got=", ".join(users[:_NAMED]) + (f" and {len(users) - _NAMED:,} more" if users[_NAMED:] else ""),
                hint="train these users, or assemble them from another pool",
                command="ownlm assemble --pool ID --user USER",
            )
        db.execute(update(tables.adapters).where(a.pool == digest, is_kept(a)).values(stale=REMOVED))
        elsewhere = {id: other for other, ids in sharers_in(db).items() if other != digest for id in ids}
        for sharer in list(db.execute(select(s.id).where(s.pool == digest)).scalars()):
            if sharer in elsewhere:
                db.execute(update(tables.sharers).where(s.id == sharer).values(pool=elsewhere[sharer]))
            else:
                db.execute(delete(tables.sharers).where(s.id == sharer))
                add_tombstone(db, _SHARER, sharer)
        db.execute(delete(tables.pools).where(p.digest == digest))
        mark_waiting(db)
        note(db)


def _no_longer(digest: str) -> NotFoundError:
    return NotFoundError(f"The home has no pool {digest[:12]}, or no longer", hint=LIST, command="ownlm pool ls")


def pool_versions(store: Store) -> list[PoolVersion]:
    """All versions of pools that are or were in the home."""
    rows = store.database.rows(select(tables.pool_versions).order_by(tables.pool_versions.c.digest))
    return [
        PoolVersion(**{**row._mapping, "ancestors": tuple(row.ancestors), "sharers": tuple(row.sharers)})
        for row in rows
    ]


def note_version(db: Connection, seen: PoolVersion) -> None:
    """Stores a version of a pool, in place of what was stored about it."""
    v = tables.pool_versions
    db.execute(delete(v).where(v.c.digest == seen.digest))
    db.execute(insert(v).values(**asdict(seen)))


def _insert(store: Store, db: Connection, pool: PoolInfo, seen: PoolVersion | None) -> None:
    if db.execute(select(tables.pools.c.number).where(tables.pools.c.digest == pool.digest)).first() is not None:
        raise StoreError(f"The home has the pool {pool.digest[:12]} already", hint=LIST, command="ownlm pool ls")
    if seen is not None:
        note_version(db, seen)
    db.execute(insert(tables.pools).values(**asdict(pool) | {"folder": store.kept(pool.folder)}))


def pools(store: Store, task: str | None = None) -> list[PoolInfo]:
    """All pools, or those of a task, oldest first."""
    query = narrowed(select(tables.pools).order_by(tables.pools.c.number), tables.pools.c, task, None)
    return [_pool(store, row) for row in store.database.rows(query)]


def pool(store: Store, digest: str | None = None, task: str | None = None, base: BaseInfo | None = None) -> PoolInfo:
    """The pool with a digest or its beginning; by default the newest, of a task and for a base where they are given.

    Raises:
        NotFoundError: there is none, or the beginning is that of several.
    """
    found = [
        one
        for one in pools(store, task)
        if one.digest.startswith(digest or "") and (base is None or one.base_fingerprint == base.fingerprint)
    ]
    if not found:
        which = f" {digest}" if digest else ""
        what = "".join([which, f" of task {task!r}" if task else "", f" for the base {base.name!r}" if base else ""])
        hint, command = (LIST, "ownlm pool ls") if digest else ("make one", f"ownlm share --task {task or 'T'}")
        raise NotFoundError(f"The home has no pool{what}", hint=hint, command=command)
    if digest and len(found) > 1:
        got = ", ".join(one.digest[: len(digest) + 8] for one in found)
        raise NotFoundError(f"{len(found)} pools begin with {digest!r}", got=got, hint="give more of the digest")
    return found[-1]


def usable(store: Store, digest: str) -> PoolInfo:
    """A pool, if recipes may be made of it and used now.

    Raises:
        SupersededError: the home has it no more. PoolError: it waits for a withdrawal.
    """
    row = store.database.first(select(tables.pools).where(tables.pools.c.digest == digest))
    if row is None:
        raise SupersededError(f"The pool {digest[:12]} is no longer in the home", hint="ask again")
    if row.waits:
        hint = "see which users' pieces must be withdrawn"
        raise PoolError(f"The pool {digest[:12]} {WAITS}", hint=hint, command="ownlm doctor")
    return _pool(store, row)


def recipes_of_pool(store: Store, digest: str) -> list[AdapterInfo]:
    """The adapters whose recipes name pieces of a pool, oldest first; stale ones too."""
    a = tables.adapters.c
    rows = store.database.rows(select(tables.adapters).where(a.pool == digest).order_by(a.number))
    return [AdapterInfo(**without_number(row)) for row in rows]


def check_own_folder(store: Store, info: PoolInfo) -> None:
    """Raises a StoreError where a pool's folder, which is to be removed, is outside the home's pool folders."""
    if Path(os.path.realpath(info.folder)).parent != Path(os.path.realpath(store.folder / FOLDER)):
        what = f"The folder of the pool {info.digest[:12]} is outside the home's pools; nothing was removed"
        raise StoreError(what, got=info.folder, hint="restore the home from a backup")


def sweep(store: Store) -> int:
    """Removes the folders of pools that nothing names, as killed runs leave them; returns how many."""
    loose = loose_folders(store)
    for path in loose:
        shutil.rmtree(path, ignore_errors=True)
    if loose:
        sync(store.folder / FOLDER)
    return len(loose)


def loose_folders(store: Store) -> list[Path]:
    """The folders of pools that nothing names, unfinished ones included."""
    named = {os.path.realpath(one.folder) for one in pools(store)}
    there = sorted((store.folder / FOLDER).glob("*"))
    return [path for path in there if path.is_dir() and os.path.realpath(path) not in named]


def _pool(store: Store, row: Row[Any]) -> PoolInfo:
    return PoolInfo(**without_number(row) | {"folder": str(store.folder / row.folder)})
