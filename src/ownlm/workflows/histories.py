"""Tasks and histories of a home: read from files, counted in a dry run, corrected."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ownlm.errors import ChangedRecordError, DataError, NotFoundError, TaskError, argument, nearest, quoted
from ownlm.filesystem import lies_in
from ownlm.history.readers import read_dataset
from ownlm.history.record import Dataset, History, Record, in_order
from ownlm.history.row import to_record
from ownlm.history.task import Task, load_task, no_task, shipped_tasks, with_instruction
from ownlm.store.forget import replace_record, resume
from ownlm.store.records import Bounds, new_rows, no_record, tombstones, unknown_user, without_forgotten
from ownlm.store.rows import HistoryInfo, digest_of, record_digest
from ownlm.store.store import Store
from ownlm.workflows.report import Added, Edited

# Tasks


def as_path(path: str | Path | None) -> Path | None:
    """A path; None stays None."""
    return None if path is None else Path(path)


def find_task(store: Store, name_or_path: str) -> Task:
    """A task of the home, else one that is shipped, else one from a file. A file is read at each call.

    The instruction and labels that the home read off its data's own queries replace those of the file.
    """
    if not name_or_path.endswith(".toml"):
        if (kept := store.task(name_or_path)) is not None:
            return kept
        try:
            return load_task(name_or_path)
        except NotFoundError:
            raise no_task(name_or_path, sorted({*store.tasks(), *shipped_tasks()})) from None
    task = load_task(name_or_path)
    known = store.task(task.name)
    if known is None or task.query is None:
        return task
    as_in_file = {"instruction": task.instruction, "labels": task.labels}
    return known if known.model_copy(update=as_in_file) == task else task


def keep_task(store: Store, name_or_path: str) -> Task:
    """A task, stored in the home as it is now."""
    task = find_task(store, name_or_path)
    if store.task(task.name) != task:
        store.put_task(task)
    return task


# Adding


def add_history(
    store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool, again: bool, dry_run: bool = False
) -> Added:
    """Reads a file and adds its records, all or none; with `dry_run`, only counts them."""
    if not dry_run:
        resume(store)
    dataset, task = _read(store, data, task, labels, skip_bad)
    inside = data if lies_in(data, store.folder) else None
    if not dry_run:
        store.put_task(task)
    with _naming_file(data, task.name):
        if dry_run:
            seen = Preview(store, task.name, dataset.histories, again)
            counts = seen.new, seen.known, seen.forgotten
        else:
            counts = store.add_records(task.name, dataset.histories, again)
    new, known, forgotten = counts
    return Added(task=task.name, new=new, known=known, forgotten=forgotten, dataset=dataset, inside=inside)


def check_history_file(data: Path, name_or_path: str, labels: Path | None, skip_bad: bool) -> Added:
    """Reads a file and counts its records as a new home would; the task is a shipped one or from a file."""
    task = load_task(name_or_path)
    dataset = read_dataset(data, task, labels=labels, skip_bad=skip_bad)
    return Added(task=task.name, new=sum(map(len, dataset.histories)), known=0, forgotten=0, dataset=dataset)


def with_history(store: Store, data: str | Path | None, task: Task) -> tuple[Store, Task, Added | None]:
    """A preview of the store with a file's records, and the task as it would be stored; unchanged without a file."""
    if data is None:
        return store, task, None
    path = Path(data)
    dataset, task = _read(store, path, task, None, False)
    with _naming_file(path, task.name):
        seen = Preview(store, task.name, dataset.histories)
    counts = {"new": seen.new, "known": seen.known, "forgotten": seen.forgotten}
    return seen, task, Added(task=task.name, dataset=dataset, **counts)


def _read(store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool) -> tuple[Dataset, Task]:
    """The content of a file, and the task with the instruction and labels of the file's own queries."""
    dataset = read_dataset(data, task, labels=labels, skip_bad=skip_bad)
    if dataset.instruction is None:
        return dataset, task
    read, known = with_instruction(task, dataset.instruction, dataset.labels), store.task(task.name)
    if known and (read.instruction, read.labels) != (known.instruction, known.labels) and store.histories(task.name):
        raise TaskError(
            f"The queries in {data} carry another instruction or other labels than task {task.name!r} has here",
            hint="use another home, or a task file of your own with another name",
        )
    return dataset, read


@contextmanager
def _naming_file(data: Path, task: str) -> Iterator[None]:
    """Adds the file's name to errors about records."""
    try:
        yield
    except ChangedRecordError as error:
        raise DataError(
            f"The file {data} changes what is known: {error.what}; nothing was added",
            hint="to keep the home's record, take it out of the file; to have both, give the new one another id; to "
            "change the home's",
            command=f"ownlm history edit --task {task} --set FIELD=VALUE {argument(error.user)} {quoted(error.record)}",
        ) from None
    except DataError as error:
        raise DataError(
            f"The file {data} changes what is known: {error.what}", hint=error.hint, command=error.command
        ) from None


