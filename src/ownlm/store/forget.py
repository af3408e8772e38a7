"""Forgetting: a person, or one of their records, so that nothing of it is left in the home."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from ownlm.errors import NotFoundError, StoreError, argument
from ownlm.history.record import History, Record
from ownlm.store import tables
from ownlm.store.checkpoints import learnt_from
from ownlm.store.drafts import drop
from ownlm.store.erasing.copies import check_no_copies, copies_of, needles_of, other_files, prove_gone
from ownlm.store.erasing.leftovers import PATIENCE_S, Leftover, due_key, dues, erase, erase_due, say_due
from ownlm.store.pools import pools_with
from ownlm.store.records import Bounds, new_rows
from ownlm.store.store import Store
from ownlm.store.tombstones import add_tombstone
from ownlm.store.traces import Needle
from ownlm.store.unknown_user import unknown_user_in

QUICK_BYTES = 16_000_000  # of a database that is rewritten in a fraction of a second
LEAVING = "leaving "  # begins a key of the table `meta`: a name under which pieces of somebody deleted wait in pools
_THEIRS = (tables.records, tables.profiles, tables.adapters, tables.consents, tables.tokens, tables.jobs)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed, and what was searched for traces of it.

    Attributes:
        marked: adapters that had learnt from a record and wait to be trained anew without it.
        blobs: files of weights.
        bases: adapted bases that have learnt from the person; their weights are as they were.
        texts: how many of the texts were searched for in the home's files afterwards.
        short: how many are too short to be searched for.
        pools: digests of the pools in which pieces lie that may have learnt from a record; of a person whose pieces are
            still to be withdrawn, of the pools that nobody is answered from until then.
        withdrawn: digests of the pools that a person's pieces were taken out of.
        stale: other people, whose assemblies used these pieces.
        leaving: the name, made up, under which a person's pieces wait in pools for their withdrawal.
        unfinished: why something may be left in files; the next command that writes removes it. None: nothing is left.
    """

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
    leaving: str | None = None
    unfinished: str | None = None


def forget_person(
    store: Store, user: str, *, verify: bool = False, patience_s: float = PATIENCE_S
) -> Forgotten:  # fmt: skip
    """Removes all of a person: records, profiles, adapters, recipes, drafts, blobs, consent, tokens and jobs.

    Pieces that lie in pools of this home wait under a made-up name until `withdraw` takes them out; until then nobody
    is answered from these pools. What was stopped in its midst is finished by the next command
    that writes. A hash of the name stays, so that an old file does not bring the person back.

    Args:
        verify: search all files of the home afterwards for the person's texts.
        patience_s: how long to wait for others who read the old state.

    Raises:
        NotFoundError: the home knows nobody of that name, and nothing is left to finish.
        CopyError, StoreError: a copy of their texts lies in another file of the home; the home cannot be written.
            Nothing is removed then. With `verify`, StoreError: a text is still found.
    """
    r, p, o = tables.records.c, tables.profiles.c, tables.outsiders.c
    needles, short = _needles(store, verify, r.user == user, p.user == user, user)
    copies, leftover = copies_of(store, needles), Leftover(due_key(user))
    with store.database.writing() as db:
        for table in (*_THEIRS, tables.drafts, tables.outsiders, tables.sharers):
            leftover.take(db, table, table.c.user == user)
        _drop_checkpoints(db, leftover, user)
        records, profiles, adapters, *others = (
            db.execute(delete(table).where(table.c.user == user)).rowcount for table in _THEIRS
        )
        drop(db, user)
        bases = _learnt_from(db, o.user == user)
        db.execute(delete(tables.outsiders).where(o.user == user))
        pools, leaving = tuple(pools_with(db, user)), _rename_sharer(db, user)
        if not (records or profiles or adapters or any(others) or bases or pools or leftover.due in dues(db)):
            raise unknown_user_in(db, user)
        check_no_copies(db, copies)
        say_due(db, leftover.due)
        add_tombstone(db, user)
    done = Forgotten(records, profiles, adapters, bases=bases, short=short, pools=pools, leaving=leaving)
    return _finished(store, leftover, done, needles if verify else [], patience_s)


