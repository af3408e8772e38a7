"""Work that threads share: who comes while it is done is in the next round, which one of them does for all."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from ownlm.errors import OwnlmError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    tried: bool = False
    error: OwnlmError | None = None


class Passes(Generic[T]):
    """Passes over what waits. What failed stays, but for an item that is None, and is in the next pass again."""

    def __init__(self) -> None:
        self._list, self._turn = Lock(), Lock()
        self._waiting: list[_Entry[T]] = []

    def join(self, item: T, work: Callable[[list[T]], None]) -> None:
        """Returns when a pass that has the item is done: this thread's, or that of another one.

        Args:
            work: does a pass.

        Raises:
            OwnlmError: the pass failed; it is another object for each thread that was in it.
        """
        entry = _Entry(item)
        with self._list:
            self._waiting.append(entry)
        with self._turn:
            if not entry.tried:
                self._run(work)
        if entry.error is not None:
            raise type(entry.error)(
                entry.error.what, got=entry.error.got, expected=entry.error.expected, hint=entry.error.hint
            )

    def _run(self, work: Callable[[list[T]], None]) -> None:
        with self._list:
            batch = list(self._waiting)
        error: OwnlmError | None = None
        try:
            work([entry.item for entry in batch])
        except OwnlmError as failed:
            error = failed
        for entry in batch:
            entry.tried, entry.error = True, error
        with self._list:
            self._waiting = [entry for entry in self._waiting if not entry.tried or (entry.error and entry.item)]
