"""Child processes, and a library, that are started so that nothing out of the current folder is run or read.

`python -m` and `python -c` put the current folder first on Python's search path, and an empty entry of PATH means the
current folder too: a `json.py` or a `git` in a folder that was cloned would be run. Every child of ours is started with
what stands here, and the command line protects the children of libraries by `protect_children`.
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
    """The command that runs Python, by default this one, without the current folder on its search path."""
    return [python or PYTHON, "-P", *args]


def child_environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child, in which the children of the child are protected as well.

    Args:
        changes: variables to set; they are not looked at.
    """
    return {**os.environ, **_protected(os.environ), **(changes or {})}


def protect_children() -> None:
    """Protects all children of this process that inherit its environment, whoever starts them."""
    os.environ.update(_protected(os.environ))


def find_program(name: str) -> str:
    """The absolute path of a program on PATH, of whose entries only absolute ones count.

    Raises:
        FileNotFoundError: there is none.
    """
    found = shutil.which(name, path=_absolute(os.environ.get("PATH", os.defpath)))
    if found is None:
        raise FileNotFoundError(2, "No such program on PATH", name)
    return found


def git_command(folder: str, *args: str) -> list[str]:
    """The command that runs git in a folder, without a pager, a file system monitor or hooks of the repository's.

    Raises:
        FileNotFoundError: there is no git.
    """
    harmless = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    return [find_program("git"), *harmless, "-C", folder, *args]


def import_matplotlib() -> Any:
    """matplotlib, which reads a `matplotlibrc` of the current folder when it is imported first: an empty one here.

    Use it before anything is imported from the library's parts.
    """
    if "matplotlib" not in sys.modules:
        with tempfile.TemporaryDirectory() as empty, chdir(empty):
            import_module("matplotlib")
    return sys.modules["matplotlib"]


def _protected(environment: Mapping[str, str]) -> dict[str, str]:
    changed = {"PYTHONSAFEPATH": "1", "PATH": _absolute(environment.get("PATH", os.defpath))}
    if named := environment.get("PYTHONPATH"):  # a relative entry was written by its user, an empty one was not
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, named.split(os.pathsep)))
    return changed


def _absolute(path: str) -> str:
    """A search path without the entries that depend on the current folder.

    >>> _absolute("/bin::.:local/bin:/usr/bin")
    '/bin:/usr/bin'
    """
    return os.pathsep.join(entry for entry in path.split(os.pathsep) if os.path.isabs(entry))
