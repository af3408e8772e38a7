"""How long work says how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on: the stage's name, how much of it is done, of how much, and a short note."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


def silent(stage: str, done: float, total: float, note: str = "") -> None:
    """Says nothing."""
