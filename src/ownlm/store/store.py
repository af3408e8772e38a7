"""The store: who did what, which bases and adapters there are, and what each was made from."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, Row, create_engine, event, func, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError

from ownlm.errors import BaseModelError, DataError, NotFoundError, StoreError
from ownlm.history.record import History, Record, in_order
from ownlm.history.task import Task
from ownlm.store import tables
from ownlm.store.blobs import Blobs

DATABASE = "ownlm.db"


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A base model that the home knows."""

    name: str
    folder: str  # one that lies in the home is kept relative to it, so that a home can be moved
    fingerprint: str
    parameters: int
    source: str
    task: str | None = None
    parent: str | None = None
    provenance: dict[str, Any] | None = None
    created: str = field(default_factory=lambda: now())


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One version of one person's adapter: what it was made from, and where its weights lie."""

    id: str
    user: str
    task: str
    base: str
    base_fingerprint: str
    key: str
    history: str
    records: int
    blob: str
    bytes: int
    lora: dict[str, Any]
    provenance: dict[str, Any]
    steps: int
    tokens: int
    loss_first: float
    loss_last: float
    seconds: float
    created: str = field(default_factory=lambda: now())


@dataclass(frozen=True, slots=True)
class Person:
    """How much the home holds of one person in one task."""

    user: str
    task: str
    records: int
    history: str  # digest of the records


