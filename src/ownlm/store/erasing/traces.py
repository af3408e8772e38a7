"""Search for texts in files, by a child process.

A process that closes any file of an SQLite database loses all its POSIX locks on it. SQLite in another process then
takes the database for unused, and removes the write-ahead log that this process goes on writing to. So a process with
connections to a database must not open its files itself.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ownlm.programs import python_command

Needle = tuple[bytes, ...]  # the encodings of one text that are searched for
_SEARCH = Path(__file__).with_name("search.py")


def found(paths: Iterable[Path], needles: Sequence[Needle], *, unused: bool = False) -> list[tuple[Path, set[Needle]]]:
    """The files that contain some of the texts, each with these texts. A missing file contains nothing.

    Args:
        unused: the files are SQLite databases; search only the unused bytes of their pages.

    Raises:
        OSError: a file cannot be read, or the process cannot be started.
    """
    paths = list(paths)
    if not paths or not needles:
        return []
    request = {
        "paths": [os.fsencode(path).hex() for path in paths],
        "needles": [[form.hex() for form in one] for one in needles],
        "unused": unused,
    }
    command = python_command("-I", "-S", str(_SEARCH))
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, encoding="utf8", errors="replace")
    if done.returncode:
        raise OSError(done.returncode, done.stderr.strip() or f"the search ended with status {done.returncode}")
    hits: list[tuple[int, list[int]]] = json.loads(done.stdout)
    return [(paths[place], {needles[number] for number in numbers}) for place, numbers in hits]
