"""What is written, and stays written."""

import os
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
    temporary = path.absolute().with_name(f".{path.name}-{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.absolute().parent)
    finally:
        temporary.unlink(missing_ok=True)
