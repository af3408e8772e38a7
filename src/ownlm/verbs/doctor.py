"""What the machine is, whether the home is whole, and what to do next."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import psutil
from sqlalchemy import text

from ownlm import __version__
from ownlm.errors import OwnlmError
from ownlm.model.base_files import fingerprint
from ownlm.progress import Progress
from ownlm.store.forget import is_due
from ownlm.store.rows import BaseInfo, record_digest
from ownlm.store.store import Store
from ownlm.store.work import at_work

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "sqlalchemy")
LOW_DISK = 2 * 10**9  # bytes; an adapted 135M base takes half of it


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and what to do about it."""

    what: str
    hint: str


@dataclass(slots=True)
class Diagnosis:
    """What the doctor saw.

    Attributes:
        machine: facts about the machine, by name.
        home: facts about the home, by name.
        wrong: what is wrong in the home; none of a healthy one.
        next: what to do next.
    """

    machine: dict[str, str] = field(default_factory=dict)
    home: dict[str, str] = field(default_factory=dict)
    wrong: list[Finding] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


def diagnose(store: Store, progress: Progress) -> Diagnosis:
    """Looks at everything; changes nothing."""
    seen = Diagnosis(machine_facts(store.folder), home_facts(store))
    for check in (_database, _tasks_and_records, _bases, _adapters, _left_over):
        try:
            seen.wrong += check(store, progress)
        except OwnlmError as error:
            seen.wrong.append(Finding(error.what, error.hint or "see above"))
    seen.next = [finding.hint for finding in seen.wrong] or _next_steps(store)
    return seen


def machine_facts(folder: Path) -> dict[str, str]:
    """The machine: system, cores, memory, disk, device, versions."""
    import torch  # here, because most commands do without

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": f"{cores}, {torch.get_num_threads()} threads of torch",
        "memory": f"{_gb(memory.available)} free of {_gb(memory.total)}",
        "disk": f"{_gb(disk.free)} free of {_gb(disk.total)}" + (" (little)" if disk.free < LOW_DISK else ""),
        "device": torch.cuda.get_device_name() if gpu else "CPU; weights in float32",
        "versions": ", ".join(
            [f"ownlm {__version__}", f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in PACKAGES]
        ),
    }


def home_facts(store: Store) -> dict[str, str]:
    """The home: how much is in it."""
    people, adapters, files = store.people(), store.adapters(), store.blobs.files()
    return {
        "folder": f"{store.folder}" + (", read-only" if store.database.read_only else ""),
        "bases": f"{len(store.bases())}",
        "people": f"{len({person.user for person in people}):,}, {sum(p.records for p in people):,} records",
        "adapters": f"{len(adapters):,}, of {len({(a.task, a.user) for a in adapters}):,} people and tasks",
        "weights": _gb(sum(file.stat().st_size for file in files)),
        "at work": at_work(store.folder) or "nobody",
    }


def _database(store: Store, progress: Progress) -> Iterator[Finding]:
    with store.database.reading() as db:
        whole = db.execute(text("PRAGMA integrity_check(1)")).scalar()
        dangling = db.execute(text("PRAGMA foreign_key_check")).first()
        due = is_due(db)
    if whole != "ok":
        yield Finding("The database is damaged", "restore the home from a backup")
    if dangling:
        yield Finding(f"A row of the table {dangling[0]} names a row of {dangling[2]} that is not there",
                      "restore the home from a backup")  # fmt: skip
    if due:
        yield Finding("A forgetting was stopped before it was done", "give the same `forget` command again")


def _tasks_and_records(store: Store, progress: Progress) -> Iterator[Finding]:
    for name in store.tasks():
        store.task(name)
    people = store.people()
    for place, person in enumerate(people, 1):
        progress("records", place, len(people))
        digests = store.digests(person.task, person.user)
        for record in store.history(person.task, person.user).records:
            if record_digest(record) != digests.get(record.id):
                yield Finding(
                    f"Record {record.id!r} of user {person.user!r} in task {person.task!r} is not what was added",
                    f"`ownlm history forget {person.user} --record {record.id} --task {person.task}`, and add it again",
                )


def _bases(store: Store, progress: Progress) -> Iterator[Finding]:
    for base in store.bases():
        if (what := _wrong_with(base)) is not None:
            yield Finding(f"The base {base.name!r} {what} in {base.folder}", "put it back, or fetch it again")
        if base.forgotten:
            yield Finding(
                f"The base {base.name!r} has learnt from what was forgotten since",
                f"adapt another one: `ownlm adapt --task {base.task} --out NAME`",
            )


def _wrong_with(base: BaseInfo) -> str | None:
    try:
        return None if fingerprint(Path(base.folder)) == base.fingerprint else "is no longer what it was"
    except (OwnlmError, OSError):
        return "cannot be read"


def _adapters(store: Store, progress: Progress) -> Iterator[Finding]:
    bases = {base.name: base.fingerprint for base in store.bases()}
    adapters = store.adapters()
    for place, adapter in enumerate(adapters, 1):
        progress("adapters", place, len(adapters))
        who, again = f"The adapter {adapter.id[:8]} of user {adapter.user!r}", f"`ownlm train --task {adapter.task}`"
        try:
            weights = store.blobs.get(adapter.blob)
        except OwnlmError as error:
            yield Finding(f"{who} has lost its weights: {error.what}", f"{again} makes them anew")
        else:
            if len(weights) != adapter.bytes:
                yield Finding(f"{who} has weights of another size", f"{again} --user {adapter.user}")
        if bases.get(adapter.base) != adapter.base_fingerprint:
            yield Finding(f"{who} was trained on another base than {adapter.base!r} is now", again)
        if not store.knows(adapter.task, adapter.user):
            yield Finding(f"{who} is of a person without records", f"`ownlm users forget {adapter.user}`")


def _left_over(store: Store, progress: Progress) -> Iterator[Finding]:
    if at_work(store.folder):
        return  # what has no name yet may be about to get one
    named = {adapter.blob for adapter in store.adapters()}
    if loose := [file for file in store.blobs.files() if file.stem not in named]:
        yield Finding(f"{len(loose):,} files of weights that nothing names, left by a killed run", _SWEEP)
    folders, known = store.folder / "bases", {base.folder for base in store.bases()}
    if folders.is_dir() and (loose := [path for path in folders.iterdir() if str(path) not in known]):
        yield Finding(f"{len(loose):,} folders of bases that nothing names, left by a killed run", _SWEEP)


_SWEEP = "the next `ownlm train` or `adapt` removes them"


def _next_steps(store: Store) -> list[str]:
    people, latest = store.people(), store.latest_adapters()
    if not store.bases():
        return ["`ownlm base add smollm2-135m`"]
    if not people:
        return ["`ownlm import git REPO commits.jsonl`, or `ownlm history add DATA --task T`"]
    steps = []
    for task in dict.fromkeys(person.task for person in people):
        mine = [(person, latest.get((task, person.user))) for person in people if person.task == task]
        without = sum(adapter is None for _, adapter in mine)
        behind = sum(adapter is not None and adapter.history != person.history for person, adapter in mine)
        if without or behind:
            steps.append(f"`ownlm train --task {task}`: {without:,} people have no adapter, {behind:,} an old one")
    return steps or ["`ownlm ask USER TEXT --task T`: everything is up to date"]


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
