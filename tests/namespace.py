"""Small and read-only file systems for tests, in a mount namespace of their own; skipped, loudly, where none is had."""

import subprocess
import sys
from pathlib import Path

import pytest


def run_with_mount(mount: str, folder: Path, *ownlm: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command line with a mount on `folder` that nobody else sees.

    Args:
        mount: a shell command that mounts something on "$0".
        ownlm: arguments of the command line; none to run `mount` alone.
        code: the exit code it should have.
    """
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here: full and read-only disks are NOT tested")
    python = f"{sys.executable} -c 'from ownlm.cli.app import main; main()' \"$@\"" if ownlm else "true"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {python}", str(folder), *ownlm], capture_output=True, text=True
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done
