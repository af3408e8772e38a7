"""The lock of the one process that trains in a home."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ownlm.errors import StoreError
from ownlm.filesystem import read_regular
from ownlm.progress import Progress
from ownlm.store.rows import now

LOCK, NOTE = "work.lock", "work.json"
POLL_S = 0.5


@contextmanager
def working(folder: Path, what: str, progress: Progress) -> Iterator[None]:
    """Holds the lock for training in a home, after waiting for it. Reading, adding and most deletions need no lock.

    Args:
        folder: the home.
        what: command shown to processes that wait, such as "ownlm train".
        progress: reports which process holds the lock.

    Raises:
        StoreError: the home is read-only.
    """
    lock, note = FileLock(folder / LOCK), folder / NOTE
    try:
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                progress("waiting", 0, 0, f"for {_other(note)}")
                time.sleep(POLL_S)
    except OSError as error:
        raise StoreError(
            f"The home {folder} cannot be worked in", got=error.strerror, hint="make it writable"
        ) from None
    try:
        with suppress(OSError):  # such as a full disk; the note is not essential
            note.write_text(json.dumps({"process": os.getpid(), "what": what, "since": now()}), "utf8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Tries to take the lock: True if no process trains, and then none begins during the block."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # a process trains; or the home is read-only
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def at_work(folder: Path) -> str | None:
    """The process that trains in a home, in words; None where there is none."""
    with alone(folder) as idle:
        return None if idle or not (folder / NOTE).exists() else _other(folder / NOTE)


def _other(note: Path) -> str:
    """The process that wrote the note, in words."""
    try:
        known = json.loads(read_regular(note))
        return f"`{known['what']}`, process {known['process']}, at work in this home since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, at work in this home"
