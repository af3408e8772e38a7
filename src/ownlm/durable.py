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


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that, whatever happens, its name holds all of it, or what was there before."""
    temporary = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
