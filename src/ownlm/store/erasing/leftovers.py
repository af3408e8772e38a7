"""What deleted rows leave in the files of a home, and how it is removed.

SQLite overwrites what is deleted with zeros (`secure_delete`), and a checkpoint empties its write-ahead log. One thing
is left: when SQLite lays out a page again, copies of its cells stay between the cell pointers and the cells, and
outlive the rows that they are copies of. So a pass looks there for what was deleted, and rewrites the whole database
(VACUUM) only where something is found. Deletions that come close together share a pass.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from filelock import FileLock, Timeout
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
)

from ownlm.errors import StoreBusyError, StoreError
from ownlm.store import tables, traces
from ownlm.store.database import ERASING_LOCK
from ownlm.store.pools import sweep as sweep_pools
from ownlm.store.served import sweep_served
from ownlm.store.store import Store
from ownlm.store.work import alone

DUE = "forgetting "  # begins a key of the table `meta`, from a deletion until nothing of it is left in any file
PATIENCE_S = 2.0  # for readers of an old state, and for another process that erases; the rest is done later
PIECE = 32  # letters of a row that are looked for at a time
SHORTEST = 8  # letters: where shorter texts are found, it is not asked whether another row holds them
LOCAL = 4096  # bytes of a row that lie in a page with others; the rest has pages of its own, which are zeroed
MANY = 16  # pieces: where more are found, it is not asked any more whether they are of other rows


@dataclass(slots=True, eq=False)
class Leftover:
    """What one deletion may have left in files.

    Attributes:
        due: key of the row in `meta` that stands there until nothing is left.
        images: text columns of the deleted rows, next to each other as SQLite stores them.
        blobs: weights that the rows named.
        removed: how many blobs a pass removed, since nothing else names them.
    """

    due: str
    images: list[str] = field(default_factory=list)
    blobs: set[str] = field(default_factory=set)
    removed: int = 0

    def take(self, db: Connection, table: Table, where: ColumnElement[bool]) -> None:
        """Remembers rows that are about to be deleted."""
        for image in _images(table):
            self.images += db.execute(select(image).where(where)).scalars()
        if "blob" in table.c:
            self.blobs.update(db.execute(select(table.c.blob).where(where, table.c.blob.is_not(None))).scalars())


def due_key(*whose: str) -> str:
    """The key of a deletion's note. It names nobody: who is forgotten must not stand there."""
    return DUE + hashlib.sha256(json.dumps(whose).encode()).hexdigest()


def say_due(db: Connection, due: str) -> None:
    """Notes, within the transaction that deletes, that what it leaves in files is to be removed."""
    if due not in dues(db):
        db.execute(insert(tables.meta).values(key=due, value="due"))


def dues(db: Connection) -> set[str]:
    """Keys of the deletions of which something may be left in files."""
    key = tables.meta.c.key
    return set(db.execute(select(key).where(key.startswith(DUE, autoescape=True))).scalars())


def erase(store: Store, leftover: Leftover, patience_s: float = PATIENCE_S) -> None:
    """Removes what a deletion left in files, and the note that it is due.

    Raises:
        StoreError: it cannot be done just now. It stays due: the next pass of this process does it, or the next command
            that writes to the home.
    """
    store.database.passes.join(leftover, partial(_pass, store, patience_s))


def erase_due(store: Store, patience_s: float = PATIENCE_S) -> bool:
    """Removes what earlier deletions left, those of processes that were killed too; returns whether there was any.

    Raises:
        StoreError: it cannot be done just now.
    """
    with store.database.reading() as db:
        if not dues(db):
            return False
    store.database.passes.join(None, partial(_pass, store, patience_s))
    return True


def _pass(store: Store, patience_s: float, batch: list[Leftover | None]) -> None:
    known = [one for one in batch if one is not None]
    try:
        with _one_at_a_time(store, patience_s):
            with store.database.reading() as db:
                unknown = dues(db) - {one.due for one in known}  # of a process that was killed
            _sweep(store, known, bool(unknown), patience_s)
            store.database.truncate_log(patience_s)
            if unknown or _is_left(store, [image for one in known for image in one.images]):
                store.database.vacuum(patience_s)
            with store.database.writing() as db:
                done = unknown | {one.due for one in known}
                db.execute(delete(tables.meta).where(tables.meta.c.key.in_(done)))
    except OSError as error:  # also of the process that looks
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"The home {store.folder} cannot be cleaned", got=error.strerror) from None


@contextmanager
def _one_at_a_time(store: Store, patience_s: float) -> Iterator[None]:
    """Else a process that is just opened would take the dues of one that works on them for those of a killed one."""
    lock = FileLock(store.folder / ERASING_LOCK)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise StoreBusyError("Another process removes what was deleted from files") from None
    try:
        yield
    finally:
        lock.release()


def _sweep(store: Store, known: list[Leftover], all_of_them: bool, patience_s: float) -> None:
    """Removes weights without a name, copies that are served, and what killed runs left."""
    if all_of_them:
        store.sweep()
    for one in known:
        if one.blobs:
            one.removed = store.sweep(one.blobs)
    sweep_served(store, patience_s)
    with alone(store.folder) as idle:
        if idle:  # else who is at work removes what it may not keep
            store.sweep_bases()
            sweep_pools(store)


def _images(table: Table) -> list[ColumnElement[str]]:
    """The text columns of a table that lie next to each other in its rows and in its indexes, each run as one text."""
    unique = (one for one in table.constraints if isinstance(one, UniqueConstraint | PrimaryKeyConstraint))
    indexes = [list(one.columns) for one in (*table.indexes, *unique)]
    runs = (
        list(run)
        for stored in (list(table.columns), *indexes)
        for is_text, run in groupby(stored, key=lambda column: isinstance(column.type, String | JSON))
        if is_text
    )
    return [_joined(run) for run in {tuple(column.name for column in run): run for run in runs}.values()]


def _joined(columns: list[Column[str]]) -> ColumnElement[str]:
    parts = [func.coalesce(cast(column, String), "") for column in columns]
    return sum(parts[1:], start=parts[0]) if len(parts) > 1 else parts[0]


def _is_left(store: Store, images: Collection[str]) -> bool:
    """Whether unused parts of the database's pages hold pieces of deleted rows that no row holds any more."""
    pieces = {piece for image in images for piece in _pieces(image[:LOCAL])}
    forms = {(piece.encode(),): piece for piece in pieces}
    hits = traces.found([store.database.path], list(forms), unused=True)
    found = [forms[needle] for _, needles in hits for needle in needles]  # type: ignore[index]
    if len(found) > MANY or any(len(piece) < SHORTEST for piece in found):
        return True
    with store.database.reading() as db:
        return not all(_is_held(db, piece) for piece in found)


def _pieces(image: str) -> set[str]:
    """All of a row, so that of any run of 63 letters one piece is whole."""
    starts = (*range(0, len(image) - PIECE, PIECE), max(0, len(image) - PIECE))
    return {image[at : at + PIECE] for at in starts if image}


def _is_held(db: Connection, piece: str) -> bool:
    return any(
        db.execute(select(literal(1)).select_from(table).where(func.instr(image, piece) > 0).limit(1)).first()
        for table in tables.metadata.sorted_tables
        for image in _images(table)
    )
