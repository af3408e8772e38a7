"""Operations on users of a home: list, find the newest adapter, correct records, delete."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ownlm.errors import AdapterError, NotFoundError, OwnlmError, StoreError, argument, quoted
from ownlm.history.task import Task
from ownlm.progress import Progress
from ownlm.store.checkpoints import remove_old_checkpoints
from ownlm.store.database import working
from ownlm.store.forget import Forgotten, forget_record, forget_user, leaving, resume
from ownlm.store.pools import consents, sweep
from ownlm.store.records import Bounds, unknown_user
from ownlm.store.rows import AdapterInfo, HistoryInfo
from ownlm.store.store import Store
from ownlm.workflows.adapters import behind
from ownlm.workflows.histories import edit_record, find_task
from ownlm.workflows.options import Options
from ownlm.workflows.report import Edited

Sort = Literal["added", "name", "records", "adapter"]


class ListOptions(Options):
    """Filters, order and length of a list of users.

    Attributes:
        task: only users with records in this task.
        shares: only users who share pieces of their adapters; False for those who do not.
        adapter: only users with an adapter; False for those without.
        behind: only users with an adapter that is behind their history, stale or waiting; False for those up to date.
        min_records: lowest number of records in the task.
        max_records: highest number of records in the task.
        starts_with: beginning of the user's name, in any case of letters.
        contains: part of the user's name, in any case of letters.
        sort: order of addition; by name; most records first; newest adapter first, users without one last.
        limit: number of users in the list; None for all.
    """

    task: str | None = None
    shares: bool | None = None
    adapter: bool | None = None
    behind: bool | None = None
    min_records: int | None = None
    max_records: int | None = None
    starts_with: str = ""
    contains: str = ""
    sort: Sort = "added"
    limit: int | None = Field(None, ge=1)


class ListedUser(BaseModel):
    """A user in one task, with the newest adapter.

    Attributes:
        records: number of the user's records in the task.
        adapter: id of the newest adapter; None where there is none.
        bytes: size of that adapter.
        stale: whether it was made from other records than the present ones.
        standing: how far it is behind, or why it is stale, in words; empty where it is up to date or missing.
        shares: whether the user shares pieces of their adapters.
        kept: what an adapted recipe kept of its training; None for other adapters.
    """

    model_config = ConfigDict(frozen=True)

    user: str
    task: str
    records: int
    adapter: str | None
    base: str | None
    method: str | None
    bytes: int
    stale: bool
    standing: str
    shares: bool
    kept: str | None = Field(None, exclude=True)


def list_users(store: Store, wanted: ListOptions) -> tuple[list[ListedUser], int]:
    """Returns the users that match the options, at most `limit` of them, and the number of all matches."""
    task = None if wanted.task is None else find_task(store, wanted.task).name
    latest, sharing = store.latest_adapters(task), consents(store)
    found = [
        (info, latest.get((info.task, info.user)))
        for info in store.histories(task)
        if _fits(wanted, info, latest.get((info.task, info.user)), info.user in sharing)
    ]
    if wanted.behind is not None:  # it takes a query for each adapter, so the other filters come first
        found = [
            (info, adapter)
            for info, adapter in found
            if adapter is not None and bool(standing_of(store, info, adapter)) == wanted.behind
        ]
    if wanted.sort == "name":
        found.sort(key=lambda one: (one[0].user.casefold(), one[0].user, one[0].task))
    elif wanted.sort == "records":
        found.sort(key=lambda one: -one[0].records)
    elif wanted.sort == "adapter":
        found.sort(key=lambda one: one[1].created if one[1] else "", reverse=True)
    return [_listed(store, *one, one[0].user in sharing) for one in found[: wanted.limit]], len(found)


def _fits(wanted: ListOptions, info: HistoryInfo, adapter: AdapterInfo | None, shares: bool) -> bool:
    name = info.user.casefold()
    return (
        wanted.shares in (None, shares)
        and wanted.adapter in (None, adapter is not None)
        and (wanted.min_records is None or info.records >= wanted.min_records)
        and (wanted.max_records is None or info.records <= wanted.max_records)
        and name.startswith(wanted.starts_with.casefold())
        and wanted.contains.casefold() in name
    )


def _listed(store: Store, info: HistoryInfo, adapter: AdapterInfo | None, shares: bool) -> ListedUser:
    return ListedUser(
        user=info.user,
        task=info.task,
        records=info.records,
        adapter=adapter.id if adapter else None,
        base=adapter.base if adapter else None,
        method=adapter.method if adapter else None,
        bytes=adapter.bytes if adapter else 0,
        stale=adapter is not None and not adapter.knows(info.history),
        standing=standing_of(store, info, adapter),
        shares=shares,
        kept=adapter.kept if adapter else None,
    )


def standing_of(store: Store, info: HistoryInfo | None, adapter: AdapterInfo | None) -> str:
    """Describes how far a user's adapter is behind their history, or why it is stale; empty if it is up to date."""
    if adapter is None:
        return ""
    history = info.history if info else None
    known = history is not None and adapter.knows(history)
    new = 0 if known else store.arrived_after(adapter.task, adapter.user, adapter.upto)
    return behind(adapter, history, new)


