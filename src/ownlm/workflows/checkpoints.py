"""Checkpoints of runs under way, so that whoever was stopped loses a minute and not the hour."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, StoreError
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.memory import TOKENS_UNDER_DROPOUT
from ownlm.oppu.state import RunState
from ownlm.store.checkpoints import (
    CheckpointInfo,
    add_checkpoints,
    find_checkpoint,
    remove_checkpoint,
    remove_old_checkpoints,
)
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.report import Training
from ownlm.workflows.settings import digest, versions
from ownlm.workflows.writer import BackgroundWriter

INTERVAL_S = 60.0  # between two checkpoints of a run
MOST_OF_TIME = 0.1  # that is spent on writing them; where it would be more, they are written less often

Stored = AdapterInfo | CheckpointInfo


def machine_key(base: BaseLM, config: TrainConfig, tokens_per_step: int | None) -> str:
    """A digest of what the rounding of a run depends on; and under dropout its masks, on the tokens of a step."""
    weight, tokens = next(base.model.parameters()), tokens_per_step or TOKENS_UNDER_DROPOUT
    return digest(weight.device.type, weight.dtype, sorted(versions().items()), tokens if config.lora_dropout else 0)


class Checkpoints:
    """Checkpoints the runs of one training, and finds those of an interrupted one.

    `offer` and `resume` are called where training is driven, `store` in the background writer's thread.

    Args:
        clock: seconds.

    Attributes:
        saved: users whose run under way has a checkpoint.
        resumed: how many runs continue from one.
        notes: what went otherwise than planned, a sentence each.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.saved: set[str | None] = set()
        self.notes: list[str] = []
        self.resumed = 0
        self._store, self._clock = store, clock
        self._runs: dict[str, tuple[CheckpointInfo, float]] = {}  # by `Job.user`: when it was checkpointed last
        self._rests_until = -float("inf")
        with suppress(StoreError):
            remove_old_checkpoints(store)

    @contextmanager
    def told(self, report: Training) -> Iterator[None]:
        """In the end, however that comes, the report has what became of checkpoints."""
        try:
            yield
        finally:
            report.resumed, report.checkpointed = self.resumed, len(self.saved)
            report.notes += self.notes

    def resume(self, job: Job, info: CheckpointInfo) -> Job:
        """The job, to continue from its checkpoint if there is one. What cannot be continued is removed."""
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

    def offer(self, keeper: BackgroundWriter[Stored], run: Run, state: Callable[[], RunState]) -> None:
        """Checkpoints a run where it is due, and the writer has time."""
        info, last = self._runs[run.job.user]
        now = self._clock()
        if now - last >= INTERVAL_S and now >= self._rests_until and keeper.has_time:
            self._runs[run.job.user] = info, now
            copied = state()
            keeper.put(lambda: (info, copied.to_bytes()))

    def done(self, run: Run) -> None:
        """A run has ended. The checkpoint of one that failed is removed; else it goes when the adapter is stored."""
        info, _ = self._runs.pop(run.job.user)
        if run.error and info.user in self.saved:
            self._remove(info)

    def store(self, made: Sequence[tuple[Stored, bytes]]) -> list[NotFoundError | None]:
        """Stores finished adapters, then checkpoints; what `BackgroundWriter` calls."""
        finished = [(info, data) for info, data in made if isinstance(info, AdapterInfo)]
        outcomes = iter(self._store.add_adapters(finished) if finished else [])
        users = {info.user for info, _ in finished}
        self.saved -= users
        latest = {info.owner: (info, data) for info, data in made if isinstance(info, CheckpointInfo)}
        self._write([(info, data) for info, data in latest.values() if info.user not in users])
        return [next(outcomes) if isinstance(info, AdapterInfo) else None for info, _ in made]

    def _write(self, made: Sequence[tuple[CheckpointInfo, bytes]]) -> None:
        """Writes checkpoints, and rests in proportion to the time it took. A full disk is noted, once."""
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
