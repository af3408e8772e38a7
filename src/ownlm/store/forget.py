"""Forgetting: a person, or one of their records, and the proof that nothing of it is left in the home."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, update

from ownlm.errors import NotFoundError, StoreError
from ownlm.store import tables
from ownlm.store.store import Store

DUE = "scrub"  # in the table `meta` from the deletion until nothing of what was deleted is left in any file
SHORTEST, LONGEST = 16, 48  # bytes of a text that are searched for; a shorter one may be anybody's
MOST = 512  # texts searched for


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed, and what was searched for traces of it.

    Attributes:
        marked: adapters that had learnt from a record and wait to be trained anew without it.
        blobs: files of weights.
        bases: adapted bases that have learnt from the person; their weights are as they were.
        texts: how many of the person's texts were searched for in the home's files.
    """

    records: int = 0
    profiles: int = 0
    adapters: int = 0
    marked: int = 0
    blobs: int = 0
    bases: tuple[str, ...] = ()
    texts: int = 0


def forget_person(store: Store, user: str) -> Forgotten:
    """Removes every record, profile, adapter version and blob of a person.

    What was stopped in its midst is finished by the same call.

    Raises:
        NotFoundError: the home knows nobody of that name, and nothing is left to finish.
        StoreError: the home cannot be written; or something of theirs is still found afterwards.
    """
    with store.database.writing() as db:
        needles = _needles(_texts(db, tables.records.c.user == user, tables.profiles.c.user == user))
        records, profiles, adapters = (
            db.execute(delete(table).where(table.c.user == user)).rowcount
            for table in (tables.records, tables.profiles, tables.adapters)
        )
        bases = _taught(db, user)
        db.execute(delete(tables.outsiders).where(tables.outsiders.c.user == user))
        if not (records or profiles or adapters or bases or is_due(db)):
            raise NotFoundError(f"The home has no user {user!r}", hint="`ownlm users ls`")
        _say_due(db)
    blobs = _scrub(store, needles)
    return Forgotten(records, profiles, adapters, blobs=blobs, bases=bases, texts=len(needles))


def forget_record(store: Store, task: str, user: str, record: str) -> Forgotten:
    """Removes one record, and the person's profiles; marks the adapters that have learnt from it.

    Marked adapters answer until `train` has made a new one without the record; then they are removed. Where no record
    is left, they are removed at once.

    Raises:
        NotFoundError: there is no such record, and nothing is left to finish.
        StoreError: as `forget_person`.
    """
    r, p, a = tables.records.c, tables.profiles.c, tables.adapters.c
    this, own = (r.task == task) & (r.user == user) & (r.id == record), (a.task == task) & (a.user == user)
    with store.database.writing() as db:
        number = db.execute(select(r.number).where(this)).scalar()
        if number is None and not is_due(db):
            raise NotFoundError(
                f"User {user!r} has no record {record!r} in task {task!r}", hint=f"`ownlm history show {user}`"
            )
        needles = _needles(_texts(db, this, (p.task == task) & (p.user == user)))
        found = db.execute(delete(tables.records).where(this)).rowcount
        profiles = db.execute(delete(tables.profiles).where(p.task == task, p.user == user)).rowcount if found else 0
        learnt = update(tables.adapters).where(own, a.upto >= number).values(forgotten=a.forgotten + 1)
        marked, adapters = db.execute(learnt).rowcount, 0
        if not db.execute(select(func.count()).where(r.task == task, r.user == user)).scalar():
            marked, adapters = 0, db.execute(delete(tables.adapters).where(own)).rowcount
        bases = _taught(db, user) if found else ()
        _say_due(db)
    blobs = _scrub(store, needles)
    return Forgotten(found, profiles, adapters, marked, blobs, bases, len(needles))


def is_due(db: Connection) -> bool:
    """Whether a forgetting was stopped before nothing was left in any file."""
    return db.execute(select(tables.meta.c.value).where(tables.meta.c.key == DUE)).scalar() is not None


def _say_due(db: Connection) -> None:
    if not is_due(db):
        db.execute(insert(tables.meta).values(key=DUE, value="due"))


def _scrub(store: Store, needles: list[bytes]) -> int:
    """Removes what deleted rows leave in files: blobs without a name, free pages, the log. Returns how many blobs."""
    blobs = store.sweep()
    store.database.vacuum()
    _prove(store, needles)
    with store.database.writing() as db:
        db.execute(delete(tables.meta).where(tables.meta.c.key == DUE))
    return blobs


def _taught(db: Connection, user: str) -> tuple[str, ...]:
    """The adapted bases that have learnt from a person; each keeps count of what was forgotten since."""
    o, b = tables.outsiders.c, tables.bases.c
    names = tuple(db.execute(select(o.base).where(o.user == user).order_by(o.base)).scalars())
    if names:
        db.execute(update(tables.bases).where(b.name.in_(names)).values(forgotten=b.forgotten + 1))
    return names


def _texts(db: Connection, of_records: ColumnElement[bool], of_profiles: ColumnElement[bool]) -> Iterator[str]:
    """The texts as they stand in the database's file."""
    for fields in db.execute(select(tables.records.c.fields).where(of_records)).scalars():
        yield from (json.dumps(value)[1:-1] for value in fields.values())
    yield from db.execute(select(tables.profiles.c.text).where(of_profiles)).scalars()


def _needles(texts: Iterable[str]) -> list[bytes]:
    beginnings = {content.encode()[:LONGEST] for content in texts}
    return sorted((one for one in beginnings if len(one) >= SHORTEST), key=lambda one: (-len(one), one))[:MOST]


def _prove(store: Store, needles: list[bytes]) -> None:
    """Raises a StoreError where a text is still found in a file, and is nobody else's too."""
    for path in _files(store.folder):
        content = path.read_bytes()
        for needle in needles:
            if needle in content and not _somebody_elses(store, needle):
                raise StoreError(
                    f"Text that was to be forgotten is still found in {path}",
                    hint="end what else uses the home, and give the same command again",
                )


def _files(home: Path) -> Iterator[Path]:
    """The home's files that can hold text: all but bases and weights."""
    yield from (path for path in sorted(home.iterdir()) if path.is_file())


def _somebody_elses(store: Store, needle: bytes) -> bool:
    with store.database.reading() as db:
        return any(
            db.execute(
                text(f"SELECT 1 FROM {table} WHERE instr(CAST({column} AS BLOB), :needle) LIMIT 1"), {"needle": needle}
            ).first()
            for table, column in (("records", "fields"), ("profiles", "text"), ("tasks", "spec"))
        )