class Store:
    """The database and the blobs of one home. What the database does not name does not exist.

    Args:
        folder: the home; made if it is missing.

    Raises:
        StoreError: the folder cannot be written, is no home, or was written by a newer ownlm.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # histories are nobody else's business
            with FileLock(folder / f"{DATABASE}.lock"):
                self._engine = _open(folder / DATABASE)
                self._prepare()
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"The home {folder} cannot be used", got=error, hint="choose another folder") from None

    def _prepare(self) -> None:
        """Makes the tables of a new home; refuses one of another format, untouched."""
        with self._begin() as db:
            if not inspect(db).has_table("meta"):
                tables.metadata.create_all(db)
                db.execute(insert(tables.meta).values(key="version", value=str(tables.VERSION)))
            version = db.execute(select(tables.meta.c.value).where(tables.meta.c.key == "version")).scalar()
        if version != str(tables.VERSION):
            raise StoreError(
                f"The home {self.folder} was written by another version of ownlm",
                got=f"format {version}",
                expected=f"format {tables.VERSION}",
                hint="install the ownlm that wrote it, or choose another home with --home",
            )

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except DBAPIError as error:
            raise StoreError(
                f"The database of the home {self.folder} cannot be used",
                got=error.orig,
                hint="check that the folder is a home, can be written, and has room",
            ) from None

    # Tasks

    def put_task(self, task: Task) -> None:
        """Keeps a task, or its new version, under its name."""
        spec = task.model_dump_json()
        with self._begin() as db:
            if db.execute(update(tables.tasks).where(tables.tasks.c.name == task.name).values(spec=spec)).rowcount == 0:
                db.execute(insert(tables.tasks).values(name=task.name, spec=spec))

    def task(self, name: str) -> Task | None:
        """The task of that name, if the home has it."""
        with self._begin() as db:
            spec = db.execute(select(tables.tasks.c.spec).where(tables.tasks.c.name == name)).scalar()
        return None if spec is None else Task.model_validate_json(spec)

    def tasks(self) -> list[str]:
        """Names of the tasks the home has."""
        with self._begin() as db:
            return list(db.execute(select(tables.tasks.c.name).order_by(tables.tasks.c.name)).scalars())

    # Records

    def add_records(self, task: str, histories: Iterable[History]) -> tuple[int, int]:
        """Adds records, all or none; a record that is there already with the same text is left as it is.

        Returns:
            How many were new, and how many were there.

        Raises:
            DataError: a record's id is there with another text.
        """
        new = known = 0
        with self._begin() as db:
            for history in histories:
                there = self._digests(db, task, history.user_id)
                rows = []
                for record in history.records:
                    digest = record_digest(record)
                    if record.id not in there:
                        there[record.id] = digest
                        rows.append({"task": task, "user": record.user_id, "id": record.id, "time": record.time,
                                     "fields": dict(record.fields), "digest": digest})  # fmt: skip
                    elif there[record.id] != digest:
                        raise DataError(
                            f"Record {record.id!r} of user {record.user_id!r} is in the home with another text",
                            hint="give the changed record an id of its own; nothing of this file was added",
                        )
                if rows:
                    db.execute(insert(tables.records), rows)
                new, known = new + len(rows), known + len(history.records) - len(rows)
        return new, known

    def _digests(self, db: Connection, task: str, user: str) -> dict[str, str]:
        r = tables.records.c
        return {row.id: row.digest for row in db.execute(select(r.id, r.digest).where(r.task == task, r.user == user))}

    def history(self, task: str, user: str) -> History:
        """A person's records in one task, oldest first; empty if there are none."""
        r = tables.records.c
        with self._begin() as db:
            rows = db.execute(
                select(r.id, r.fields, r.time).where(r.task == task, r.user == user).order_by(r.number)
            ).all()
        return in_order(user, [Record(user, row.id, row.fields, row.time) for row in rows])

    def knows(self, task: str, user: str) -> bool:
        """Whether a person has records in a task."""
        r = tables.records.c
        with self._begin() as db:
            return db.execute(select(r.number).where(r.task == task, r.user == user).limit(1)).first() is not None

    def people(self, task: str | None = None) -> list[Person]:
        """Everybody who has records, in the order they came, with a digest of what is there."""
        r = tables.records.c
        query = select(r.task, r.user, r.id, r.digest, r.number).order_by(r.task, r.user, r.id)
        people: list[tuple[int, Person]] = []
        with self._begin() as db:
            rows = db.execute(query if task is None else query.where(r.task == task))
            for (name, user), mine in groupby(rows, key=lambda row: (row.task, row.user)):
                hasher, numbers = hashlib.sha256(), list[int]()
                for row in mine:
                    hasher.update(_line(row.id, row.digest))
                    numbers.append(row.number)
                people.append((min(numbers), Person(user, name, len(numbers), hasher.hexdigest())))
        return [person for _, person in sorted(people, key=lambda one: one[0])]

    # Bases

    def add_base(self, base: BaseInfo, outsiders: Iterable[str] = ()) -> None:
        """Registers a base, and whose records it has learnt from."""
        with self._begin() as db:
            if db.execute(select(tables.bases.c.name).where(tables.bases.c.name == base.name)).scalar() is not None:
                raise BaseModelError(f"The home has a base {base.name!r} already", hint="choose another name")
            db.execute(insert(tables.bases).values(**asdict(base)))
            if rows := [{"base": base.name, "user": user} for user in outsiders]:
                db.execute(insert(tables.outsiders), rows)

    def move_base(self, name: str, folder: str) -> None:
        """Says where a base lies now."""
        with self._begin() as db:
            db.execute(update(tables.bases).where(tables.bases.c.name == name).values(folder=folder))

    def bases(self) -> list[BaseInfo]:
        """All bases, in the order they were added."""
        with self._begin() as db:
            rows = db.execute(select(tables.bases).order_by(tables.bases.c.number)).all()
        return [BaseInfo(**_without_number(row) | {"folder": str(self.folder / row.folder)}) for row in rows]

    def base(self, name: str) -> BaseInfo:
        """The base of that name.

        Raises:
            NotFoundError: there is none.
        """
        found = {base.name: base for base in self.bases()}
        if name not in found:
            raise NotFoundError(
                f"The home has no base {name!r}",
                expected=f"one of: {', '.join(found)}" if found else None,
                hint="`ownlm base add SOURCE` adds one",
            )
        return found[name]

    def outsiders(self, base: str) -> set[str]:
        """The people whose records a base has learnt from, its parents' included."""
        people: set[str] = set()
        at: str | None = base
        with self._begin() as db:
            while at is not None:
                people |= set(
                    db.execute(select(tables.outsiders.c.user).where(tables.outsiders.c.base == at)).scalars()
                )
                at = db.execute(select(tables.bases.c.parent).where(tables.bases.c.name == at)).scalar()
        return people

    # Adapters

    def add_adapter(self, adapter: AdapterInfo) -> None:
        """Registers a new version of a person's adapter; its blob must be written."""
        with self._begin() as db:
            db.execute(insert(tables.adapters).values(**asdict(adapter)))

    def adapters(self, task: str | None = None, user: str | None = None) -> list[AdapterInfo]:
        """All versions, oldest first."""
        a = tables.adapters.c
        query = select(tables.adapters).order_by(a.number)
        if task is not None:
            query = query.where(a.task == task)
        if user is not None:
            query = query.where(a.user == user)
        with self._begin() as db:
            return [AdapterInfo(**_without_number(row)) for row in db.execute(query)]

    def latest_adapters(self, task: str | None = None) -> dict[tuple[str, str], AdapterInfo]:
        """The newest adapter of each (task, user)."""
        a = tables.adapters.c
        newest = select(func.max(a.number)).group_by(a.task, a.user)
        query = select(tables.adapters).where(a.number.in_(newest))
        with self._begin() as db:
            rows = db.execute(query if task is None else query.where(a.task == task)).all()
        return {(row.task, row.user): AdapterInfo(**_without_number(row)) for row in rows}


def record_digest(record: Record) -> str:
    """A hash of a record's content."""
    content = json.dumps([dict(sorted(record.fields.items())), record.time], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def history_digest(history: History) -> str:
    """A hash of a history's content; equals that of `Store.people`."""
    hasher = hashlib.sha256()
    for record in sorted(history.records, key=lambda record: record.id):
        hasher.update(_line(record.id, record_digest(record)))
    return hasher.hexdigest()


def _line(record_id: str, digest: str) -> bytes:
    return f"{record_id}\0{digest}\n".encode()


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _open(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _(connection: Any, __: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _without_number(row: Row[Any]) -> dict[str, Any]:
    return {key: value for key, value in row._mapping.items() if key != "number"}
