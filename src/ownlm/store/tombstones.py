"""Who and what was forgotten, as hashes: so that an old file, added again, does not bring it back."""

import hashlib
import json

from sqlalchemy import Connection, delete, insert, select

from ownlm.history.record import History, Record
from ownlm.store import tables

_PREFIX = "forgotten "  # begins a key of the table `meta`


def add_tombstone(db: Connection, *whose: str) -> None:
    """Notes that a person (user), or one of their records (task, user, id), was forgotten; or a sharer withdrawn."""
    if (key := _key(*whose)) not in tombstones(db):
        db.execute(insert(tables.meta).values(key=key, value=""))


def has_tombstone(keys: set[str], *whose: str) -> bool:
    """Whether that was noted."""
    return _key(*whose) in keys


def clear_tombstone(db: Connection, task: str, history: History) -> None:
    """Lets a person, and these records of theirs, be known again."""
    wanted = {_key(history.user_id), *(_key(task, history.user_id, record.id) for record in history.records)}
    for key in wanted & tombstones(db):
        db.execute(delete(tables.meta).where(tables.meta.c.key == key))


def tombstones(db: Connection) -> set[str]:
    """The keys of all that was forgotten."""
    key = tables.meta.c.key
    return set(db.execute(select(key).where(key.startswith(_PREFIX, autoescape=True))).scalars())


def is_forgotten(keys: set[str], task: str, record: Record) -> bool:
    """Whether a record, or the person whose it is, was forgotten."""
    return _key(record.user_id) in keys or _key(task, record.user_id, record.id) in keys


def _key(*whose: str) -> str:
    return _PREFIX + hashlib.sha256(json.dumps(whose).encode()).hexdigest()