def forget_record(
    store: Store, task: str, user: str, record: str, *, verify: bool = False, patience_s: float = PATIENCE_S
) -> Forgotten:
    """Removes one record, the person's profiles and drafts; marks the adapters that have learnt from it.

    Marked adapters answer until `train`, or of recipes `assemble`, has made a new one without the record; then they are
    removed. Where no record is left, they are removed at once; with the last record of any task, the consent to share
    goes too. Pieces in pools stay until they are withdrawn.

    Args:
        verify, patience_s: as for `forget_person`.

    Raises:
        NotFoundError: there is no such record, and nothing is left to finish.
        CopyError, StoreError: as `forget_person`.
    """
    r, p = tables.records.c, tables.profiles.c
    this = (r.task == task) & (r.user == user) & (r.id == record)
    needles, short = _needles(store, verify, this, (p.task == task) & (p.user == user))
    copies, leftover = copies_of(store, needles), Leftover(due_key(user, task, record))
    with store.database.writing() as db:
        number = db.execute(select(r.number).where(this)).scalar()
        if number is None and leftover.due not in dues(db):
            raise no_record(task, user, record)
        done = Forgotten()
        if number is not None:
            done = _delete_record(db, leftover, task, user, this, number)
            check_no_copies(db, copies)
            say_due(db, leftover.due)
            add_tombstone(db, task, user, record)
    return _finished(store, leftover, replace(done, short=short), needles if verify else [], patience_s)


def replace_record(
    store: Store,
    task: str,
    new: Record,
    *,
    verify: bool = False,
    patience_s: float = PATIENCE_S,
    bounds: Bounds | None = None,
) -> Forgotten:
    """Puts a record in the place of the one with the same id; what learnt from the old one is treated as by forgetting.

    Args:
        verify, patience_s: as for `forget_person`. Texts that the new record repeats are not searched for.
        bounds: on what the user has then; None for none.

    Returns:
        What was removed: no record where the new one is the same as the old one.

    Raises:
        NotFoundError: there is no record of that id. DataError: the user has too much then.
        CopyError, StoreError: as `forget_person`.
    """
    r, p, user = tables.records.c, tables.profiles.c, new.user_id
    this = (r.task == task) & (r.user == user) & (r.id == new.id)
    kept = tuple(new.fields.values())
    needles, short = _needles(store, verify, this, (p.task == task) & (p.user == user), kept=kept)
    copies, leftover = copies_of(store, needles), Leftover(due_key(user, task, new.id))
    with store.database.writing() as db:
        old = db.execute(select(r.number, r.digest).where(this)).first()
        if old is None:
            raise no_record(task, user, new.id)
        (row,) = new_rows(task, History(user, (new,)), {})
        if row["digest"] == old.digest:
            return Forgotten()
        done = _delete_record(db, leftover, task, user, this, old.number, row | {"number": old.number})
        if bounds is not None:
            bounds.check(db, task, user)
        check_no_copies(db, copies)
        say_due(db, leftover.due)
    return _finished(store, leftover, replace(done, short=short), needles if verify else [], patience_s)


def no_record(task: str, user: str, record: str) -> NotFoundError:
    """The error of a record that is not there."""
    what = f"User {user!r} has no record {record!r} in task {task!r}"
    return NotFoundError(what, hint=f"`ownlm history show --task {task} {argument(user)}`")


