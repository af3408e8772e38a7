"""Atomic, durable file writes: temporary file, fsync, rename."""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def sync(path: Path) -> None:
    """Syncs a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically: kill -9 or a power cut leaves the new content or the old one.

    Raises:
        OSError: it cannot be written.
    """
    with unfinished(path, 0o666) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.absolute().parent)


@contextmanager
def unfinished(path: Path, mode: int = 0o600, *, folder: bool = False) -> Iterator[Path]:
    """Context manager: a temporary file or folder beside `path`, removed unless the caller renames it to `path`.

    Those that killed processes left are removed first; running processes hold locks on theirs.

    Args:
        mode: file mode before the umask; a folder is private.

    Raises:
        OSError: it cannot be created.
    """
    path = path.absolute()
    for left in path.parent.glob(f".{glob.escape(path.name)}-{'[0-9a-f]' * 32}"):
        with suppress(OSError), _opened(left) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)
    name = uuid4().hex
    made, temporary = path.with_name(f".{name}"), path.with_name(f".{path.name}-{name}")
    if folder:
        made.mkdir(0o700)
    else:
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    with _opened(made) as handle:
        with suppress(OSError):  # a file system without locks: nothing is removed
            fcntl.flock(handle, fcntl.LOCK_EX)
        made.rename(temporary)  # locked before other processes find it
        try:
            yield temporary
        finally:
            _remove(temporary)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield handle
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
