"""Removal of what deleted rows leave in the files of a home.

SQLite overwrites deleted rows with zeros (`secure_delete`), and a checkpoint empties its write-ahead log. One kind of
copy remains: when SQLite lays out a page again, old cells stay in the unused space between the cell pointers and the
cells. So a pass searches that space for the deleted rows, and rewrites the whole database (VACUUM) only where it finds
one. Concurrent deletions share a pass.
"""

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
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

from ownlm.errors import OwnlmError, StoreBusyError, StoreError
from ownlm.store import tables
from ownlm.store.database import ERASING_LOCK, alone
from ownlm.store.erasing import traces
from ownlm.store.exports import sweep_served
from ownlm.store.pools import sweep as sweep_pools
from ownlm.store.store import Store

DUE = "forgetting "  # prefix of a key in the table `meta`, which stays until a deletion is complete in all files
PATIENCE_S = 2.0  # wait for readers of an old state, and for another process that erases; the rest is done later
PIECE = 32  # letters of a row that are searched for at a time
SHORTEST = 8  # letters of a found text that is compared with the other rows; a shorter one rewrites the database
LOCAL = 4096  # bytes of a row that share a page with other rows; its overflow pages are zeroed
MANY = 16  # found pieces that are compared with the other rows; more of them rewrite the database


@dataclass(slots=True, eq=False)
class Leftover:
    """What one deletion may have left in files.

    Attributes:
        due: key of the deletion's note in `meta`.
        images: adjacent text columns of the deleted rows, joined as SQLite stores them.
        blobs: weights that the deleted rows named.
        removed: number of blobs that a pass removed, because no other row names them.
        tried: whether a pass has dealt with it.
        error: why that pass failed; None where it succeeded.
    """

    due: str
    images: list[str] = field(default_factory=list)
    blobs: set[str] = field(default_factory=set)
    removed: int = 0
    tried: bool = False
    error: OwnlmError | None = None

    def take(self, db: Connection, table: Table, where: ColumnElement[bool]) -> None:
        """Remembers rows that are about to be deleted."""
        for image in _images(table):
            self.images += db.execute(select(image).where(where)).scalars()
        if "blob" in table.c:
            self.blobs.update(db.execute(select(table.c.blob).where(where, table.c.blob.is_not(None))).scalars())


def due_key(*names: str) -> str:
    """The key of a deletion's note. It is a hash, because the note must not contain a deleted name."""
    return DUE + hashlib.sha256(json.dumps(names).encode()).hexdigest()


def note_due(db: Connection, due: str) -> None:
    """Notes, within the transaction that deletes, that the files must still be cleaned."""
    if due not in dues(db):
        db.execute(insert(tables.meta).values(key=due, value="due"))


def dues(db: Connection) -> set[str]:
    """Keys of the deletions that may have left something in files."""
    key = tables.meta.c.key
    return set(db.execute(select(key).where(key.startswith(DUE, autoescape=True))).scalars())


def erase(store: Store, leftover: Leftover, patience_s: float = PATIENCE_S) -> None:
    """Removes what a deletion left in files, and its note, in a pass of this thread or of a concurrent one.

    Raises:
        StoreError: it cannot be done now. The note stays: the next pass of this process does it, or the next command
            that writes to the home.
    """
    database = store.database
    database.to_erase.append(leftover)
    with database.erasing:
        if not leftover.tried:
            _pass(store, patience_s)
    if leftover.error is not None:
        raise copy(leftover.error)


def erase_due(store: Store, patience_s: float = PATIENCE_S) -> bool:
    """Removes what earlier deletions left, also those of killed processes; returns whether there were any.

    Raises:
        StoreError: it cannot be done now.
    """
    with store.database.reading() as db:
        if not dues(db):
            return False
    with store.database.erasing:
        _pass(store, patience_s)
    return True


def _pass(store: Store, patience_s: float) -> None:
    """Deals with all leftovers that wait. After an OwnlmError they wait for the next pass; after a bug they do not."""
    batch: list[Leftover] = list(store.database.to_erase)
    try:
        _clean(store, patience_s, batch)
    except OwnlmError as error:
        for one in batch:
            one.tried, one.error = True, error
        raise
    except Exception as error:
        _settle(store, batch, StoreError("Deleted text could not be removed from files", got=type(error).__name__))
        raise
    _settle(store, batch, None)


def _settle(store: Store, batch: list[Leftover], error: OwnlmError | None) -> None:
    for one in batch:
        one.tried, one.error = True, error
        store.database.to_erase.remove(one)


def _clean(store: Store, patience_s: float, known: list[Leftover]) -> None:
    try:
        with _one_process(store, patience_s):
            with store.database.reading() as db:
                unknown = dues(db) - {one.due for one in known}  # of killed processes
            _sweep(store, known, bool(unknown), patience_s)
            store.database.truncate_log(patience_s)
            if unknown or _is_left(store, [image for one in known for image in one.images]):
                store.database.vacuum(patience_s)
            with store.database.writing() as db:
                done = unknown | {one.due for one in known}
                db.execute(delete(tables.meta).where(tables.meta.c.key.in_(done)))
    except OSError as error:  # also of the process that searches
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"The home {store.folder} cannot be cleaned", got=error.strerror) from None


@contextmanager
def _one_process(store: Store, patience_s: float) -> Iterator[None]:
    """A lock between processes: a new process must not take the notes of a running one for those of a killed one."""
    lock = FileLock(store.folder / ERASING_LOCK)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise StoreBusyError("Another process is removing deleted text from files") from None
    try:
        yield
    finally:
        lock.release()


def _sweep(store: Store, known: list[Leftover], all_blobs: bool, patience_s: float) -> None:
    """Removes weights that no row names, copies that are served, and what killed runs left."""
    if all_blobs:
        store.sweep()
    for one in known:
        if one.blobs:
            one.removed = store.sweep(one.blobs)
    sweep_served(store, patience_s)
    with alone(store.folder) as idle:
        if idle:  # a process that trains removes what it may not keep
            store.sweep_bases()
            sweep_pools(store)


def _images(table: Table) -> list[ColumnElement[str]]:
    """Each run of adjacent text columns in a table's rows and indexes, as one text."""
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
    """Whether unused parts of pages contain pieces of deleted rows that are in no row any more."""
    pieces = {piece for image in images for piece in _pieces(image[:LOCAL])}
    forms = {(piece.encode(),): piece for piece in pieces}
    hits = traces.found([store.database.path], list(forms), unused=True)
    found = [forms[needle] for _, needles in hits for needle in needles]  # type: ignore[index]
    if len(found) > MANY or any(len(piece) < SHORTEST for piece in found):
        return True
    with store.database.reading() as db:
        return not all(_is_held(db, piece) for piece in found)


def _pieces(image: str) -> set[str]:
    """Overlapping pieces of a row: any run of 63 letters contains a whole one."""
    starts = (*range(0, len(image) - PIECE, PIECE), max(0, len(image) - PIECE))
    return {image[at : at + PIECE] for at in starts if image}


def _is_held(db: Connection, piece: str) -> bool:
    return any(
        db.execute(select(literal(1)).select_from(table).where(func.instr(image, piece) > 0).limit(1)).first()
        for table in tables.metadata.sorted_tables
        for image in _images(table)
    )
