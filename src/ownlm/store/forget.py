"""Deletion of a user, or of one record, with every trace of it in the home."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from ownlm.errors import StoreError
from ownlm.history.record import History, Record
from ownlm.store import tables
from ownlm.store.checkpoints import learnt_from
from ownlm.store.drafts import drop
from ownlm.store.erasing.copies import check_no_copies, copies_of, needles_of, other_files, prove_gone
from ownlm.store.erasing.leftovers import PATIENCE_S, Leftover, due_key, dues, erase, erase_due, note_due
from ownlm.store.erasing.traces import Needle
from ownlm.store.pools import pools_with
from ownlm.store.records import Bounds, add_tombstone, new_rows, no_record, unknown_user_in
from ownlm.store.store import Store
from ownlm.store.withdrawals import mark_waiting

QUICK_BYTES = 16_000_000  # size of a database that is rewritten in a fraction of a second
LEAVING = "leaving "  # prefix of a key in `meta`: a pseudonym under which a deleted user's pieces wait in pools
_BY_USER = (tables.records, tables.profiles, tables.adapters, tables.consents, tables.tokens, tables.jobs)


class Forgotten(BaseModel):
    """What a deletion removed, and the result of the search for traces.

    Attributes:
        records: number of records removed.
        profiles: number of text profiles removed.
        adapters: number of adapter versions removed.
        marked: number of adapters that may have learnt from the record and must be trained again without it.
        blobs: number of weight files removed.
        bases: adapted bases that have learnt from the user; their weights are unchanged.
        texts: number of texts that the home's files were searched for.
        short: number of texts that are too short to search for.
        pools: digests of pools with pieces that may have learnt from what was deleted. Where a user was deleted, these
            pools answer no requests until the pieces are withdrawn.
        withdrawn: digests of the pools that the user's pieces were removed from.
        stale: other users with assemblies of these pieces.
        leaving: pseudonym under which the user's pieces wait in pools for their withdrawal.
        unfinished: why traces may remain in files until the next command that writes; None where none remain.
    """

    model_config = ConfigDict(frozen=True)

    records: int = 0
    profiles: int = 0
    adapters: int = 0
    marked: int = 0
    blobs: int = 0
    bases: tuple[str, ...] = ()
    texts: int = 0
    short: int = 0
    pools: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    leaving: str | None = Field(None, exclude=True)
    unfinished: str | None = None


def forget_user(store: Store, user: str, *, verify: bool = False, patience_s: float = PATIENCE_S) -> Forgotten:
    """Deletes a user: records, profiles, adapters, recipes, drafts, blobs, consent, tokens and jobs.

    Pieces in pools of this home stay under a pseudonym until `withdraw` removes them; until then these pools answer no
    requests. The next command that writes completes an interrupted deletion. A hash of the name stays, so that adding
    an old file does not bring the user back.

    Args:
        verify: search all files of the home for the user's texts afterwards.
        patience_s: how long to wait for readers of the old state.

    Raises:
        NotFoundError: the home does not know the user, and no deletion of that user is to be completed.
        CopyError, StoreError: another file in the home has a copy of the texts, or the home cannot be written; nothing
            is removed. With `verify`, StoreError: a text is still found.
    """
    r, p, o = tables.records.c, tables.profiles.c, tables.outsiders.c
    needles, short = _needles(store, verify, r.user == user, p.user == user, user)
    leftover = Leftover(due_key(user))
    with _deleting(store, leftover, needles) as db:
        for table in (*_BY_USER, tables.drafts, tables.outsiders, tables.sharers):
            leftover.take(db, table, table.c.user == user)
        _drop_checkpoints(db, leftover, user)
        records, profiles, adapters, *others = (
            db.execute(delete(table).where(table.c.user == user)).rowcount for table in _BY_USER
        )
        drop(db, user)
        bases = _learnt_from(db, o.user == user)
        db.execute(delete(tables.outsiders).where(o.user == user))
        pools, leaving = tuple(pools_with(db, user)), _rename_sharer(db, user)
        mark_waiting(db)
        if not (records or profiles or adapters or any(others) or bases or pools or leftover.due in dues(db)):
            raise unknown_user_in(db, user)
        add_tombstone(db, user)
    done = Forgotten(
        records=records, profiles=profiles, adapters=adapters, bases=bases, short=short, pools=pools, leaving=leaving
    )
    return _finished(store, leftover, done, needles if verify else [], patience_s)


def forget_record(
    store: Store, task: str, user: str, record: str, *, verify: bool = False, patience_s: float = PATIENCE_S
) -> Forgotten:
    """Deletes one record and the user's profiles and drafts; marks the adapters that have learnt from it.

    Marked adapters answer until `train` (or `assemble`, for recipes) has made a new one without the record. Without any
    record left in the task they are removed at once; with the last record of all tasks, the consent to share goes too.
    Pieces in pools stay until they are withdrawn.

    Args:
        verify, patience_s: as for `forget_user`.

    Raises:
        NotFoundError: there is no such record, and no deletion of it is to be completed.
        CopyError, StoreError: as `forget_user`.
    """
    r, p = tables.records.c, tables.profiles.c
    this = (r.task == task) & (r.user == user) & (r.id == record)
    needles, short = _needles(store, verify, this, (p.task == task) & (p.user == user))
    leftover, done = Leftover(due_key(user, task, record)), Forgotten(short=short)
    with _deleting(store, leftover, needles) as db:
        number = db.execute(select(r.number).where(this)).scalar()
        if number is None and leftover.due not in dues(db):
            raise no_record(task, user, record)
        if number is not None:
            done = _delete_record(db, leftover, task, user, this, number, short)
            add_tombstone(db, task, user, record)
    return _finished(store, leftover, done, needles if verify else [], patience_s)


def replace_record(
    store: Store,
    task: str,
    new: Record,
    *,
    verify: bool = False,
    patience_s: float = PATIENCE_S,
    bounds: Bounds | None = None,
) -> Forgotten:
    """Replaces the record with the same id; what learnt from the old one is treated as by `forget_record`.

    Args:
        verify, patience_s: as for `forget_user`. Texts that the new record repeats are not searched for.
        bounds: limits on the user's records; None for no limits.

    Returns:
        What was removed: nothing where both records are the same.

    Raises:
        NotFoundError: there is no record of that id. DataError: the user exceeds the limits.
        CopyError, StoreError: as `forget_user`.
    """
    r, p, user = tables.records.c, tables.profiles.c, new.user_id
    this = (r.task == task) & (r.user == user) & (r.id == new.id)
    kept = tuple(new.fields.values())
    needles, short = _needles(store, verify, this, (p.task == task) & (p.user == user), kept=kept)
    leftover, done = Leftover(due_key(user, task, new.id)), Forgotten()
    with _deleting(store, leftover, needles) as db:
        old = db.execute(select(r.number, r.digest).where(this)).first()
        if old is None:
            raise no_record(task, user, new.id)
        (row,) = new_rows(task, History(user, (new,)), {})
        if row["digest"] != old.digest:
            row["number"] = old.number
            done = _delete_record(db, leftover, task, user, this, old.number, short, row)
            if bounds is not None:
                bounds.check(db, task, user)
    return _finished(store, leftover, done, needles if verify else [], patience_s)


def resume(store: Store, *, to_read: bool = False) -> None:
    """Completes the deletions of killed processes, as far as that is possible without waiting.

    Args:
        to_read: the home is opened to read. Then a large database, which takes time to rewrite, is left to the next
            command that writes, and to a server.
    """
    if store.database.read_only or (to_read and store.database.path.stat().st_size > QUICK_BYTES):
        return
    with suppress(StoreError):
        erase_due(store, patience_s=0)


def leaving(store: Store) -> list[str]:
    """The pseudonyms under which pieces of deleted users wait in pools for their withdrawal."""
    key = tables.meta.c.key
    keys = store.database.rows(select(key).where(key.startswith(LEAVING, autoescape=True)))
    return [row.key.removeprefix(LEAVING) for row in keys]


def left(store: Store, name: str) -> None:
    """Notes that no pieces wait under this pseudonym any more."""
    with store.database.writing() as db:
        db.execute(delete(tables.meta).where(tables.meta.c.key == LEAVING + name))


@contextmanager
def _deleting(store: Store, leftover: Leftover, needles: list[Needle]) -> Iterator[Connection]:
    """A transaction that deletes; it fails where a copy of a deleted text lies in another file of the home."""
    copies = copies_of(store, needles)
    with store.database.writing() as db:
        yield db
        check_no_copies(db, copies)
        note_due(db, leftover.due)


def _delete_record(
    db: Connection, leftover: Leftover, task: str, user: str, this: ColumnElement[bool], number: int, short: int,
    instead: dict[str, Any] | None = None,
) -> Forgotten:  # fmt: skip
    r, a, o = tables.records.c, tables.adapters.c, tables.outsiders.c
    own = (a.task == task) & (a.user == user)
    leftover.take(db, tables.records, this)
    for table in (tables.profiles, tables.drafts):
        leftover.take(db, table, (table.c.task == task) & (table.c.user == user))
    db.execute(delete(tables.records).where(this))
    if instead is not None:
        db.execute(insert(tables.records).values(**instead))
    _drop_checkpoints(db, leftover, user, task)
    profiles = db.execute(
        delete(tables.profiles).where(tables.profiles.c.task == task, tables.profiles.c.user == user)
    ).rowcount
    drop(db, user, task)
    learnt = update(tables.adapters).where(own, a.upto >= number).values(forgotten=a.forgotten + 1)
    marked, adapters = db.execute(learnt).rowcount, 0
    if not db.execute(select(func.count()).where(r.task == task, r.user == user)).scalar():
        leftover.take(db, tables.adapters, own)
        marked, adapters = 0, db.execute(delete(tables.adapters).where(own)).rowcount
    if not db.execute(select(func.count()).where(r.user == user)).scalar():
        leftover.take(db, tables.consents, tables.consents.c.user == user)
        db.execute(delete(tables.consents).where(tables.consents.c.user == user))
        mark_waiting(db)
    bases = _learnt_from(db, (o.user == user) & (tables.bases.c.task == task))
    pools = tuple(pools_with(db, user, task))
    return Forgotten(
        records=1, profiles=profiles, adapters=adapters, marked=marked, bases=bases, pools=pools, short=short
    )


def _drop_checkpoints(db: Connection, leftover: Leftover, user: str, task: str | None = None) -> None:
    """Removes checkpoints that may have learnt from a user's records."""
    where = learnt_from(db, user, task)
    leftover.take(db, tables.checkpoints, where)
    db.execute(delete(tables.checkpoints).where(where))


