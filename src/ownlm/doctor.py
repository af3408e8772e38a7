"""`doctor`: facts about the machine, damage in the home, and the next steps."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
from pydantic import BaseModel
from sqlalchemy import text

from ownlm import __version__
from ownlm.errors import OwnlmError, argument, many, quoted
from ownlm.model.bases.files import fingerprint
from ownlm.model.bases.placement import DEFAULT, Placement
from ownlm.progress import Progress
from ownlm.store.checkpoints import checkpoint_blobs
from ownlm.store.database import at_work
from ownlm.store.drafts import drafts
from ownlm.store.erasing.copies import files_with_records
from ownlm.store.erasing.leftovers import dues
from ownlm.store.forget import leaving
from ownlm.store.pools import consents, loose_folders, pools, users_of
from ownlm.store.rows import AdapterInfo, BaseInfo, PoolInfo, record_digest
from ownlm.store.store import Store
from ownlm.workflows.adapters import assemble_command, sharers_now

PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "sqlalchemy")
LOW_DISK = 10**9  # bytes; an adapted 135M base takes half of this
NAMED = 20  # users in a command; the next run of doctor names the others


class Finding(BaseModel):
    """A fault, and what to do about it."""

    what: str
    hint: str


class Diagnosis(BaseModel):
    """Result of `doctor`.

    Attributes:
        machine: facts about the machine, by name.
        home: facts about the home, by name.
        wrong: faults in the home.
        next: next steps.
    """

    machine: dict[str, str | int] = {}
    home: dict[str, str | int] = {}
    wrong: list[Finding] = []
    next: list[str] = []


_BACKUP = "restore the home from a backup"
_SWEEP = "the next `ownlm train` or `adapt` removes them"


def _fault(what: str, hint: str) -> Finding:
    return Finding(what=what, hint=hint)


def diagnose(store: Store, placement: Placement, progress: Progress) -> Diagnosis:
    """Checks everything; changes nothing."""
    seen = Diagnosis(machine=machine_facts(store.folder, placement), home={"folder": str(store.folder)})
    for check in (_database, _facts, _tasks_and_records, _copies, _bases, _adapters, _drafts, _sharing, _left_over):
        try:
            seen.wrong += check(store, seen, progress)
        except OwnlmError as error:
            seen.wrong.append(_fault(error.what, error.hint_with_command or _BACKUP))
        except (ValueError, KeyError, TypeError) as error:  # a row has a value that ownlm does not write
            what = f"The database holds what cannot be read ({type(error).__name__} in the check of{check.__name__}"
            seen.wrong.append(_fault(what.replace("_", " ") + ")", _BACKUP))
        if check is _database and seen.wrong:
            break
    seen.next = list(dict.fromkeys(finding.hint for finding in seen.wrong)) or _next_steps(store)
    if int(seen.machine["disk_free_bytes"]) < LOW_DISK:
        seen.next.append("make room on the disk: an adapted base and its weights need more than is left")
    return seen


def without_home(folder: Path, placement: Placement = DEFAULT) -> Diagnosis:
    """The result where there is no home yet."""
    step = f"there is no home in {folder} yet: `ownlm base add smollm2-135m` makes one"
    return Diagnosis(machine=machine_facts(Path(), placement), next=[step])


def machine_facts(folder: Path, placement: Placement = DEFAULT) -> dict[str, str | int]:
    """The machine: system, cores, memory, disk, device, type of weights, versions. Sizes are in bytes."""
    import torch  # imported late: it is slow

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(folder)
    device, precision = placement.find_device(), placement.choose()
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.available,
        "disk_bytes": disk.total,
        "disk_free_bytes": disk.free,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "dtype": precision.name,
        "dtype_reason": precision.why,
        "versions": ", ".join(
            [f"ownlm {__version__}", f"Python {platform.python_version()}"]
            + [f"{package} {version(package)}" for package in PACKAGES]
        ),
    }


def _facts(store: Store, seen: Diagnosis, progress: Progress) -> list[Finding]:
    """The contents of the home and the process that trains there. Sizes are in bytes."""
    histories, adapters, files, kept = store.histories(), store.adapters(), store.blobs.files(), drafts(store)
    states = checkpoint_blobs(store)
    seen.home |= {
        "read_only": "yes" if store.database.read_only else "no",
        "bases": len(store.bases()),
        "people": len({one.user for one in histories}),
        "records": sum(one.records for one in histories),
        "people_with_adapter": len({adapter.user for adapter in adapters}),
        "adapters": len(adapters),
        "recipes": sum(adapter.is_recipe for adapter in adapters),
        "pools": len(pools(store)),
        "people_who_share": len(consents(store)),
        "drafts": len(kept),
        "drafts_bytes": sum(draft.bytes for draft in kept),
        "checkpoints": len(states),
        "checkpoints_bytes": sum(states.values()),
        "weights_bytes": sum(file.stat().st_size for file in files),
        "at_work": at_work(store.folder) or "nobody",
    }
    return []


def _database(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    with store.database.reading() as db:
        whole = db.execute(text("PRAGMA integrity_check(1)")).scalar()
        dangling = db.execute(text("PRAGMA foreign_key_check")).first()
        due = bool(dues(db))
    if whole != "ok":
        yield _fault("The database is damaged", _BACKUP)
        return
    if dangling:
        yield _fault(f"A row of the table {dangling[0]} names a row of {dangling[2]} that is not there",
                      _BACKUP)  # fmt: skip
    if due:
        what = "Deleted text may still be in the home's files: another process kept reading it"
        hint = "end what else uses the home; the next deletion, `ownlm history add` or `ownlm train` removes the text"
        yield _fault(what, hint)
    for name in leaving(store):
        what = "Pieces of a deleted user wait in pools for their withdrawal"
        yield _fault(what, f"`ownlm pool withdraw {name}`, when nothing trains in the home")


def _copies(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    """Foreign files in the home that prevent deletions."""
    for path, records in files_with_records(store).items():
        held = many(records, "record")
        what = f"The file {path} holds copies of {held}: they cannot be deleted while it lies in the home"
        yield _fault(what, f"move {quoted(path)} out of the home, or remove it")


def _tasks_and_records(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    for name in store.tasks():
        store.task(name)
    histories = store.histories()
    for place, info in enumerate(histories, 1):
        progress("records", place, len(histories))
        digests = store.digests(info.task, info.user)
        for record in store.history(info.task, info.user).records:
            if record_digest(record) != digests.get(record.id):
                what = f"Record {record.id!r} of user {info.user!r} in task {info.task!r} is not what was added"
                which = f"--record {quoted(record.id)} --task {info.task} {argument(info.user)}"
                yield _fault(what, f"`ownlm history forget {which}`, and add it again")


def _bases(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    for base in store.bases():
        if (what := _wrong_with(base)) is not None:
            yield _fault(f"The base {base.name!r} {what} in {base.folder}", "put it back, or fetch it again")


def _wrong_with(base: BaseInfo) -> str | None:
    try:
        return None if fingerprint(Path(base.folder)) == base.fingerprint else "is no longer what it was"
    except (OwnlmError, OSError):
        return "cannot be read"


def _adapters(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    bases = {base.name: base.fingerprint for base in store.bases()}
    adapters = store.adapters()
    for place, adapter in enumerate(adapters, 1):
        progress("adapters", place, len(adapters))
        kind = "recipe" if adapter.is_recipe else "adapter"
        which, again = f"The {kind} {adapter.id[:8]} of user {adapter.user!r}", _again(store, adapter)
        try:
            weights = b"" if adapter.blob is None else store.blobs.get(adapter.blob)
        except OwnlmError as error:
            yield _fault(f"{which} has lost its weights: {error.what}", f"{error.hint}: {again}")
        else:
            if len(weights) + len(adapter.recipe or b"") != adapter.bytes:
                yield _fault(f"{which} has weights of another size", f"{again} --user {quoted(adapter.user)}")
        if bases.get(adapter.base) != adapter.base_fingerprint:
            yield _fault(f"{which} was made for another base than {adapter.base!r} is now", again)
        if not store.knows(adapter.task, adapter.user):
            yield _fault(f"{which} belongs to a user without records", f"`ownlm users forget {argument(adapter.user)}`")


def _again(store: Store, adapter: AdapterInfo) -> str:
    """The command that makes the adapter again; for a recipe, with its settings."""
    if not adapter.is_recipe:
        return f"`ownlm train --task {adapter.task}`"
    return f"`{assemble_command(adapter, sharers_now(store, adapter.task))}`"


def _drafts(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    """Drafts: training results of users who share."""
    known, agreed = drafts(store), consents(store)
    for place, draft in enumerate(known, 1):
        progress("drafts", place, len(known))
        which = f"The draft of user {draft.user!r} ({draft.kind}, task {draft.task!r})"
        again = f"the next `ownlm share --task {draft.task}` that selects the user trains it again"
        try:
            if len(store.blobs.get(draft.blob)) != draft.bytes:
                yield _fault(f"{which} has weights of another size", again)
        except OwnlmError as error:
            yield _fault(f"{which} has lost its weights: {error.what}", again)
        if draft.user not in agreed or not store.knows(draft.task, draft.user):
            what = f"{which} belongs to a user who does not agree to share, or has no records"
            yield _fault(what, f"`ownlm users consent --no-share {argument(draft.user)}` removes it")


def _sharing(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    """Pools, the recipes that name them, and consents."""
    known = pools(store)
    for place, pool in enumerate(known, 1):
        progress("pools", place, len(known))
        if (what := _wrong_with_pool(pool)) is not None:
            hint = f"`ownlm pool add FOLDER --task {pool.task}` puts it back from a copy"
            another = f", or `ownlm share --task {pool.task}` makes another" if pool.own else ""
            yield _fault(f"The pool {pool.digest[:12]} of task {pool.task!r} {what}", hint + another)
    digests = {pool.digest for pool in known}
    for adapter in store.adapters():
        if adapter.is_recipe and adapter.stale is None and adapter.pool not in digests:
            what = f"The recipe {adapter.id[:8]} of user {adapter.user!r} is made of a pool that is not in the home"
            yield _fault(what, _again(store, adapter))
    for user in sorted(consents(store).keys() - {one.user for one in store.histories()}):
        hint = f"`ownlm users consent --no-share {argument(user)}`"
        yield _fault(f"User {user!r} agreed to share, and has no records", hint)


def _wrong_with_pool(pool: PoolInfo) -> str | None:
    """Reads and hashes the whole pool."""
    from ownlm.perpcs.pool import open_pool  # imported late: it is slow torch

    if not Path(pool.folder).is_dir():
        return f"is not in {pool.folder}"
    try:
        open_pool(Path(pool.folder), pool.digest)
    except OwnlmError as error:
        return f"in {pool.folder} is damaged: {error.what}"
    return None


def _left_over(store: Store, seen: Diagnosis, progress: Progress) -> Iterator[Finding]:
    if at_work(store.folder):
        return  # new files may not be named by a row yet
    named = {adapter.blob for adapter in store.adapters() if adapter.blob} | {draft.blob for draft in drafts(store)}
    named |= checkpoint_blobs(store).keys()
    if loose := [file for file in store.blobs.files() if file.stem not in named]:
        yield _fault(f"Weights that nothing names, left by a killed run: {len(loose):,} files", _SWEEP)
    if folders := store.loose_base_folders():
        yield _fault(f"Bases that nothing names, left by a killed run: {len(folders):,} folders", _SWEEP)
    if folders := loose_folders(store):
        what = f"Pools that nothing names, left by a killed run: {len(folders):,} folders"
        yield _fault(what, "the next `ownlm share` or `assemble` removes them")


def _next_steps(store: Store) -> list[str]:
    histories, latest = store.histories(), store.latest_adapters()
    if not store.bases():
        return ["`ownlm base add smollm2-135m`"]
    if not histories:
        return ["`ownlm import git REPO commits.jsonl`, or `ownlm history add DATA --task T`"]
    steps = [
        f"`ownlm adapt --task {base.task} --out NAME`: the base {base.name} learnt from data forgotten since"
        for base in store.bases()
        if base.forgotten and not any(other.task == base.task and not other.forgotten for other in store.bases())
    ]
    for task in dict.fromkeys(one.task for one in histories):
        mine = [(info, latest.get((task, info.user))) for info in histories if info.task == task]
        without = sum(adapter is None for _, adapter in mine)
        old = [adapter for info, adapter in mine if adapter is not None and not adapter.knows(info.history)]
        behind = sum(not adapter.is_recipe for adapter in old)
        if without or behind:
            steps.append(
                f"`ownlm train --task {task}`: users without an adapter {without:,}, with an old one {behind:,}"
            )
        steps += _assemble_steps(store, task, [adapter for _, adapter in mine if adapter], old)
    steps += [
        f"`ownlm pool withdraw {argument(user)}`: pieces of theirs lie in a pool, and they do not agree to share"
        for user in sorted(set(users_of(store).values()) - consents(store).keys())
    ]
    return steps or ["`ownlm ask USER TEXT --task T`: everything is up to date"]


def _assemble_steps(store: Store, task: str, latest: list[AdapterInfo], old: list[AdapterInfo]) -> list[str]:
    """Commands that make outdated recipes again, each with its settings.

    They name users where settings differ: otherwise recipes with other settings would be made again too.
    """
    sharers = sharers_now(store, task)
    settings = {assemble_command(one, sharers) for one in latest if one.is_recipe}
    groups: dict[str, list[AdapterInfo]] = {}
    for one in old:
        if one.is_recipe:
            groups.setdefault(assemble_command(one, sharers), []).append(one)
    steps = []
    for command, recipes in groups.items():
        if len(settings) > 1:
            command = assemble_command(recipes[0], sharers, [one.user for one in recipes[:NAMED]])
        steps.append(f"`{command}`: recipes that are stale or behind {len(recipes):,}")
    return steps