def _delete_record(
    db: Connection, leftover: Leftover, task: str, user: str, this: ColumnElement[bool], number: int,
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
    bases = _learnt_from(db, (o.user == user) & (tables.bases.c.task == task))
    return Forgotten(1, profiles, adapters, marked, 0, bases, pools=tuple(pools_with(db, user, task)))


def resume(store: Store, *, to_read: bool = False) -> None:
    """Finishes, as far as it can be done at once, the deletions of processes that were killed or could not finish.

    Args:
        to_read: the home is opened by a command that may only read, which must not wait until a large database is
            rewritten: that is left to the next command that writes, and to a server.
    """
    if store.database.read_only or (to_read and store.database.path.stat().st_size > QUICK_BYTES):
        return
    with suppress(StoreError):
        erase_due(store, patience_s=0)


def leaving(store: Store) -> list[str]:
    """The names under which pieces of people who were deleted wait in pools to be withdrawn."""
    key = tables.meta.c.key
    with store.database.reading() as db:
        keys = db.execute(select(key).where(key.startswith(LEAVING, autoescape=True))).scalars()
        return [one.removeprefix(LEAVING) for one in keys]


def left(store: Store, name: str) -> None:
    """Says that no pieces wait under such a name any more."""
    with store.database.writing() as db:
        db.execute(delete(tables.meta).where(tables.meta.c.key == LEAVING + name))


def _drop_checkpoints(db: Connection, leftover: Leftover, user: str, task: str | None = None) -> None:
    """Removes the state of training that has learnt from a user's records."""
    theirs = learnt_from(db, user, task)
    leftover.take(db, tables.checkpoints, theirs)
    db.execute(delete(tables.checkpoints).where(theirs))


def _rename_sharer(db: Connection, user: str) -> str | None:
    """Puts a made-up name in a person's place where pieces of theirs lie in pools: it does not agree to share."""
    mine, name = tables.sharers.c.user == user, f"deleted-{uuid4().hex[:12]}"
    if not db.execute(update(tables.sharers).where(mine).values(user=name)).rowcount:
        return None
    db.execute(insert(tables.meta).values(key=LEAVING + name, value=""))
    return name


def _finished(
    store: Store, leftover: Leftover, done: Forgotten, needles: list[Needle], patience_s: float
) -> Forgotten:  # fmt: skip
    """Removes what deleted rows leave in files, and proves it where it is asked for."""
    try:
        erase(store, leftover, patience_s)
    except StoreError as error:
        return replace(done, unfinished=error.what)
    if needles:
        prove_gone(store, needles)
    return replace(done, blobs=leftover.removed, texts=len(needles))


def _learnt_from(db: Connection, whom: ColumnElement[bool]) -> tuple[str, ...]:
    """The bases that have learnt from somebody, those made from them too; each keeps count of what was forgotten."""
    o, b = tables.outsiders.c, tables.bases.c
    names = set(db.execute(select(o.base).join(tables.bases, b.name == o.base).where(whom)).scalars())
    in_order = db.execute(select(b.name, b.parent).order_by(b.number)).all()
    for name, parent in in_order:  # a parent comes before what was made from it
        if parent in names:
            names.add(name)
    db.execute(update(tables.bases).where(b.name.in_(names)).values(forgotten=b.forgotten + 1))
    return tuple(name for name, _ in in_order if name in names)


def _needles(
    store: Store, verify: bool, of_records: ColumnElement[bool], of_profiles: ColumnElement[bool], *others: str,
    kept: Collection[str] = (),
) -> tuple[list[Needle], int]:  # fmt: skip
    """What is searched for in files, and how many texts are too short for it; nothing without files to search.

    Args:
        kept: texts that stay in the home; what stands in one of them is not searched for.
    """
    if not verify and next(other_files(store), None) is None:
        return [], 0
    with store.database.reading() as db:
        texts = [one for one in _texts(db, of_records, of_profiles) if not any(one in text for text in kept)]
        return needles_of([*others, *texts])


def _texts(db: Connection, of_records: ColumnElement[bool], of_profiles: ColumnElement[bool]) -> Iterator[str]:
    for fields in db.execute(select(tables.records.c.fields).where(of_records)).scalars():
        yield from fields.values()
    yield from db.execute(select(tables.profiles.c.text).where(of_profiles)).scalars()
