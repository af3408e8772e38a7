"""Traces of texts in files, looked for by a process of its own.

A process that closes any file of an SQLite database loses all its locks on it (POSIX has it so). SQLite of another
process then takes the database for its own, and removes the log that this one goes on writing to. So no file of the
database is opened here, where connections to it are.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ownlm.programs import python_command

Needle = tuple[bytes, ...]  # a text in each form in which it may stand in a file, of eight bytes or more
_SEARCH = Path(__file__).with_name("erasing") / "search.py"


def found(paths: Iterable[Path], needles: Sequence[Needle], *, unused: bool = False) -> list[tuple[Path, set[Needle]]]:
    """The files in which some of the texts stand, each with these texts. A file that is gone holds nothing.

    Args:
        unused: the files are SQLite databases; look only at the bytes of their pages that are not in use.

    Raises:
        OSError: a file cannot be read, or no process be started.
    """
    paths = list(paths)
    if not paths or not needles:
        return []
    asked = {
        "paths": [os.fsencode(path).hex() for path in paths],
        "needles": [[form.hex() for form in one] for one in needles],
        "unused": unused,
    }
    command = python_command("-I", "-S", str(_SEARCH))
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf8", errors="replace")
    if done.returncode:
        raise OSError(done.returncode, done.stderr.strip() or f"the search ended with status {done.returncode}")
    hits: list[tuple[int, list[int]]] = json.loads(done.stdout)
    return [(paths[place], {needles[number] for number in numbers}) for place, numbers in hits]
