"""Drafts: what sharers' pieces are made of, an adapter each and the gates upon it, kept from the moment it is trained.

A draft is a person's data. It is kept while they agree to share and no record of theirs in the task was forgotten: with
consent taken back, or a forgetting, the row goes in the same transaction, and its weights right after; so it does when
they withdraw.
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

ADAPTER, GATES = "adapter", "gates"  # kinds


def drafts(store: Store, task: str | None = None, user: str | None = None) -> list[DraftInfo]:
    """All drafts, or those of a task or of a person, by user."""
    d = tables.drafts.c
    query = select(tables.drafts).order_by(d.user, d.task, d.base_fingerprint, d.kind)
    if task is not None:
        query = query.where(d.task == task)
    if user is not None:
        query = query.where(d.user == user)
    with store.database.reading() as db:
        return [DraftInfo(**row._mapping) for row in db.execute(query)]


def add_drafts(
    store: Store, histories: Mapping[str, History], made: Sequence[tuple[DraftInfo, bytes]]
) -> list[NotFoundError | None]:
    """Writes drafts, and says that they are there: all in one transaction.

    Each takes the place of the one of its kind that the person had in the task on the base; a new adapter also that of
    the gates, which are of no use without the adapter that they were trained upon.

    Args:
        histories: histories that the drafts were trained on, by user.
        made: drafts to store, each with the weights that its `blob` names.

    Returns:
        For each in turn, None; or why it was not kept: the person does not agree to share any more, or of their records
        some were forgotten during training.

    Raises:
        StoreError: they cannot be written; none is kept then.
    """
    with store.naming_blobs() as db:  # no consent changes until it ends
        errors = [_gone(db, draft, histories[draft.user]) for draft, _ in made]
        kept = [one for one, error in zip(made, errors, strict=True) if error is None]
        store.blobs.put(weights for _, weights in kept)
        replaced = sum(_make_room(db, draft) for draft, _ in kept)
        if kept:
            db.execute(insert(tables.drafts), [asdict(draft) for draft, _ in kept])
    if replaced:
        store.sweep()
    return errors


def _gone(db: Connection, draft: DraftInfo, history: History) -> NotFoundError | None:
    c = tables.consents.c
    agrees = db.execute(select(c.user).where(c.user == draft.user)).first() is not None
    return None if agrees and has_history(db, draft.task, history) else no_longer_shared(draft.task, [draft.user])


def _make_room(db: Connection, draft: DraftInfo) -> int:
    """Removes what a draft replaces; returns how many."""
    d = tables.drafts.c
    mine = (d.user == draft.user) & (d.task == draft.task) & (d.base_fingerprint == draft.base_fingerprint)
    if draft.kind != ADAPTER:
        mine &= d.kind == draft.kind
    return db.execute(delete(tables.drafts).where(mine)).rowcount


def remove_drafts(store: Store, user: str) -> int:
    """Removes a person's drafts, and their weights; returns how many."""
    with store.database.writing() as db:
        count = drop(db, user)
    store.sweep()  # even if there was none: whoever was stopped here gives the same command again
    return count


def drop(db: Connection, user: str, task: str | None = None) -> int:
    """Removes the rows of a person's drafts, or of those of a task; returns how many. Their weights are to be swept."""
    mine = tables.drafts.c.user == user
    if task is not None:
        mine &= tables.drafts.c.task == task
    return db.execute(delete(tables.drafts).where(mine)).rowcount
