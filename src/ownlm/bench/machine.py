"""What a benchmark ran on."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

COMPUTE = ("torch", "transformers", "peft")  # what figures depend on


def hardware() -> dict[str, Any]:
    """The processor, how many cores, the GPU or None."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": gpu, "python": platform.python_version()}


def versions() -> dict[str, str | None]:
    """Of the packages that compute; None for one that is not there."""
    return {package: _version(package) for package in COMPUTE}


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """Of the checkout that a folder, by default this package's, lies in; None where it is in none."""
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # no git
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
