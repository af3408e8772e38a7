"""Corrections: a record changed or forgotten, and an earlier version of an adapter in use again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ownlm.errors import AdapterError, DataError, NotFoundError, nearest, quoted
from ownlm.history.record import Record
from ownlm.history.row import to_record
from ownlm.history.task import Task
from ownlm.store.forget import Forgotten, forget_record, replace_record
from ownlm.store.records import Bounds, no_record
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.histories import find_task
from ownlm.workflows.people import newest_adapter, only_task


@dataclass(frozen=True, slots=True)
class Edited:
    """A record that was changed.

    Attributes:
        record: as it is now.
        changed: names of the fields that are different now; "time" where the time is.
        removed: what was removed or marked because it had learnt from the old record.
    """

    task: str
    record: Record
    changed: tuple[str, ...]
    removed: Forgotten


class Corrections:
    """The part of `Home` that changes what is there already."""

    store: Store

    def forget_record(self, user: str, record: str, task: str | None = None, *, verify: bool = False) -> Forgotten:
        """Removes one record and the user's profiles; `train` replaces the adapters that have learnt from it.

        The task is needed where the user has records in several; `verify`, and what is raised, are as for `forget`.
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
            verify: search all files of the home for the old texts afterwards.
            bounds: on what the user has then; None for none.

        Raises:
            NotFoundError: there is no such record. DataError: the changed record does not fit the task.
            CopyError, StoreError: as for `forget`.
        """
        spec = self._task_of(user, task)
        found = [one for one in self.store.history(spec.name, user).records if one.id == record]
        if not found:
            raise no_record(spec.name, user, record)
        new = corrected(spec, found[0], changes)
        names = ("time", *spec.record_fields)
        before, after = ({"time": one.time, **one.fields} for one in (found[0], new))
        changed = tuple(name for name in names if before.get(name) != after.get(name))
        return Edited(spec.name, new, changed, replace_record(self.store, spec.name, new, verify=verify, bounds=bounds))

    def use_version(self, user: str, version: str, task: str | None = None) -> AdapterInfo:
        """Makes an earlier version of a user's adapter the one in use; the later ones stay.

        `train` leaves the user out until records come or change, unless it names them; then it continues from this one.

        Args:
            version: what the version's id begins with.

        Raises:
            NotFoundError: there is no such version, or several. AdapterError: it cannot be used any more.
        """
        newest = newest_adapter(self.store, user, None if task is None else find_task(self.store, task).name)
        versions = self.store.adapters(newest.task, user)
        found = [one for one in versions if version and one.id.startswith(version)]
        if len(found) != 1:
            what = "several versions" if found else "no version"
            raise NotFoundError(
                f"User {user!r} has {what} {version!r} in task {newest.task!r}",
                expected=f"what one of these begins with: {', '.join(one.id[:8] for one in versions[-10:])}",
                hint=f"`ownlm users show {quoted(user)}` lists them",
            )
        check_usable(self.store, found[0], newest)
        if found[0].id == newest.id:
            return newest
        return self.store.choose_version(found[0])

    def _task_of(self, user: str, task: str | None) -> Task:
        return find_task(self.store, only_task(self.store, user) if task is None else task)


def corrected(task: Task, old: Record, changes: Mapping[str, str | None]) -> Record:
    """A record with changed fields; a DataError where it is no record of the task then."""
    what = f"Record {old.id!r} of user {old.user_id!r} cannot be changed so"
    known = (*task.record_fields, "time")
    for name in changes:
        if name in ("id", "user_id"):
            hint = "add a record with the other id, and forget this one"
            raise DataError(f"{what}: a record keeps its {name!r}", expected=f"one of: {', '.join(known)}", hint=hint)
        if name not in known:
            near = nearest(name, known)
            meant = "" if near is None else f"; did you mean {near!r}?"
            expected = f"one of: {', '.join(known)}"
            raise DataError(f"{what}: the task has no field {name!r}{meant}", expected=expected)
    fields = {**old.fields, **{name: value for name, value in changes.items() if name != "time"}}
    unlabelled = task.answer_field not in old.fields and task.answer_field not in changes
    row = {"id": old.id, "time": changes.get("time"), **fields}
    try:
        new = to_record(row, task, unlabelled=unlabelled, user=old.user_id)
    except ValueError as error:
        told = error if isinstance(error, DataError) else DataError(str(error))
        raise DataError(f"{what}: {told.what}", expected=told.expected) from None
    return new if "time" in changes else replace(new, time=old.time)


def check_usable(store: Store, version: AdapterInfo, newest: AdapterInfo) -> None:
    """Raises an AdapterError where a version cannot be used in place of the newest one."""
    what, again = f"The version {version.id[:8]} of user {version.user!r} cannot be used", "choose another version"
    if version.forgotten:
        raise AdapterError(f"{what}: it has learnt from records that were forgotten or changed since", hint=again)
    if version.stale is not None:
        raise AdapterError(f"{what}: it is stale: {version.stale}", hint=again)
    if version.base_fingerprint != newest.base_fingerprint:
        train = f"`ownlm train --task {version.task} --base {quoted(version.base)} --user {quoted(version.user)}`"
        raise AdapterError(
            f"{what}: it was made for another base", got=repr(version.base), expected=repr(newest.base),
            hint=f"choose a version on that base; or {train} makes one on the other",
        )  # fmt: skip
    if not store.has_weights(version):
        raise AdapterError(f"{what}: its weights are lost", hint="`ownlm doctor`")
