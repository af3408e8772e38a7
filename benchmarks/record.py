"""Writes a benchmark's result down, with what it was measured on."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # real histories, kept outside the repository


def save(name: str, result: dict[str, Any]) -> Path:
    """Keeps `result` as results/NAME.json and says where."""
    git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in ("torch", "transformers", "peft")},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"measured": where, **result}, indent=1) + "\n", "utf8")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints figures; columns whose name ends in '#' are numbers."""
    try:
        from ownlm.cli.output import print_table
    except ImportError:  # no rich
        print(title, columns, *rows, sep="\n")
    else:
        print_table(title, columns, rows)


def _version(package: str) -> str | None:
    """Of an installed package; None of one that is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
