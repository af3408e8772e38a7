"""The thread that answers requests on one base."""

import gc
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ownlm.errors import BaseModelError, OwnlmError
from ownlm.inference.adapter_cache import AdapterCache
from ownlm.inference.load import load_registered
from ownlm.inference.protocol import StoppedError
from ownlm.inference.request import RequestOutput
from ownlm.inference.scheduler import EngineLimits, Outputs, Scheduler
from ownlm.inference.sequence import Sequence
from ownlm.model.bases.placement import Placement
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store

SWEEP_S = 1.0  # time between two searches for adapters that the home has deleted


class Worker:
    """Answers requests on one base until it is closed: one thread drives the scheduler, another encodes prompts.

    Args:
        deliver: Takes outputs; called in the worker's threads.
        on_idle: Called in the worker's threads, each time there may be nothing to do, and at the end.
    """

    def __init__(
        self,
        base: BaseInfo,
        store: Store,
        placement: Placement,
        limits: EngineLimits,
        deliver: Callable[[Outputs], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.scheduler: Scheduler | None = None  # once the base is loaded
        self._base, self._store, self._placement, self._limits = base, store, placement, limits
        self._deliver, self._on_idle = deliver, on_idle
        self._submitted: list[Sequence] = []  # sequences with prompts that are not encoded yet
        self._encoded: list[Sequence] = []  # sequences that the scheduler does not have yet
        self._changed = threading.Condition()
        self._closed = self._aborted = self._busy = False
        self._last_counts: dict[str, int] = {}
        self.created = self._swept = time.monotonic()
        self.ended = False
        self._thread = threading.Thread(target=self._run, name="ownlm answers", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of requests that do not run yet."""
        with self._changed:
            scheduled = self.scheduler.waiting if self.scheduler else []
            return sum(not one.cancelled for one in (*self._submitted, *self._encoded, *scheduled))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._changed:
            return not self._busy and not self._submitted and not self._encoded

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._thread.ident is not None

    def counts(self) -> dict[str, int]:
        """Returns the gauges of `ServingEngine.counts`."""
        scheduler = self.scheduler
        return {"queued": self.waiting, **(_counts(scheduler) if scheduler else self._last_counts)}

    def start(self) -> None:
        """Starts the thread, which loads the base first."""
        self._thread.start()

    def put(self, sequence: Sequence) -> bool:
        """Accepts a sequence; False if the worker is closed."""
        with self._changed:
            if self._closed:
                return False
            self._submitted.append(sequence)
            self._changed.notify_all()
            return True

    def close(self, abort: bool = False) -> None:
        """Ends the thread when all requests are answered; to abort, at the next step, with errors for the rest."""
        with self._changed:
            self._closed = True
            self._aborted = self._aborted or abort
            self._changed.notify_all()
        if not self.started:
            self._end(_stopped())

    def join(self, timeout: float | None = None) -> None:
        """Waits for the thread to end."""
        if self.started:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            base = load_registered(self._base, self._placement)
            adapters = AdapterCache(base, self._store, self._limits.slots)
            self.scheduler = scheduler = Scheduler(base, adapters, self._limits)
        except OwnlmError as error:
            self._end(error)
        except Exception as error:
            self._end(BaseModelError("The base cannot be loaded", got=type(error).__name__))
        else:
            del base
            threading.Thread(target=self._encode, args=(scheduler,), name="ownlm tokens", daemon=True).start()
            while self._wait(scheduler, adapters):
                self._sweep(adapters)
                for outputs in scheduler.step():
                    if outputs:
                        self._deliver(outputs)
            self._deliver(scheduler.end(_stopped()))
            self._last_counts = _counts(scheduler) | {"slots": 0, "slots_used": 0}
            adapters.close()
            self.scheduler = None
            del scheduler, adapters
            gc.collect()  # a model and its hooks refer to each other; the next base may need the memory
            self._end(_stopped())

    def _encode(self, scheduler: Scheduler) -> None:
        """Encodes prompts beside the answers, the shortest first: long ones take seconds."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._submitted or self.ended)
                if self.ended:
                    return
                sequence = min(self._submitted, key=lambda one: 0 if one.cancelled else len(one.request.prompt))
            error = None if sequence.cancelled else scheduler.encode(sequence)
            with self._changed:
                if sequence not in self._submitted:  # the worker ended
                    continue
                self._submitted.remove(sequence)
                if error is None and not sequence.cancelled:
                    self._encoded.append(sequence)
                self._changed.notify_all()
            if error is not None:
                self._deliver([(sequence, RequestOutput(error=error))])
                self._on_idle()

    def _wait(self, scheduler: Scheduler, adapters: AdapterCache) -> bool:
        """Waits for something to do, and hands encoded sequences to the scheduler; False at the end."""
        if not scheduler.unfinished and not self._encoded:
            self._busy = False
            self._on_idle()
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: scheduler.unfinished or self._encoded or self._is_over, SWEEP_S):
                    for sequence in self._encoded:
                        scheduler.add(sequence)
                    self._encoded.clear()
                    self._busy = bool(scheduler.unfinished)
                    return self._busy and not self._aborted
            self._sweep(adapters)

    @property
    def _is_over(self) -> bool:
        return self._aborted or (self._closed and not self._submitted)

    def _sweep(self, adapters: AdapterCache) -> None:
        """Now and then, clears adapters that the home has deleted."""
        if adapters.used and time.monotonic() > self._swept + SWEEP_S:
            self._swept = time.monotonic()
            with suppress(Exception):  # the home may be busy: the next sweep comes soon
                adapters.sweep()

    def _end(self, error: OwnlmError) -> None:
        """Ends all waiting sequences with an error, and accepts no more."""
        with self._changed:
            self._closed = True
            sequences = [*self._submitted, *self._encoded]
            self._submitted.clear()
            self._encoded.clear()
            self.ended = True
            self._changed.notify_all()
        self._deliver([(sequence, RequestOutput(error=error)) for sequence in sequences])
        self._on_idle()


def _counts(scheduler: Scheduler) -> dict[str, int]:
    adapters = scheduler.adapters
    assert isinstance(adapters, AdapterCache)
    return {
        "live": len(scheduler.running),
        "slots_used": adapters.used,
        "slots": adapters.size,
        "hits": adapters.hits,
        "misses": adapters.misses,
        "evictions": adapters.evictions,
        "tokens": scheduler.tokens,
        "passes": scheduler.passes,
        "chosen": scheduler.chosen,
    }


def _stopped() -> StoppedError:
    return StoppedError("The server was stopped before the answer was finished", hint="ask again")