def newest_adapter(store: Store, user: str, task: str | None) -> AdapterInfo:
    """A user's newest adapter, in the named task or in the only one.

    Raises:
        NotFoundError: there is no adapter, or there are adapters for several tasks and none is named.
    """
    mine = store.adapters(task, user)
    tasks = sorted({adapter.task for adapter in mine})
    if not tasks and not store.histories(users=[user]):
        raise unknown_user(store, user)
    if not tasks:
        command = f"ownlm train --task T --user {quoted(user)}"
        raise NotFoundError(f"User {user!r} has no adapter", hint="train one", command=command)
    if len(tasks) > 1:
        what = f"User {user!r} has adapters for {len(tasks)} tasks"
        raise NotFoundError(what, got=", ".join(tasks), hint="name one of the tasks")
    return mine[-1]


def only_task(store: Store, user: str) -> str:
    """The only task in which a user has records.

    Raises:
        NotFoundError: the user has records in no task, or in several.
    """
    tasks = [info.task for info in store.histories(users=[user])]
    if not tasks:
        raise unknown_user(store, user)
    if len(tasks) > 1:
        what = f"User {user!r} has records in {len(tasks)} tasks"
        raise NotFoundError(what, got=", ".join(tasks), hint="name one of the tasks")
    return tasks[0]


def forget(store: Store, user: str, progress: Progress, *, verify: bool, wait: bool) -> Forgotten:
    """Deletes a user, then withdraws their pieces from pools, once no process trains in the home.

    Args:
        wait: wait for a process that trains; else the pieces stay, and `withdraw_leaving` is due.
    """
    done = forget_user(store, user, verify=verify)
    if done.leaving is None or not wait:
        return done
    from ownlm.workflows.pools.withdraw import withdraw_leaving  # it needs torch

    with working(store.folder, "ownlm users forget", progress):
        taken = withdraw_leaving(store, done.leaving)
    pools, unfinished = tuple(old for old, _ in taken.pools), done.unfinished or taken.unfinished
    changes = {"leaving": None, "pools": (), "withdrawn": pools, "stale": tuple(taken.affected)}
    return done.model_copy(update=changes | {"unfinished": unfinished})


@contextmanager
def working_alone(store: Store, what: str, progress: Progress) -> Iterator[None]:
    """Context manager: takes the training lock of a home, and removes what killed runs left.

    Args:
        what: command shown to processes that wait, such as "ownlm train".
    """
    with working(store.folder, what, progress):
        store.sweep()
        store.sweep_bases()
        sweep(store)
        for name in leaving(store):  # deleted users with pieces in pools
            from ownlm.workflows.pools.withdraw import withdraw_leaving  # it needs torch

            with suppress(OwnlmError):  # the next command tries again
                withdraw_leaving(store, name)
        with suppress(StoreError):
            remove_old_checkpoints(store)
        resume(store)
        yield


