"""One method of a comparison: its process, its results, its time and its memory."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from roof import wait


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained user: the loss of each optimizer step, and the number of packed tokens."""

    user: str
    losses: list[float]
    packed: int = 0


class Clock:
    """Seconds by name; those of the process's threads too, which tell whether others were at work on the machine.

    >>> clock = Clock("cpu")
    >>> with clock("train"):
    ...     pass
    >>> list(clock.seconds)
    ['train']
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds, self.cpu_seconds = defaultdict[str, float](float), defaultdict[str, float](float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wait(self.device)
        started, worked = time.perf_counter(), time.process_time()
        yield
        wait(self.device)
        self.seconds[name] += time.perf_counter() - started
        self.cpu_seconds[name] += time.process_time() - worked


def run_child(script: str, name: str, options: dict[str, Any], *, ours: bool) -> dict[str, Any]:
    """A method's turn in a process of its own, so that no memory, thread or import is another's.

    Args:
        script: is run again, with `options`, `--only` for the name and `--report` for where to write what it measured.
        ours: whether it runs as `ownlm` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, command = Path(folder) / "report.json", [sys.executable, script]
        for option, value in {**options, "only": name, "report": report}.items():
            flag = f"--{option.replace('_', '-')}"
            command += [flag] if value is True else [] if value in (None, False) else [f"{flag}={value}"]
        quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
        if ours:
            quiet["THP_MEM_ALLOC_ENABLE"] = "1"  # large pages, as `ownlm` sets them for itself
        code = subprocess.run(command, env=os.environ | quiet).returncode
        return json.loads(report.read_text()) if report.exists() else {"left out": f"it ended with status {code}"}


def waited(turn: dict[str, Any], part: str, device: str) -> bool:
    """Whether a turn had less than a core of a CPU to itself: there was other work on the machine."""
    return turn["cpu_seconds"][part] < 0.9 * turn["seconds"][part] and torch.device(device).type == "cpu"


def peak_rss() -> int:
    """The most memory this process ever held, in bytes."""
    status = Path("/proc/self/status")  # getrusage may count what the parent held when this process was begun
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_memory(device: str) -> int:
    """The high-water mark of the GPU's memory, or of the process's on a CPU; in bytes."""
    return torch.cuda.max_memory_allocated() if torch.device(device).type == "cuda" else peak_rss()
