"""Child processes that neither run nor read files of the current folder.

`python -m` and `python -c` put the current folder first on Python's search path, and an empty entry of PATH means the
current folder. So a `json.py` or a `git` in a cloned folder would run. Every child process is started with these
functions, and the command line protects the children of libraries with `protect_children`.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import chdir
from importlib import import_module
from typing import Any

PYTHON = sys.executable


def python_command(*args: str, python: str | None = None) -> list[str]:
    """The command that runs Python (this one by default) without the current folder on its search path."""
    return [python or PYTHON, "-P", *args]


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child, which also protects the child's children.

    Args:
        changes: variables to set, unchecked.
    """
    return {**os.environ, **_protected(os.environ), **(changes or {})}


def protect_children() -> None:
    """Protects all children that inherit this process's environment."""
    os.environ.update(_protected(os.environ))


def find_program(name: str) -> str:
    """The absolute path of a program on PATH; relative entries of PATH are ignored.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which(name, path=_absolute(os.environ.get("PATH", os.defpath)))
    if found is None:
        raise FileNotFoundError(2, "No such program on PATH", name)
    return found


def git_command(folder: str, *args: str) -> list[str]:
    """The command that runs git in a folder, without pager, file system monitor or hooks.

    Raises:
        FileNotFoundError: there is no git.
    """
    harmless = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    return [find_program("git"), *harmless, "-C", folder, *args]


def import_matplotlib() -> Any:
    """Imports matplotlib in an empty folder, because the first import reads `matplotlibrc` of the current folder.

    Call it before importing any part of matplotlib.
    """
    if "matplotlib" not in sys.modules:
        with tempfile.TemporaryDirectory() as empty, chdir(empty):
            import_module("matplotlib")
    return sys.modules["matplotlib"]


def _protected(environment: Mapping[str, str]) -> dict[str, str]:
    changed = {"PYTHONSAFEPATH": "1", "PATH": _absolute(environment.get("PATH", os.defpath))}
    if named := environment.get("PYTHONPATH"):  # a relative entry is intended, an empty one is not
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, named.split(os.pathsep)))
    return changed


def _absolute(path: str) -> str:
    """A search path without the entries that depend on the current folder.

    >>> _absolute("/bin::.:local/bin:/usr/bin")
    '/bin:/usr/bin'
    """
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if os.path.isabs(entry))
