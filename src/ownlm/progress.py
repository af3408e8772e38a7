"""Progress reports of long operations."""

from typing import Protocol


class Progress(Protocol):
    """Callback with the stage's name, the amount done, the total (0 if unknown), and a short note."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """Ignores all reports."""
