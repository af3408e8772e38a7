"""Traces of texts in files, looked for by a process of its own: `python traces.py`, which needs nothing but Python.

A process that closes any file of an SQLite database loses all its locks on it (POSIX has it so). SQLite of another
process then takes the database for its own, and removes the log that this one goes on writing to. So no file of the
database is opened here, where connections to it are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

Needle = tuple[bytes, bytes]  # the beginning of a text, as it is and as JSON spells it


def found(paths: Iterable[Path], needles: Sequence[Needle]) -> list[tuple[Path, set[Needle]]]:
    """Those files in which some of the texts stand, each with these texts. A file that is gone holds nothing.

    Raises:
        OSError: a file cannot be read, or no process be started.
    """
    from ownlm.programs import python_command  # the process itself has nothing of ours

    paths = list(paths)
    asked = {
        "paths": [os.fsencode(path).hex() for path in paths],
        "needles": [[form.hex() for form in one] for one in needles],
    }
    command = python_command("-I", "-S", __file__)
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf8", errors="replace")
    if done.returncode:
        raise OSError(done.returncode, done.stderr.strip() or f"the search ended with status {done.returncode}")
    told: list[tuple[int, list[int]]] = json.loads(done.stdout)
    return [(paths[place], {needles[number] for number in numbers}) for place, numbers in told]


def _search(paths: list[bytes], needles: list[list[bytes]]) -> list[tuple[int, list[int]]]:
    told = []
    for place, path in enumerate(paths):
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:  # another process is done with it
            continue
        except OSError as error:  # reading does not say of what
            raise OSError(error.errno, error.strerror, path) from None
        if numbers := [number for number, forms in enumerate(needles) if any(form in content for form in forms)]:
            told.append((place, numbers))
    return told


if __name__ == "__main__":
    given = json.load(sys.stdin)
    forms_of = [[bytes.fromhex(form) for form in one] for one in given["needles"]]
    try:
        json.dump(_search([bytes.fromhex(path) for path in given["paths"]], forms_of), sys.stdout)
    except OSError as error:
        sys.exit(f"{error.strerror}: {os.fsdecode(error.filename)}")
