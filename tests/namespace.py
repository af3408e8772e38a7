"""Small and read-only file systems for tests, in a mount namespace of their own; skipped, loudly, where none is had."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forks import context

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


def run_with_mount(mount: str, folder: Path, *ownlm: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command line with a mount on `folder` that nobody else sees.

    Args:
        mount: a shell command that mounts something on "$0".
        ownlm: arguments of the command line.
        code: the exit code it should have.
    """
    _skip_without_namespaces()
    python = f"{sys.executable} -c 'from ownlm.cli.app import main; main()' \"$@\""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {python}", str(folder), *ownlm], capture_output=True, text=True
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def work_with_mount(mount: str, folder: Path, work: Callable[[Path], None]) -> None:
    """Runs `work` on the folder in a fork that alone sees the mount; it must not raise."""
    _skip_without_namespaces()
    process = context.Process(target=_mounted, args=(mount, folder, work))
    process.start()
    process.join()
    assert process.exitcode == 0, "its traceback is among what was written to stderr"


def _mounted(mount: str, folder: Path, work: Callable[[Path], None]) -> None:
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no namespace of its own")
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path("/proc/self", name).write_text(content)
    subprocess.run(["sh", "-c", f"mount --make-rprivate / && {mount}", str(folder)], check=True)
    work(folder)


def _skip_without_namespaces() -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here: full and read-only disks are NOT tested")
