"""The error for a user whom the home does not know, with the nearest name that it knows."""

from sqlalchemy import Connection, func, select

from ownlm.errors import UnknownUserError, nearest
from ownlm.store import tables
from ownlm.store.store import Store

_SEARCHED = 10_000  # names of a large home; those with the same first letter come first


def unknown_user(store: Store, user: str, task: str | None = None) -> UnknownUserError:
    """The error for a user who is not in the home, or has no records in a task; see `unknown_user_in`."""
    with store.database.reading() as db:
        return unknown_user_in(db, user, task)


def unknown_user_in(db: Connection, user: str, task: str | None = None) -> UnknownUserError:
    """The error for a user who is not in the home, or has no records in a task.

    Args:
        task: where records were looked for; None for anything at all about the user.

    Source: ours.
    """
    records = tables.records.c
    known = select(records.user).distinct().order_by(func.substr(records.user, 1, 1) != user[:1], records.user)
    if task is not None:
        known = known.where(records.task == task)
    names = db.execute(known.limit(_SEARCHED)).scalars().all()
    elsewhere = task is not None and db.execute(select(records.user).where(records.user == user).limit(1)).first()
    near = None if elsewhere else nearest(user, names)
    if task is None:
        return UnknownUserError(f"The home has no user {user!r}", near, hint="`ownlm users ls`")
    what = f"The home has no records of user {user!r} in task {task!r}"
    return UnknownUserError(what, near, hint="`ownlm users ls`")
