"""Forgetting: a person, or one of their records, and the proof that nothing of it is left in the home."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from ownlm.errors import NotFoundError, StoreError
from ownlm.store import tables, traces
from ownlm.store.drafts import drop
from ownlm.store.pools import FOLDER as POOLS
from ownlm.store.pools import pools_with
from ownlm.store.pools import sweep as sweep_pools
from ownlm.store.served import sweep_served
from ownlm.store.store import Store
from ownlm.store.tombstones import entomb
from ownlm.store.traces import Needle
from ownlm.store.work import alone

DUE = "forgetting "  # begins a key of the table `meta`, from a deletion until nothing of it is left in any file
SHORTEST, LONGEST = 8, 48  # letters of a text that are searched for; a shorter one may be anybody's
MOST = 512  # texts searched for

_ABOUT_THEM = (tables.consents, tables.tokens, tables.jobs)  # what goes with a person, uncounted


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed, and what was searched for traces of it.

    Attributes:
        marked: adapters that had learnt from a record and wait to be trained anew without it.
        blobs: files of weights.
        bases: adapted bases that have learnt from the person; their weights are as they were.
        texts: how many of the person's texts were searched for in the home's files.
        pools: digests of the pools in which pieces lie that may have learnt from a record.
        withdrawn: digests of the pools that a person's pieces were taken out of.
        stale: other people, whose assemblies used these pieces.
    """

    records: int = 0
    profiles: int = 0
    adapters: int = 0
    marked: int = 0
    blobs: int = 0
    bases: tuple[str, ...] = ()
    texts: int = 0
    pools: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


class Unfinished(StoreError):
    """Rows are removed for good, and what they left in files is not: the same call, or `finish_all`, removes it.

    Attributes:
        done: what was removed.
    """

    def __init__(self, error: StoreError, done: Forgotten) -> None:
        super().__init__(error.what, got=error.got, expected=error.expected, hint=error.hint)
        self.done = done


def forget_person(store: Store, user: str) -> Forgotten:
    """Removes all of a person: records, profiles, adapters, recipes, drafts, blobs, consent, tokens and jobs.

    What was stopped in its midst is finished by the same call. A hash of the name stays, so that an old file does not
    bring the person back.

    Raises:
        NotFoundError: the home knows nobody of that name, and nothing is left to finish.
        StoreError: the home cannot be written; or a copy of their texts lies in another file of it, or pieces of theirs
            in one of its pools. Nothing is removed then. Unfinished: traces are left in files.
    """
    r, p, o, due = tables.records.c, tables.profiles.c, tables.outsiders.c, _due_key(user)
    with store.database.writing() as db:
        _check_pools(db, user)
        needles = _needles([user, *_texts(db, r.user == user, p.user == user)])
        records, profiles, adapters, *others = (
            db.execute(delete(table).where(table.c.user == user)).rowcount
            for table in (tables.records, tables.profiles, tables.adapters, *_ABOUT_THEM)
        )
        drop(db, user)
        bases = _learnt_from(db, o.user == user)
        db.execute(delete(tables.outsiders).where(o.user == user))
        if not (records or profiles or adapters or any(others) or bases or due in dues(db)):
            raise NotFoundError(f"The home has no user {user!r}", hint="`ownlm users ls`")
        _check_other_files(store, db, needles)
        _say_due(db, due)
        entomb(db, user)
    done = Forgotten(records, profiles, adapters, bases=bases, texts=len(needles))
    return _finish(store, due, needles, done)


def forget_record(store: Store, task: str, user: str, record: str) -> Forgotten:
    """Removes one record, the person's profiles and drafts; marks the adapters that have learnt from it.

    Marked adapters answer until `train`, or of recipes `assemble`, has made a new one without the record; then they are
    removed. Where no record is left, they are removed at once; with the last record of any task, the consent to share
    goes too. Pieces in pools stay until they are withdrawn.

    Raises:
        NotFoundError: there is no such record, and nothing is left to finish.
        StoreError: as `forget_person`.
    """
    r, p, a, o = tables.records.c, tables.profiles.c, tables.adapters.c, tables.outsiders.c
    this, own = (r.task == task) & (r.user == user) & (r.id == record), (a.task == task) & (a.user == user)
    due = _due_key(user, task, record)
    with store.database.writing() as db:
        number = db.execute(select(r.number).where(this)).scalar()
        if number is None:
            if due not in dues(db):
                what = f"User {user!r} has no record {record!r} in task {task!r}"
                raise NotFoundError(what, hint=f"`ownlm history show {user} --task {task}`")
            done, needles = Forgotten(), list[Needle]()
        else:
            needles = _needles(_texts(db, this, (p.task == task) & (p.user == user)))
            db.execute(delete(tables.records).where(this))
            profiles = db.execute(delete(tables.profiles).where(p.task == task, p.user == user)).rowcount
            drop(db, user, task)
            learnt = update(tables.adapters).where(own, a.upto >= number).values(forgotten=a.forgotten + 1)
            marked, adapters = db.execute(learnt).rowcount, 0
            if not db.execute(select(func.count()).where(r.task == task, r.user == user)).scalar():
                marked, adapters = 0, db.execute(delete(tables.adapters).where(own)).rowcount
            if not db.execute(select(func.count()).where(r.user == user)).scalar():
                db.execute(delete(tables.consents).where(tables.consents.c.user == user))
            bases = _learnt_from(db, (o.user == user) & (tables.bases.c.task == task))
            _check_other_files(store, db, needles)
            _say_due(db, due)
            entomb(db, task, user, record)
            pools = tuple(pools_with(db, user, task))
            done = Forgotten(1, profiles, adapters, marked, 0, bases, len(needles), pools)
    return _finish(store, due, needles, done)