class Corrections:
    """The methods of `Home` that change or remove stored data."""

    store: Store

    def forget_record(self, user: str, record: str, task: str | None = None, *, verify: bool = False) -> Forgotten:
        """Removes one record and the user's profiles; `train` replaces the adapters that have learnt from it.

        Args:
            task: needed where the user has records in several tasks.
            verify: search all files of the home for the old texts afterwards.

        Raises:
            NotFoundError: there is no such record. CopyError, StoreError: as for `forget`.
        """
        return forget_record(self.store, self._task_of(user, task).name, user, record, verify=verify)

    def edit_record(
        self,
        user: str,
        record: str,
        changes: Mapping[str, str | None],
        task: str | None = None,
        *,
        verify: bool = False,
        bounds: Bounds | None = None,
    ) -> Edited:
        """Changes fields or the time of a record. It keeps its id and, unless "time" is among the changes, its time.

        The old text is erased, and what learnt from it is marked or removed, as by `forget_record`.

        Args:
            changes: new values by field; None or a blank text removes an optional field, or the time.
            task, verify: as for `forget_record`.
            bounds: limits on the user's records; None for no limits.

        Raises:
            NotFoundError: there is no such record. DataError: the changed record does not fit the task.
            CopyError, StoreError: as for `forget`.
        """
        task_ = self._task_of(user, task)
        return edit_record(self.store, task_, user, record, changes, verify=verify, bounds=bounds)

    def use_version(self, user: str, version: str, task: str | None = None) -> AdapterInfo:
        """Puts an earlier version of a user's adapter into use; the later ones stay.

        `train` skips the user until records come or change, unless it names them; then it continues from this version.

        Args:
            version: first characters of the version's id.

        Raises:
            NotFoundError: no version matches, or several do. AdapterError: the version cannot be used any more.
        """
        newest = newest_adapter(self.store, user, None if task is None else find_task(self.store, task).name)
        versions = self.store.adapters(newest.task, user)
        found = [one for one in versions if version and one.id.startswith(version)]
        if len(found) != 1:
            what = "several versions" if found else "no version"
            raise NotFoundError(
                f"User {user!r} has {what} {version!r} in task {newest.task!r}",
                expected=f"what one of these begins with: {', '.join(one.id[:8] for one in versions[-10:])}",
                hint="list them",
                command=f"ownlm users show {argument(user)}",
            )
        check_usable(self.store, found[0], newest)
        return newest if found[0].id == newest.id else self.store.choose_version(found[0])

    def _task_of(self, user: str, task: str | None) -> Task:
        return find_task(self.store, only_task(self.store, user) if task is None else task)


def check_usable(store: Store, version: AdapterInfo, newest: AdapterInfo) -> None:
    """Raises an AdapterError where a version cannot be used in place of the newest one."""
    what, again = f"The version {version.id[:8]} of user {version.user!r} cannot be used", "choose another version"
    if version.forgotten:
        raise AdapterError(f"{what}: it has learnt from records that were forgotten or changed since", hint=again)
    if version.stale is not None:
        raise AdapterError(f"{what}: it is stale: {version.stale}", hint=again)
    if version.base_fingerprint != newest.base_fingerprint:
        train = f"ownlm train --task {version.task} --base {quoted(version.base)} --user {quoted(version.user)}"
        raise AdapterError(
            f"{what}: it was made for another base", got=repr(version.base), expected=repr(newest.base),
            hint="choose a version on that base, or train one on the other", command=train,
        )  # fmt: skip
    if not store.has_weights(version):
        raise AdapterError(f"{what}: its weights are lost", hint="check the home", command="ownlm doctor")
