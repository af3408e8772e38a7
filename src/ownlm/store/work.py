"""One worker at a time in a home: a second process that would train waits for the first."""

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
    """While it lasts, no other process trains in this home; reading, adding, and forgetting all but sharers go on.

    Args:
        folder: the home.
        what: what is done, for whoever waits: "ownlm train".
        progress: told who is waited for.

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
        with suppress(OSError):  # a full disk; nobody needs the note
            note.write_text(json.dumps({"process": os.getpid(), "what": what, "since": now()}), "utf8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody trains in a home; if so, nobody begins while it lasts."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # somebody does; or it is read-only, and cannot be worked in
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def at_work(folder: Path) -> str | None:
    """Who trains in a home just now, as far as can be told; None if nobody does."""
    with alone(folder) as idle:
        return None if idle or not (folder / NOTE).exists() else _other(folder / NOTE)


def _other(note: Path) -> str:
    """Who works there, as far as can be told."""
    try:
        known = json.loads(read_regular(note))
        return f"`{known['what']}`, process {known['process']}, at work in this home since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, at work in this home"
