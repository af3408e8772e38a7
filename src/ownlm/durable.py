"""What is written, and stays written."""

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


def sync(path: Path) -> None:
    """Makes a file's content, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file such that after kill -9 or a power cut it is there whole, or what was there before is.

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
    """A new empty file or folder beside `path`, to be filled and then renamed to `path`; gone afterwards if it was not.

    One that a killed process left is removed first: a process that still fills one holds a lock on it.

    Args:
        mode: of a file, before the umask; a folder is for its owner alone.

    Raises:
        OSError: it cannot be made.
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
        with suppress(OSError):  # where a file system has no locks, nothing is removed
            fcntl.flock(handle, fcntl.LOCK_EX)
        made.rename(temporary)  # it has the lock before others find it
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
