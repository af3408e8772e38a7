"""A person: looked up, and forgotten with what they share."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ownlm.errors import NotFoundError, OwnlmError, quoted
from ownlm.progress import Progress
from ownlm.store.forget import Forgotten, forget_user, leaving, resume
from ownlm.store.pools import sweep
from ownlm.store.records import unknown_user
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.store.work import working


def forget(store: Store, user: str, progress: Progress, *, verify: bool, wait: bool) -> Forgotten:
    """Deletes a person, then takes their pieces out of pools, once nothing trains in the home.

    Args:
        wait: for what trains; else their pieces wait, with the pools that hold them, and `withdraw_leaving` is due.
    """
    done = forget_user(store, user, verify=verify)
    if done.leaving is None or not wait:
        return done
    from ownlm.workflows.pools import withdraw_leaving  # which needs torch

    with working(store.folder, "ownlm users forget", progress):
        taken = withdraw_leaving(store, done.leaving)
    pools, unfinished = tuple(old for old, _ in taken.pools), done.unfinished or taken.unfinished
    changes = {"leaving": None, "pools": (), "withdrawn": pools, "stale": tuple(taken.affected)}
    return done.model_copy(update=changes | {"unfinished": unfinished})


@contextmanager
def working_alone(store: Store, what: str, progress: Progress) -> Iterator[None]:
    """While it lasts, no other process trains in the home; what killed runs left behind is removed first.

    Args:
        what: the command, for processes that wait: "ownlm train".
    """
    with working(store.folder, what, progress):
        store.sweep()
        store.sweep_bases()
        sweep(store)
        withdraw_left(store)
        resume(store)
        yield


def withdraw_left(store: Store) -> None:
    """Withdraws, while nothing else trains, the pieces of people who were deleted; what cannot be done stays due."""
    if names := leaving(store):
        from ownlm.workflows.pools import withdraw_leaving

        for name in names:
            with suppress(OwnlmError):
                withdraw_leaving(store, name)


def newest_adapter(store: Store, user: str, task: str | None) -> AdapterInfo:
    """A person's newest adapter, of the task named or of the only one they have.

    Raises:
        NotFoundError: there is none, or there are several tasks and none is named.
    """
    mine = store.adapters(task, user)
    tasks = sorted({adapter.task for adapter in mine})
    if not tasks and not any(person.user == user for person in store.people(users=[user])):
        raise unknown_user(store, user)
    if len(tasks) != 1:
        raise NotFoundError(
            f"User {user!r} has " + (f"adapters for {len(tasks)} tasks" if tasks else "no adapter"),
            got=", ".join(tasks) or None,
            hint="name one with --task" if tasks else f"`ownlm train --task T --user {quoted(user)}`",
        )
    return mine[-1]


def only_task(store: Store, user: str) -> str:
    """The task that a person has records in.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    tasks = [person.task for person in store.people() if person.user == user]
    if not tasks:
        raise unknown_user(store, user)
    if len(tasks) > 1:
        what = f"User {user!r} has records in {len(tasks)} tasks"
        raise NotFoundError(what, got=", ".join(tasks), hint="name one with --task")
    return tasks[0]
