"""What a benchmark ran on."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ownlm import __version__
from ownlm.programs import child_environment, git_command

COMPUTE = ("torch", "transformers", "peft")  # what figures depend on


def hardware() -> str:
    """The processor, how many cores, and the GPU if there is one."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_cpu()}, {os.cpu_count()} cores{gpu}"


def versions() -> dict[str, str]:
    """Of Python, ownlm and the packages that compute, those that are there."""
    found = {"python": platform.python_version(), "ownlm": __version__}
    for package in COMPUTE:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Of the checkout that a folder, by default this package's, is part of; None where it only lies in one, or none."""
    try:
        if not _git(folder, "ls-files", "."):
            return None  # such as a virtual environment within another project
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
