"""Which version of a user's adapter is in use: the one with the highest number."""

from sqlalchemy import func, select, update

from ownlm.errors import NotFoundError
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo, digest_of
from ownlm.store.store import Store

CHOSEN = "chosen"  # in a version's provenance: digest of the user's records when it was put into use again


def choose_version(store: Store, version: AdapterInfo) -> AdapterInfo:
    """Puts a version into use: it becomes the one with the highest number.

    Raises:
        NotFoundError: it is gone, or a record that it has learnt from was forgotten, since it was looked up.
    """
    a, r = tables.adapters.c, tables.records.c
    mine = select(r.id, r.digest).where(r.task == version.task, r.user == version.user)
    with store.database.writing() as db:
        there = db.execute(select(a.id).where(a.id == version.id, a.forgotten == 0, a.stale.is_(None))).scalar()
        if there is None:
            raise NotFoundError(f"The version {version.id[:8]} was removed or marked just now", hint="choose another")
        history = digest_of((row.id, row.digest) for row in db.execute(mine))
        number = (db.execute(select(func.max(a.number))).scalar() or 0) + 1
        provenance = version.provenance | {CHOSEN: history}
        db.execute(update(tables.adapters).where(a.id == version.id).values(number=number, provenance=provenance))
    return store.latest_adapters(version.task, [version.user])[version.task, version.user]


def is_chosen(adapter: AdapterInfo | None, history: str) -> bool:
    """Whether a version was put into use again, and the user's records, by their digest, are as they were then."""
    return adapter is not None and adapter.provenance.get(CHOSEN) == history
