"""Files that others may have made, read without ever waiting; and files that are nobody else's to read.

What a folder from outside calls `pool.json` may be a named pipe, a device or a socket, which block whoever opens them,
or a file that does not end. So only regular files are opened, and what is small by its nature is read up to a limit.
"""

import errno
import os
import stat
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


def _refuse_special(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
