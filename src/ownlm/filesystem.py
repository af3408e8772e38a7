"""Files that others may have made, read without ever waiting; and files that are nobody else's to read.

What a folder from outside calls `pool.json` may be a named pipe, a device or a socket, which block whoever opens them,
or a file that does not end. So only regular files are opened, and what is small by its nature is read up to a limit.
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
DOCUMENT_BYTES: Final = 8 << 30  # one JSON document, which is read whole
LINE_BYTES: Final = 256 << 20


def check_regular(path: Path) -> None:
    """Refuses what is no regular file, or a symbolic link to one, before anything opens it.

    Raises:
        OSError: there is none, it is something else, or it cannot be looked at.
    """
    _refuse_special(os.stat(path).st_mode, path)


def open_regular(path: Path) -> BufferedReader:
    """A regular file opened for reading; nothing else is opened, and nothing is waited for.

    Raises:
        OSError: as `check_regular`, or it cannot be read.
    """
    check_regular(path)  # opening some devices does something
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse_special(os.fstat(handle).st_mode, path)  # it may be another since
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
    """Takes other users' rights to a folder and to files and folders in it, where this process's user owns them.

    A folder with the set-group-id bit is shared with its group on purpose: there the group keeps its rights. What else
    lies in the folder is not ours to close: then only what is named is, and the folder stays as it is.

    Args:
        inside: names in the folder; those that are missing do not matter.

    Returns:
        Whether other users had rights to the folder that they have no more.
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
    """Whether a path leads into a folder, by whatever links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _refuse_special(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
