"""Who stores what is finished while training goes on."""

from collections.abc import Callable, Sequence
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Generic, TypeVar

from ownlm.errors import NotFoundError, StoreError

Info = TypeVar("Info")


class BackgroundWriter(Generic[Info]):
    """A thread that stores finished adapters or drafts, or checkpoints, in batches of as many as have gathered.

    At the end of its `with` block, also when that is left by an error or by Ctrl-C, everything put before is stored.
    A killed process loses what is waiting.

    Args:
        keep: stores some, each with its weights; says of each why it was not kept, or None.
        most: how many wait at most; who puts one more waits. As many again are being stored.
        told: called in the thread with each, when it is stored, and None; or why it was not kept.

    Raises:
        StoreError: on leaving, or from `put`: something cannot be stored. What did fit is there.
    """

    def __init__(
        self,
        keep: Callable[[Sequence[tuple[Info, bytes]]], list[NotFoundError | None]],
        most: int,
        told: Callable[[Info, NotFoundError | None], None],
    ) -> None:
        self._store: Callable[[Sequence[tuple[Info, bytes]]], list[NotFoundError | None]] = keep
        self._told: Callable[[Info, NotFoundError | None], None] = told
        self._most = most
        self._waiting: Queue[Callable[[], tuple[Info, bytes]] | None] = Queue(most)
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="keeper", daemon=True)  # a second Ctrl-C does not wait for it

    def put(self, make: Callable[[], tuple[Info, bytes]]) -> None:
        """Has one stored; `make`, which turns it into bytes, is called in the thread."""
        if self._error:
            raise self._error
        self._waiting.put(make)

    @property
    def has_time(self) -> bool:
        """Whether little is waiting, so that what may be left out need not be."""
        return 4 * self._waiting.qsize() < self._most

    def __enter__(self) -> "BackgroundWriter[Info]":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._error and error is not self._error:
            raise self._error

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._gathered()
            if self._error:  # whoever puts more must not wait for ever
                continue
            try:
                self._keep([make() for make in batch])
            except Exception as error:  # told where it is of use: to whoever puts more, or leaves
                self._error = error

    def _gathered(self) -> tuple[list[Callable[[], tuple[Info, bytes]]], bool]:
        """What is waiting, at least one; and whether more may come."""
        batch, make = list[Callable[[], tuple[Info, bytes]]](), self._waiting.get()
        while make is not None:
            batch.append(make)
            if len(batch) == self._most:
                return batch, True
            try:
                make = self._waiting.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _keep(self, made: list[tuple[Info, bytes]]) -> None:
        if not made:
            return
        try:
            outcomes = self._store(made)
        except StoreError:
            if len(made) == 1:
                raise
            for one in made:  # on a full disk some still fit
                self._keep([one])
            return
        for (info, _), outcome in zip(made, outcomes, strict=True):
            self._told(info, outcome)
