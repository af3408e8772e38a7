"""The machine, versions and commit of a benchmark."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ownlm import __version__
from ownlm.programs import child_environment, git_command

COMPUTE = ("torch", "transformers", "peft")  # packages that change figures


def hardware() -> str:
    """Processor, number of cores, and GPU if there is one."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_cpu()}, {os.cpu_count()} cores{gpu}"


def versions() -> dict[str, str]:
    """Versions of Python, ownlm and the installed packages of `COMPUTE`."""
    found = {"python": platform.python_version(), "ownlm": __version__}
    for package in COMPUTE:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Commit of the checkout that tracks a folder, by default this package's; None without one."""
    try:
        if not _git(folder, "ls-files", "."):
            return None  # a virtual environment inside another project
        return _git(folder, "describe", "--always", "--dirty") or None
    except OSError:  # no git
        return None


def _git(folder: Path, *args: str) -> str:
    command = git_command(str(folder), *args)
    return subprocess.run(command, capture_output=True, text=True, env=child_environment()).stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
