"""Tasks and histories, from files into the store."""

from dataclasses import dataclass
from pathlib import Path

from ownlm.errors import TaskError
from ownlm.history.readers import read_dataset
from ownlm.history.record import Dataset
from ownlm.history.task import Task, load_task, with_instruction
from ownlm.store.store import Store


@dataclass(frozen=True, slots=True)
class Added:
    """What adding a file of histories did."""

    task: str
    new: int
    known: int
    dataset: Dataset


def find_task(store: Store, name_or_path: str) -> Task:
    """A task as the home knows it, else as it is shipped, else a file's. A file is read anew each time."""
    known = None if name_or_path.endswith(".toml") else store.task(name_or_path)
    return known or load_task(name_or_path)


def add_history(store: Store, data: Path, task: Task, labels: Path | None, skip_bad: bool) -> Added:
    """Reads a file and adds its records, all or none."""
    dataset = read_dataset(data, task, labels=labels, skip_bad=skip_bad)
    known = store.task(task.name)
    read = with_instruction(task, dataset.instruction, dataset.labels) if dataset.instruction else known or task
    if known is not None and read != known and store.people(task.name):
        raise TaskError(
            f"The queries in {data} carry another instruction or other labels than task {task.name!r} has in this home",
            hint="use another home, or a task file of your own with another name",
        )
    store.put_task(read)
    new, there = store.add_records(task.name, dataset.histories)
    return Added(task.name, new, there, dataset)
