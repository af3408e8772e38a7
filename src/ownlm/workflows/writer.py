"""Background writing: a thread that stores finished adapters and checkpoints while training runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Generic, Self, TypeVar

from ownlm.errors import NotFoundError, OwnlmError, StoreError
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.state import RunState
from ownlm.store.checkpoints import (
    CheckpointInfo,
    add_checkpoints,
    find_checkpoint,
    remove_checkpoint,
)
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.plan import digest, versions
from ownlm.workflows.report import Training

INTERVAL_S = 60.0  # between two checkpoints of a run
MOST_OF_TIME = 0.1  # share of the time that may go into writing checkpoints; beyond it, they are written less often

Info = TypeVar("Info")
Stored = AdapterInfo | CheckpointInfo


class BackgroundWriter(Generic[Info]):
    """A thread that stores finished adapters, drafts or checkpoints in batches of all that are waiting.

    At the end of its `with` block everything put before is stored, also after an error or Ctrl-C. A killed process
    loses what is waiting.

    Args:
        store: stores a batch of items with their weights; returns for each an error, or None if it was stored.
        most: capacity of the queue; `put` blocks when it is full. Up to as many more may be in the batch being written.
        on_stored: called in the writer's thread with each item, and its error or None.

    Raises:
        StoreError: on leaving, or from `put`: something cannot be stored. Everything that did fit is stored.
    """

    def __init__(
        self,
        store: Callable[[Sequence[tuple[Info, bytes]]], list[NotFoundError | None]],
        most: int,
        on_stored: Callable[[Info, NotFoundError | None], None],
    ) -> None:
        self._store: Callable[[Sequence[tuple[Info, bytes]]], list[NotFoundError | None]] = store
        self._on_stored: Callable[[Info, NotFoundError | None], None] = on_stored
        self._most = most
        self._waiting: Queue[Callable[[], tuple[Info, bytes]] | None] = Queue(most)
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, name="writer", daemon=True)  # a second Ctrl-C does not wait for it

    def put(self, make: Callable[[], tuple[Info, bytes]]) -> None:
        """Queues one to be stored; `make`, which turns it into bytes, is called in the thread."""
        if self._error:
            raise self._error
        self._waiting.put(make)

    @property
    def has_time(self) -> bool:
        """Whether so little is waiting that optional writes are welcome."""
        return 4 * self._waiting.qsize() < self._most

    def __enter__(self) -> Self:
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
            batch, more = self._next_batch()
            if self._error:  # the queue is still emptied, so that `put` does not block for ever
                continue
            try:
                self._write([make() for make in batch])
            except Exception as error:  # raised again by `put` and `__exit__`
                self._error = error

    def _next_batch(self) -> tuple[list[Callable[[], tuple[Info, bytes]]], bool]:
        """All that is waiting, at least one; and whether more may come."""
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

    def _write(self, made: list[tuple[Info, bytes]]) -> None:
        if not made:
            return
        try:
            outcomes = self._store(made)
        except StoreError:
            if len(made) == 1:
                raise
            for one in made:  # on a full disk some still fit
                self._write([one])
            return
        for (info, _), outcome in zip(made, outcomes, strict=True):
            self._on_stored(info, outcome)


def machine_key(base: BaseLM) -> str:
    """Digest of the kind of device and the versions that a run is computed with.

    The type of the base's weights is no part of it: a run continues on a machine that chose another type.
    """
    return digest(base.device.type, sorted(versions().items()))


class Checkpoints:
    """Writes checkpoints of the runs of one training, and finds those of an interrupted one.

    `offer` and `resume` are called by the thread that trains, `store` by the background writer's.

    Args:
        store: store of the home.
        clock: seconds.

    Attributes:
        saved: users with a checkpoint of their unfinished run.
        resumed: number of runs that continue from a checkpoint.
        notes: problems with checkpoints, one sentence each.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.saved: set[str | None] = set()
        self.notes: list[str] = []
        self.resumed = 0
        self._store, self._clock = store, clock
        self._runs: dict[str, tuple[CheckpointInfo, float]] = {}  # by `Job.user`: time of the last checkpoint
        self._rests_until = -float("inf")

    @contextmanager
    def reported(self, report: Training) -> Iterator[None]:
        """Writes counts and notes into the report at the end of the block, also after an error."""
        try:
            yield
        finally:
            report.resumed, report.checkpointed = self.resumed, len(self.saved)
            report.notes += self.notes

    def resume(self, job: Job, info: CheckpointInfo) -> Job:
        """The job, to continue from its checkpoint if there is one. An unusable checkpoint is removed."""
        self._runs[job.user] = info, self._clock()
        if (found := find_checkpoint(self._store, info)) is None:
            return job
        key, blob = found
        try:
            if key == info.key:
                job = replace(job, state=RunState.from_bytes(self._store.blobs.get(blob)))
                self.saved.add(info.user)
                self.resumed += 1
                return job
            why = "was made with other records, settings, versions or another kind of machine"
        except OwnlmError:
            why = "is damaged"
        self._remove(info)
        self._note(f"A checkpoint {why}; it was removed, and that training began again")
        return job

    def offer(self, writer: BackgroundWriter[Stored], run: Run, state: Callable[[], RunState]) -> None:
        """Checkpoints a run if it is due and the writer has time."""
        info, last = self._runs[run.job.user]
        now = self._clock()
        if now - last >= INTERVAL_S and now >= self._rests_until and writer.has_time:
            self._runs[run.job.user] = info, now
            copied = state()
            writer.put(lambda: (info, copied.to_bytes()))

    def done(self, run: Run) -> None:
        """Ends a run. The checkpoint of a failed one is removed; else storing the adapter removes it."""
        info, _ = self._runs.pop(run.job.user)
        if run.error and info.user in self.saved:
            self._remove(info)

    def store(self, made: Sequence[tuple[Stored, bytes]]) -> list[NotFoundError | None]:
        """Stores finished adapters, then checkpoints; the `store` argument of `BackgroundWriter`."""
        finished = [(info, data) for info, data in made if isinstance(info, AdapterInfo)]
        outcomes = iter(self._store.add_adapters(finished) if finished else [])
        users = {info.user for info, _ in finished}
        self.saved -= users
        latest = {info.owner: (info, data) for info, data in made if isinstance(info, CheckpointInfo)}
        self._write([(info, data) for info, data in latest.values() if info.user not in users])
        return [next(outcomes) if isinstance(info, AdapterInfo) else None for info, _ in made]

    def _write(self, made: Sequence[tuple[CheckpointInfo, bytes]]) -> None:
        """Writes checkpoints, then rests in proportion to the time it took. A full disk is noted once."""
        if not made:
            return
        started = self._clock()
        try:
            self.saved.update(info.user for info in add_checkpoints(self._store, made))
        except StoreError as error:
            self._note(f"Checkpoints cannot be written, training goes on without: {error.what}")
        now = self._clock()
        self._rests_until = now + (now - started) * (1 / MOST_OF_TIME - 1)

    def _remove(self, info: CheckpointInfo) -> None:
        self.saved.discard(info.user)
        with suppress(StoreError):  # on a full disk; the next run of the user replaces it
            remove_checkpoint(self._store, info)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
