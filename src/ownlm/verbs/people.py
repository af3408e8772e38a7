"""A person, looked up."""

from ownlm.errors import NotFoundError
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store


def newest_adapter(store: Store, user: str, task: str | None) -> AdapterInfo:
    """A person's newest adapter, of the task named or of the only one they have.

    Raises:
        NotFoundError: there is none, or there are several tasks and none is named.
    """
    mine = store.adapters(task, user)
    tasks = sorted({adapter.task for adapter in mine})
    if len(tasks) != 1:
        raise NotFoundError(
            f"User {user!r} has " + (f"adapters for {len(tasks)} tasks" if tasks else "no adapter"),
            got=", ".join(tasks) or None,
            hint="name one with --task" if tasks else f"`ownlm train --task T --user {user}`",
        )
    return mine[-1]


def only_task(store: Store, user: str) -> str:
    """The task that a person has records in.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    tasks = [person.task for person in store.people() if person.user == user]
    if not tasks:
        raise NotFoundError(f"The home has no records of user {user!r}", hint="`ownlm users ls`")
    if len(tasks) > 1:
        what = f"User {user!r} has records in {len(tasks)} tasks"
        raise NotFoundError(what, got=", ".join(tasks), hint="name one with --task")
    return tasks[0]
