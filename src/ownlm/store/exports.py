"""Adapter files written for an external server such as vLLM, and their removal when the adapters are deleted.

Each server has a folder in the home, and holds a lock beside it while it runs. Only a running server removes its own
copies, because it knows when nothing reads them. The copies of an ended server are removed by the next process.
"""

import hashlib
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout
from sqlalchemy import select

from ownlm.durable import sync
from ownlm.errors import StoreError
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store

FOLDER = "served"
PATIENCE_S = 30  # how long a running server may take to remove what is gone
POLL_S = 0.1


def version_of(adapter: AdapterInfo) -> str:
    """The name of a copy: the adapter's id, and a hash of its weights, pool and recipe."""
    return _version(adapter.id, adapter.blob, adapter.pool, adapter.recipe)


def _version(adapter: str, blob: str | None, pool: str | None, recipe: bytes | None) -> str:
    made_of = f"{blob}\0{pool}\0".encode() + (recipe or b"")
    return f"{adapter}-{hashlib.sha256(made_of).hexdigest()[:16]}"


def id_of(version: str) -> str:
    """The adapter's id in a version's name."""
    return version.partition("-")[0]


def current(store: Store, versions: Collection[str]) -> set[str]:
    """Those of these versions that the home still has and that are not stale."""
    a = tables.adapters.c
    wanted = select(a.id, a.blob, a.pool, a.recipe).where(a.id.in_({id_of(one) for one in versions}), a.stale.is_(None))
    return {_version(*row) for row in store.database.rows(wanted)} & set(versions)


@contextmanager
def serving(store: Store) -> Iterator[Path]:
    """A folder for a server's copies, removed with its content when the server ends.

    Raises:
        StoreError: the home cannot be written.
    """
    folder = store.folder / FOLDER / uuid4().hex
    lock = FileLock(_lock_of(folder))
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        lock.acquire(timeout=0)
        folder.mkdir(mode=0o700)
    except (OSError, Timeout) as error:
        raise StoreError(f"Nothing can be written to {folder.parent}", got=error, hint="make it writable") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        _lock_of(folder).unlink(missing_ok=True)


def sweep_ended(store: Store) -> None:
    """Removes the copies of servers that ended or were killed; those of running servers stay."""
    for folder in _folders(store):
        with suppress(Timeout, OSError), FileLock(_lock_of(folder), timeout=0):
            shutil.rmtree(folder)
            _lock_of(folder).unlink(missing_ok=True)


def sweep_served(store: Store, patience_s: float = PATIENCE_S) -> None:
    """Removes the copies of ended servers; waits until running servers have removed the copies of deleted adapters.

    Raises:
        StoreError: a running server does not do so in time, or a copy cannot be removed.
    """
    for folder in _folders(store):
        lock = FileLock(_lock_of(folder))
        try:
            lock.acquire(timeout=0)
            shutil.rmtree(folder)
            sync(folder.parent)
        except Timeout:
            _wait(store, folder, patience_s)
            continue
        except OSError as error:
            raise _left(folder, error) from None
        finally:
            lock.release()  # without effect where it was not acquired
        _lock_of(folder).unlink(missing_ok=True)


def _folders(store: Store) -> list[Path]:
    there = (store.folder / FOLDER).is_dir()
    return sorted(path for path in (store.folder / FOLDER).iterdir() if path.is_dir()) if there else []


def gone(store: Store, folder: Path) -> set[str]:
    """Versions with a whole or unfinished copy in a server's folder that the home no longer has.

    A copy that belongs to no adapter has no '-' in its name.
    """
    names = {path.name.removeprefix(".").partition("+")[0] for path in folder.glob("*")} if folder.exists() else set()
    versions = {name for name in names if "-" in name}
    return versions - current(store, versions)


def _wait(store: Store, folder: Path, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while gone(store, folder):
        if time.monotonic() > until:
            raise _left(folder, "a server that still runs")
        time.sleep(POLL_S)


def _left(folder: Path, why: object) -> StoreError:
    hint = "end the server, and give the same command again"
    return StoreError(f"Copies of deleted adapters could not be removed from {folder}", got=why, hint=hint)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