def finish_all(store: Store) -> None:
    """Finishes what was stopped in its midst, whoever's it was. Nobody knows any more for which texts to search.

    Raises:
        StoreError: it cannot be finished just now.
    """
    with store.database.reading() as db:
        due = dues(db)
    if due:
        _clean(store)
        with store.database.writing() as db:
            db.execute(delete(tables.meta).where(tables.meta.c.key.in_(due)))


def dues(db: Connection) -> set[str]:
    """Keys of the forgettings that were stopped before nothing was left in any file."""
    key = tables.meta.c.key
    return set(db.execute(select(key).where(key.startswith(DUE, autoescape=True))).scalars())


def _due_key(*whose: str) -> str:
    """It names nobody: who is forgotten must not stand there."""
    return DUE + hashlib.sha256(json.dumps(whose).encode()).hexdigest()


def _say_due(db: Connection, due: str) -> None:
    if due not in dues(db):
        db.execute(insert(tables.meta).values(key=due, value="due"))


def _finish(store: Store, due: str, needles: list[Needle], done: Forgotten) -> Forgotten:
    """Removes what deleted rows leave in files, and looks whether anything is left; an Unfinished where it is."""
    try:
        done = replace(done, blobs=_clean(store))
        with store.database.reading() as db:
            if left := _left(_database_files(store), needles, db):
                hint = "end what else uses the home, and give the same command again"
                raise StoreError(f"Text that was to be forgotten is still found in {left[0]}", hint=hint)
        with store.database.writing() as db:
            db.execute(delete(tables.meta).where(tables.meta.c.key == due))
    except StoreError as error:
        raise Unfinished(error, done) from None
    except OSError as error:
        raise Unfinished(StoreError(f"The home {store.folder} cannot be cleaned", got=error.strerror), done) from None
    return done


def _clean(store: Store) -> int:
    """Removes weights without a name, free pages, and the log. Returns how many blobs."""
    blobs = store.sweep()
    sweep_served(store)
    with alone(store.folder) as idle:
        if idle:  # else who is at work removes what it may not keep
            store.sweep_bases()
            sweep_pools(store)
    store.database.vacuum()
    return blobs


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


def _texts(db: Connection, of_records: ColumnElement[bool], of_profiles: ColumnElement[bool]) -> Iterator[str]:
    for fields in db.execute(select(tables.records.c.fields).where(of_records)).scalars():
        yield from fields.values()
    yield from db.execute(select(tables.profiles.c.text).where(of_profiles)).scalars()


def _needles(texts: Iterable[str]) -> list[Needle]:
    beginnings = {content[:LONGEST] for content in texts if len(content) >= SHORTEST}
    longest = sorted(beginnings, key=lambda one: (-len(one), one))[:MOST]
    return [(one.encode(), json.dumps(one)[1:-1].encode()) for one in longest]


def _database_files(store: Store) -> list[Path]:
    return [path for path in store.folder.glob(f"{store.database.path.name}*") if path.is_file()]


def _check_pools(db: Connection, user: str) -> None:
    """Raises a StoreError where pieces of a person lie in pools of this home."""
    if held := pools_with(db, user):
        what = f"Pieces of user {user!r} lie in pools of this home; nothing was removed"
        got = ", ".join(digest[:12] for digest in held)
        raise StoreError(what, got=got, hint=f"`ownlm pool withdraw {user}`, and give the same command again")


def _check_other_files(store: Store, db: Connection, needles: list[Needle]) -> None:
    """Raises a StoreError where a text lies in a file of the home that is no database, blob, base or pool.

    What somebody put beside a pool's own files is looked at.
    """
    apart, database = {store.folder / "bases", store.blobs.folder}, _database_files(store)
    of_pools = {path for kind in ("json", "safetensors") for path in (store.folder / POOLS).glob(f"*/*.{kind}")}
    others = (
        path
        for path in store.folder.rglob("*")
        if path.is_file() and not apart & set(path.parents) and path not in of_pools and path not in database
    )
    try:
        left = _left(others, needles, db)
    except OSError as error:
        what = f"The files of the home {store.folder} cannot be searched; nothing was removed"
        raise StoreError(what, got=error.strerror, hint="make them readable, or remove them") from None
    if left:
        raise StoreError(
            f"A copy of what is to be forgotten lies in {left[0]}; nothing was removed",
            hint="remove that file, and give the same command again",
        )


def _left(paths: Iterable[Path], needles: list[Needle], db: Connection) -> list[Path]:
    """The files that hold a text which no row of the database, as it is now, holds."""
    if not needles or not (found := traces.found(paths, needles)):
        return []
    left = set[Needle]().union(*(here for _, here in found))
    for row in db.exec_driver_sql(_ALL_TEXT):
        left -= {needle for needle in left if any(form in row[0].encode() for form in needle)}
    return [path for path, here in found if here & left]


_ALL_TEXT = " UNION ALL ".join(
    f"SELECT coalesce({column}, '') FROM {table}"
    for table, columns in {
        "records": ("fields", "user", "id"), "profiles": ("text",), "tasks": ("spec",), "outsiders": ("user",),
        "adapters": ("provenance", "shape", "stale"), "bases": ("provenance", "name", "folder", "source"),
        "pools": ("provenance", "folder"), "consents": ("user", "licence"), "sharers": ("user",),
        "drafts": ("user",), "tokens": ("user",), "jobs": ("user", "error"), "sqlite_master": ("sql",),
    }.items()
    for column in columns
)  # fmt: skip
