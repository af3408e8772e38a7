"""Safe reading of untrusted files, and private folders.

A file from outside may be a named pipe, a device or a socket, which block their reader, or have no end. So only regular
files are opened, and small kinds of files are read up to a limit.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Final

MANIFEST_BYTES: Final = 64 << 20  # settings, manifests, tasks and plans
DOCUMENT_BYTES: Final = 8 << 30  # one JSON document, read whole
LINE_BYTES: Final = 256 << 20


def folder_bytes(folder: str | Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in Path(folder).glob("*") if path.is_file())


def check_regular(path: Path) -> None:
    """Checks that a path is a regular file or a link to one, without opening it.

    Raises:
        OSError: it is missing, something else, or inaccessible.
    """
    _refuse_special(os.stat(path).st_mode, path)


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading; never blocks.

    Raises:
        OSError: as `check_regular`, or it cannot be read.
    """
    check_regular(path)  # opening some devices has effects
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_special(os.fstat(handle).st_mode, path)  # it may have been replaced
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, most: int = MANIFEST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= most and len(content := file.read(size) + file.read(1)) <= most:  # it may grow
            return content
    raise OSError(errno.EFBIG, f"File too large, the limit is {most:,} bytes", str(path))


def make_private(folder: Path, inside: Iterable[str]) -> bool:
    """Removes other users' permissions on a folder, and on files and folders in it, that this process's user owns.

    A folder with the set-group-id bit is shared on purpose: its group keeps the permissions. If the folder has other
    content, it stays as it is, and only the named content becomes private.

    Args:
        inside: names in the folder; missing ones are ignored.

    Returns:
        Whether other users lost permissions on the folder.
    """
    status, names = os.stat(folder), set(inside)
    others = 0o007 if status.st_mode & stat.S_ISGID else 0o077
    for path in (folder / name for name in names):
        with suppress(OSError):  # such as a file that is gone again
            _close(path, os.lstat(path), others)
    if {path.name for path in folder.iterdir()} - names:
        return False
    return _close(folder, status, others)


def _close(path: Path, status: os.stat_result, others: int) -> bool:
    if not status.st_mode & others or stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        return False
    os.chmod(path, stat.S_IMODE(status.st_mode) & ~others)
    return True


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, with links resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _refuse_special(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
