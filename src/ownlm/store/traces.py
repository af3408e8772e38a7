"""Traces of texts in files, looked for by a process of its own: `python traces.py`, which needs nothing but Python.

A process that closes any file of an SQLite database loses all its locks on it (POSIX has it so). SQLite of another
process then takes the database for its own, and removes the log that this one goes on writing to. So no file of the
database is opened here, where connections to it are.
"""

import json
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
    asked = {"paths": [str(path) for path in paths], "needles": [[form.hex() for form in one] for one in needles]}
    command = [sys.executable, "-I", "-S", __file__]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, encoding="utf8")
    if done.returncode:
        raise OSError(0, f"files cannot be searched: {done.stderr.strip().rpartition(chr(10))[2]}")
    told: list[tuple[str, list[int]]] = json.loads(done.stdout)
    return [(Path(path), {needles[number] for number in numbers}) for path, numbers in told]


def _search(asked: dict[str, list[str] | list[list[str]]]) -> list[tuple[str, list[int]]]:
    forms = [[bytes.fromhex(form) for form in one] for one in asked["needles"]]
    told = []
    for path in asked["paths"]:
        try:
            content = Path(str(path)).read_bytes()
        except FileNotFoundError:  # another process is done with it
            continue
        if numbers := [number for number, one in enumerate(forms) if any(form in content for form in one)]:
            told.append((str(path), numbers))
    return told


if __name__ == "__main__":
    json.dump(_search(json.load(sys.stdin)), sys.stdout)
