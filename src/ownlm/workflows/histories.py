"""Tasks and histories, from files into the store."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ownlm.errors import ChangedRecordError, DataError, NotFoundError, TaskError, argument, quoted
from ownlm.filesystem import lies_in
from ownlm.history.readers import read_dataset
from ownlm.history.record import Dataset, History
from ownlm.history.task import Task, load_task, no_task, shipped_tasks, with_instruction
from ownlm.store.forget import resume
from ownlm.store.preview import Preview
from ownlm.store.records import unknown_user
from ownlm.store.store import Store


@dataclass(frozen=True, slots=True)
class Added:
    """What adding a file of histories did."""

    task: str
    new: int
    known: int
    forgotten: int  # kept out, because they were forgotten before
    dataset: Dataset
    inside: Path | None = None  # the file, where it lies in the home


def as_path(path: str | Path | None) -> Path | None:
    """A path, where there is one."""
    return None if path is None else Path(path)


def find_task(store: Store, name_or_path: str) -> Task:
    """A task as the home knows it, else as it is shipped, else a file's. A file is read anew each time.

    What the home read off its data's own queries, instruction and labels, stands above what the file says.
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
    """A task, kept in the home as it is now."""
    task = find_task(store, name_or_path)
    if store.task(task.name) != task:
        store.put_task(task)
    return task


def add_history(store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool, again: bool) -> Added:
    """Reads a file and adds its records, all or none."""
    resume(store)
    dataset, task = _read(store, data, task, labels, skip_bad)
    store.put_task(task)
    with _about(data, task.name):
        new, there, forgotten = store.add_records(task.name, dataset.histories, again)
    return Added(task.name, new, there, forgotten, dataset, data if lies_in(data, store.folder) else None)


def preview_history(store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool, again: bool) -> Added:
    """Reads a file and counts its records as `add_history` would; nothing is written."""
    dataset, task = _read(store, data, task, labels, skip_bad)
    with _about(data, task.name):
        seen = Preview(store, task.name, dataset.histories, again)
    inside = data if lies_in(data, store.folder) else None
    return Added(task.name, seen.new, seen.known, seen.forgotten, dataset, inside)


def check_history_file(data: Path, name_or_path: str, labels: Path | None, skip_bad: bool) -> Added:
    """Reads a file and counts its records as a new home would have them; the task is a shipped one or a file's."""
    task = load_task(name_or_path)
    dataset = read_dataset(data, task, labels=labels, skip_bad=skip_bad)
    return Added(task.name, sum(map(len, dataset.histories)), 0, 0, dataset)


def with_history(store: Store, data: str | Path | None, task: Task) -> tuple[Store, Task, Added | None]:
    """The store as it would be with a file's records, and the task as it would be kept; the same without a file."""
    if data is None:
        return store, task, None
    path = Path(data)
    dataset, task = _read(store, path, task, None, False)
    with _about(path, task.name):
        seen = Preview(store, task.name, dataset.histories)
    return seen, task, Added(task.name, seen.new, seen.known, seen.forgotten, dataset)


def _read(store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool) -> tuple[Dataset, Task]:
    """The content of a file, and the task with the instruction and labels of the file's own queries."""
    dataset = read_dataset(data, task, labels=labels, skip_bad=skip_bad)
    if dataset.instruction is None:
        return dataset, task
    read, known = with_instruction(task, dataset.instruction, dataset.labels), store.task(task.name)
    if known and (read.instruction, read.labels) != (known.instruction, known.labels) and store.people(task.name):
        raise TaskError(
            f"The queries in {data} carry another instruction or other labels than task {task.name!r} has here",
            hint="use another home, or a task file of your own with another name",
        )
    return dataset, read


@contextmanager
def _about(data: Path, task: str) -> Iterator[None]:
    """Errors of records name their file; of a record that was changed, the commands that change it in the home."""
    try:
        yield
    except ChangedRecordError as error:
        edit = f"`ownlm history edit --task {task} --set FIELD=VALUE {argument(error.user)} {quoted(error.record)}`"
        raise DataError(
            f"The file {data} changes what is known: {error.what}; nothing was added",
            hint=f"{edit} changes it in the home; to keep the home's, take the record out of the file; to have both, "
            "give the changed one an id of its own",
        ) from None
    except DataError as error:
        raise DataError(f"The file {data} changes what is known: {error.what}", hint=error.hint) from None


def known_history(store: Store, task: str, user: str) -> History:
    """A person's records, oldest first; a NotFoundError where the home has none."""
    history = store.history(task, user)
    if not history.records:
        raise unknown_user(store, user, task)
    return history
