"""Drafts: stored intermediate results of sharing. Each sharer has an adapter, and the gates that were trained on it.

A draft is a user's data. The transaction that withdraws their consent, or forgets one of their records in the task,
deletes its row; its weights are removed right after. Drafts have a table of their own: they belong to a base's
fingerprint, not to a base, have neither history nor versions, and no query for a user's adapters should find them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select

from ownlm.errors import NotFoundError
from ownlm.history.record import History
from ownlm.store import tables
from ownlm.store.records import has_history, no_longer_shared
from ownlm.store.rows import DraftInfo
from ownlm.store.store import Store
from ownlm.store.tables import narrowed

ADAPTER, GATES = "adapter", "gates"  # kinds


def drafts(store: Store, task: str | None = None, user: str | None = None) -> list[DraftInfo]:
    """All drafts, or those of a task or of a user, by user."""
    d = tables.drafts.c
    query = select(tables.drafts).order_by(d.user, d.task, d.base_fingerprint, d.kind)
    query = narrowed(query, d, task, None if user is None else [user])
    return [DraftInfo(**row._mapping) for row in store.database.rows(query)]


def add_drafts(
    store: Store, histories: Mapping[str, History], made: Sequence[tuple[DraftInfo, bytes]]
) -> list[NotFoundError | None]:
    """Stores drafts, in one transaction.

    Each replaces the user's draft of the same kind, task and base; a new adapter also replaces the gates, which are of
    no use without the adapter that they were trained on.

    Args:
        histories: histories that the drafts were trained on, by user.
        made: drafts to store, each with the weights that its `blob` names.

    Returns:
        For each in turn, None; or why it was not stored: the user does not agree to share any more, or some of their
        records were forgotten during training.

    Raises:
        StoreError: they cannot be written; none is stored.
    """
    d = tables.drafts.c
    with store.naming_blobs() as db:  # no consent changes until it ends
        errors = [_gone(db, draft, histories[draft.user]) for draft, _ in made]
        kept = [one for one, error in zip(made, errors, strict=True) if error is None]
        store.blobs.put(weights for _, weights in kept)
        replaced = 0
        for draft, _ in kept:
            same = (d.user == draft.user) & (d.task == draft.task) & (d.base_fingerprint == draft.base_fingerprint)
            if draft.kind != ADAPTER:
                same &= d.kind == draft.kind
            replaced += db.execute(delete(tables.drafts).where(same)).rowcount
        if kept:
            db.execute(insert(tables.drafts), [asdict(draft) for draft, _ in kept])
    if replaced:
        store.sweep()
    return errors


def _gone(db: Connection, draft: DraftInfo, history: History) -> NotFoundError | None:
    c = tables.consents.c
    agrees = db.execute(select(c.user).where(c.user == draft.user)).first() is not None
    return None if agrees and has_history(db, draft.task, history) else no_longer_shared(draft.task, [draft.user])


def remove_drafts(store: Store, user: str) -> int:
    """Removes a user's drafts and their weights; returns how many."""
    with store.database.writing() as db:
        count = drop(db, user)
    store.sweep()  # even if there was none: a stopped command is given again
    return count


def drop(db: Connection, user: str, task: str | None = None) -> int:
    """Removes the rows of a user's drafts, or of those in a task; returns how many. The caller sweeps the weights."""
    mine = tables.drafts.c.user == user
    if task is not None:
        mine &= tables.drafts.c.task == task
    return db.execute(delete(tables.drafts).where(mine)).rowcount
