"""Work that threads share: who comes while it is done is in the next round, which one of them does for all."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from ownlm.errors import OwnlmError, StoreError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    tried: bool = False
    error: OwnlmError | None = None


class Passes(Generic[T]):
    """Passes over what waits.

    After an OwnlmError an item, unless it is None, is in the next pass again. After any other exception it is not: it
    may be the cause, and would end every later pass.
    """

    def __init__(self) -> None:
        self._list, self._turn = Lock(), Lock()
        self._waiting: list[_Entry[T]] = []

    def join(self, item: T, work: Callable[[list[T]], None]) -> None:
        """Returns when a pass that has the item is done: this thread's, or that of another one.

        Args:
            work: does a pass.

        Raises:
            OwnlmError: the pass failed; it is another object for each thread that was in it.
            Exception: what `work` raised, in the thread that ran it; a StoreError in the others.
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
        try:
            work([entry.item for entry in batch])
        except OwnlmError as error:
            self._settle(batch, error, keep=True)
        except Exception as error:
            what = "What was deleted could not be removed from files"
            self._settle(batch, StoreError(what, got=type(error).__name__), keep=False)
            raise
        else:
            self._settle(batch, None, keep=False)

    def _settle(self, batch: list[_Entry[T]], error: OwnlmError | None, *, keep: bool) -> None:
        """Marks a batch as tried; keeps its items for the next pass, or drops them."""
        for entry in batch:
            entry.tried, entry.error = True, error
        with self._list:
            self._waiting = [one for one in self._waiting if not one.tried or (one.error and one.item and keep)]