def _rename_sharer(db: Connection, user: str) -> str | None:
    """Gives a user's pieces in pools a pseudonym, which has no consent to share; None where there are no pieces."""
    mine, name = tables.sharers.c.user == user, f"deleted-{uuid4().hex[:12]}"
    if not db.execute(update(tables.sharers).where(mine).values(user=name)).rowcount:
        return None
    db.execute(insert(tables.meta).values(key=LEAVING + name, value=""))
    return name


def _finished(store: Store, leftover: Leftover, done: Forgotten, needles: list[Needle], patience_s: float) -> Forgotten:
    """Removes what deleted rows leave in files, and searches for the needles."""
    try:
        erase(store, leftover, patience_s)
    except StoreError as error:
        return done.model_copy(update={"unfinished": error.what})
    if needles:
        prove_gone(store, needles)
    return done.model_copy(update={"blobs": leftover.removed, "texts": len(needles)})


def _learnt_from(db: Connection, where: ColumnElement[bool]) -> tuple[str, ...]:
    """Counts a deletion on the bases that learnt from it, and on the bases made from these; returns their names."""
    o, b = tables.outsiders.c, tables.bases.c
    names = set(db.execute(select(o.base).join(tables.bases, b.name == o.base).where(where)).scalars())
    in_order = db.execute(select(b.name, b.parent).order_by(b.number)).all()
    for name, parent in in_order:  # a parent comes before the bases made from it
        if parent in names:
            names.add(name)
    db.execute(update(tables.bases).where(b.name.in_(names)).values(forgotten=b.forgotten + 1))
    return tuple(name for name, _ in in_order if name in names)


def _needles(
    store: Store, verify: bool, of_records: ColumnElement[bool], of_profiles: ColumnElement[bool], *others: str,
    kept: Collection[str] = (),
) -> tuple[list[Needle], int]:  # fmt: skip
    """The texts to search for in files, and the number of texts too short for it; none where no search is needed.

    Args:
        kept: texts that stay in the home; their parts are not searched for.
    """
    if not verify and next(other_files(store), None) is None:
        return [], 0
    with store.database.reading() as db:
        texts = list(db.execute(select(tables.profiles.c.text).where(of_profiles)).scalars())
        for fields in db.execute(select(tables.records.c.fields).where(of_records)).scalars():
            texts += fields.values()
    return needles_of([*others, *(one for one in texts if not any(one in text for text in kept))])
