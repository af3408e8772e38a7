"""Checkpoints of unfinished training: at most one for each task and user, until the adapter is stored.

A checkpoint has learnt from records. The transaction that stores the adapter, or deletes one of the records, removes
it. Its row has a hash in place of names, so that a replaced row leaves no name in the file.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from ownlm.store import tables
from ownlm.store.rows import digest_of, now

if TYPE_CHECKING:
    from ownlm.store.store import Store

LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Source:
    """A user's records up to a number, by their digest."""

    user: str
    history: str
    upto: int


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """Name of a checkpoint and the records it has learnt from.

    Attributes:
        key: digest of everything the result depends on.
        sources: histories it has learnt from; if one has changed, the checkpoint is not stored.
        user: user of the adapter in training; None for the task adapter of a base.
    """

    task: str
    key: str
    sources: tuple[Source, ...]
    user: str | None

    @property
    def owner(self) -> str:
        """The hash that names its row."""
        return owner_of(self.task, self.user)


def owner_of(task: str, user: str | None) -> str:
    """The hash that names the row of a user's checkpoint, or of a task adapter's (None)."""
    return hashlib.sha256(json.dumps([task, user]).encode()).hexdigest()


def add_checkpoints(store: "Store", made: Sequence[tuple[CheckpointInfo, bytes]]) -> list[CheckpointInfo]:
    """Stores checkpoints in place of their predecessors, in one transaction.

    Returns:
        The stored ones: those with unchanged sources.

    Raises:
        StoreError: they cannot be written; their predecessors stay.
    """
    with store.naming_blobs() as db:
        kept = [(info, data) for info, data in made if _is_current(db, info)]
        names = store.blobs.put(data for _, data in kept)
        replaced = drop(db, [info.owner for info, _ in kept])
        for (info, data), name in zip(kept, names, strict=True):
            row = {"owner": info.owner, "key": info.key, "blob": name, "bytes": len(data), "created": now()}
            db.execute(insert(tables.checkpoints).values(**row))
    if replaced:
        store.sweep(replaced)
    return [info for info, _ in kept]


def find_checkpoint(store: "Store", info: CheckpointInfo) -> tuple[str, str] | None:
    """Key and blob of the stored checkpoint of the same owner; its key may differ. None where there is none."""
    c = tables.checkpoints.c
    row = store.database.first(select(c.key, c.blob).where(c.owner == info.owner))
    return None if row is None else (row.key, row.blob)


def remove_checkpoint(store: "Store", info: CheckpointInfo) -> None:
    """Removes an unusable checkpoint."""
    with store.database.writing() as db:
        removed = drop(db, [info.owner])
    store.sweep(removed)


def remove_old_checkpoints(store: "Store") -> None:
    """Removes checkpoints that no run resumed within their lifetime."""
    latest, c = (datetime.now(UTC) - LIFETIME).isoformat(timespec="seconds"), tables.checkpoints.c
    old = [row.owner for row in store.database.rows(select(c.owner).where(c.created < latest))]
    if old:
        with store.database.writing() as db:
            removed = drop(db, old)
        store.sweep(removed)


def last_number(store: "Store") -> int:
    """The highest record number."""
    with store.database.reading() as db:
        return db.execute(select(func.max(tables.records.c.number))).scalar() or 0


def checkpoint_blobs(store: "Store") -> dict[str, int]:
    """Sizes of all checkpoints in bytes, by blob."""
    c = tables.checkpoints.c
    return {row.blob: row.bytes for row in store.database.rows(select(c.blob, c.bytes))}


def drop(db: Connection, owners: Collection[str]) -> set[str]:
    """Removes rows; returns their blobs, which the caller sweeps."""
    where = tables.checkpoints.c.owner.in_(owners)
    blobs = set(db.execute(select(tables.checkpoints.c.blob).where(where)).scalars())
    if blobs:
        db.execute(delete(tables.checkpoints).where(where))
    return blobs


def learnt_from(db: Connection, user: str, task: str | None = None) -> ColumnElement[bool]:
    """Whether a checkpoint may have learnt from a user's records: it is the user's own, or a task adapter's."""
    tasks = [task] if task is not None else list(db.execute(select(tables.tasks.c.name)).scalars())
    owners = [owner_of(one, name) for one in tasks for name in (user, None)]
    return tables.checkpoints.c.owner.in_(owners)


def _is_current(db: Connection, info: CheckpointInfo) -> bool:
    r = tables.records.c
    for source in info.sources:
        mine = (r.task == info.task) & (r.user == source.user) & (r.number <= source.upto)
        rows = db.execute(select(r.id, r.digest).where(mine))
        if digest_of((row.id, row.digest) for row in rows) != source.history:
            return False
    return True