def known_history(store: Store, task: str, user: str) -> History:
    """A user's records, oldest first; a NotFoundError where the home has none."""
    history = store.history(task, user)
    if not history.records:
        raise unknown_user(store, user, task)
    return history


class Preview(Store):
    """A read-only store that also contains records which are not added: for dry runs.

    Args:
        store: store of the home.
        again: include records that were forgotten before.

    Attributes:
        new, known, forgotten: numbers of records, as `Store.add_records` returns them.

    Raises:
        DataError: a known id comes with another text.
    """

    def __init__(self, store: Store, task: str, histories: Iterable[History], again: bool = False) -> None:
        self.folder, self.blobs, self.database = store.folder, store.blobs, store.database
        self._task, self._added = task, dict[str, list[Record]]()
        self.new = self.known = self.forgotten = 0
        with self.database.reading() as db:
            keys = set() if again else tombstones(db)
            for history in histories:
                user, wanted = history.user_id, without_forgotten(keys, task, history)
                known = self._digests(db, task, user)
                known.update((one.id, record_digest(one)) for one in self._added.get(user, ()))
                rows = new_rows(task, wanted, known)
                self.forgotten += len(history) - len(wanted)
                self.new, self.known = self.new + len(rows), self.known + len(wanted) - len(rows)
                if rows:
                    added = [Record(user, row["id"], row["fields"], row["time"]) for row in rows]
                    self._added.setdefault(user, []).extend(added)

    def numbered_history(self, task: str, user: str) -> tuple[History, dict[str, int]]:
        """As of the store; records that are not added come last."""
        history, numbers = super().numbered_history(task, user)
        if not (added := self._records(task, user)):
            return history, numbers
        first = max(numbers.values(), default=0) + 1
        by_number = sorted(history.records, key=lambda one: numbers[one.id])
        numbers |= {one.id: number for number, one in enumerate(added, first)}
        return in_order(user, [*by_number, *added]), numbers

    def knows(self, task: str, user: str) -> bool:
        """As of the store."""
        return bool(self._records(task, user)) or super().knows(task, user)

    def names(self, task: str, after: str | None, count: int) -> list[str]:
        """As of the store."""
        mine = self._added if task == self._task else {}
        added = (user for user in mine if after is None or user > after)
        return sorted({*super().names(task, after, count), *added})[:count]

    def histories(self, task: str | None = None, users: Collection[str] | None = None) -> list[HistoryInfo]:
        """As of the store; new users come last."""
        found = {(one.task, one.user): one for one in super().histories(task, users)}
        wanted = self._added if users is None else [user for user in users if user in self._added]
        for user in wanted if task in (None, self._task) else ():
            known = self.digests(self._task, user)
            known.update((one.id, record_digest(one)) for one in self._added[user])
            found[self._task, user] = HistoryInfo(user, self._task, len(known), digest_of(known.items()))
        return list(found.values())

    def _records(self, task: str, user: str) -> list[Record]:
        return self._added.get(user, []) if task == self._task else []


# Correcting


def edit_record(
    store: Store, task: Task, user: str, record: str, changes: Mapping[str, str | None], *, verify: bool,
    bounds: Bounds | None,
) -> Edited:  # fmt: skip
    """Changes fields or the time of a record; see `Home.edit_record`."""
    old = next((one for one in store.history(task.name, user).records if one.id == record), None)
    if old is None:
        raise no_record(task.name, user, record)
    new = corrected(task, old, changes)
    before, after = ({"time": one.time, **one.fields} for one in (old, new))
    changed = tuple(name for name in ("time", *task.record_fields) if before.get(name) != after.get(name))
    removed = replace_record(store, task.name, new, verify=verify, bounds=bounds)
    return Edited(task=task.name, record=new, changed=changed, removed=removed)


def corrected(task: Task, old: Record, changes: Mapping[str, str | None]) -> Record:
    """A record with changed fields; a DataError where they do not fit the task."""
    what = f"Record {old.id!r} of user {old.user_id!r} cannot be changed so"
    known = (*task.record_fields, "time")
    expected = f"one of: {', '.join(known)}"
    for name in changes:
        if name in ("id", "user_id"):
            hint = "add a record with the other id, and forget this one"
            raise DataError(f"{what}: a record keeps its {name!r}", expected=expected, hint=hint)
        if name not in known:
            near = nearest(name, known)
            meant = "" if near is None else f"; did you mean {near!r}?"
            raise DataError(f"{what}: the task has no field {name!r}{meant}", expected=expected)
    fields = {**old.fields, **{name: value for name, value in changes.items() if name != "time"}}
    unlabelled = task.answer_field not in old.fields and task.answer_field not in changes
    row = {"id": old.id, "time": changes.get("time"), **fields}
    try:
        new = to_record(row, task, unlabelled=unlabelled, user=old.user_id)
    except ValueError as error:
        cause = error if isinstance(error, DataError) else DataError(str(error))
        raise DataError(f"{what}: {cause.what}", expected=cause.expected) from None
    return new if "time" in changes else replace(new, time=old.time)
