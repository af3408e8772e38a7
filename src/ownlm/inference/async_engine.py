"""The engine of `ownlm serve`: a worker thread for each loaded base, and streams in the event loop."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress

from ownlm.inference.protocol import AnswerTimes, OutputStream, Overloaded
from ownlm.inference.request import Request
from ownlm.inference.scheduler import EngineLimits, Outputs
from ownlm.inference.sequence import Sequence
from ownlm.inference.worker import Worker
from ownlm.model.bases.placement import DEFAULT, Placement
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store

TURN_S = 5.0  # longest wait of a requested base for an idle one in memory; then a busy one makes room
_GROWING = ("hits", "misses", "evictions", "tokens", "passes", "chosen")
_GAUGES = ("queued", "live", "slots_used", "slots", *_GROWING)


class AsyncEngine:
    """See `ServingEngine`. Methods are for one event loop; each loaded base has a thread.

    Args:
        placement: Device of the models, and type of their weights.
        limits: How much one base computes together.
        queue: Number of requests that may wait.
        bases: Number of bases in memory; an idle one makes room.
    """

    def __init__(
        self, store: Store, placement: Placement = DEFAULT, limits: EngineLimits | None = None, *, queue: int = 256,
        bases: int = 1,
    ) -> None:  # fmt: skip
        self.store, self.placement, self.limits, self.queue, self.bases = store, placement, limits, queue, bases
        self._streams: dict[Sequence, OutputStream] = {}
        self._workers: OrderedDict[str, Worker] = OrderedDict()  # by base, least recently used first
        self._leaving: list[Worker] = []  # workers that finish their requests and end
        self._past: Counter[str] = Counter()  # counts of the workers that have ended
        self._times = AnswerTimes()
        self._stopping = False

    def start(self) -> None:
        """Loads the home's newest base. If it cannot be loaded, the first request gets the error."""
        if bases := self.store.bases():
            self._workers[bases[-1].name] = self._new_worker(bases[-1])
            self._tidy()

    def submit(self, request: Request) -> OutputStream:
        """Accepts a request; raises Overloaded when the queue is full or the engine stops."""
        if self._stopping:
            raise Overloaded("The server is stopping", 5)
        if sum(worker.waiting for worker in self._all_workers()) >= self.queue:
            counts = self.counts()
            wait_s = self._times.wait_s(int(counts["queued"]), int(counts["live"]))
            raise Overloaded(f"{self.queue} requests wait already", wait_s, option="--queue")
        sequence = Sequence(request)
        stream = self._streams[sequence] = OutputStream(request, lambda: self._cancel(sequence))
        worker = self._workers.get(request.base.name)
        if worker is None or not worker.put(sequence):
            worker = self._workers[request.base.name] = self._new_worker(request.base)
            worker.put(sequence)
        self._workers.move_to_end(request.base.name)
        self._tidy()
        return stream

    def counts(self) -> Mapping[str, float]:
        """See `ServingEngine`; hits, misses, evictions, tokens, passes and chosen never fall."""
        counts = Counter(dict.fromkeys(_GAUGES, 0))
        counts.update(self._past)
        for worker in self._all_workers():
            counts.update(worker.counts())
        return counts

    async def stop(self, grace_s: float) -> None:
        """See `ServingEngine`."""
        self._stopping = True
        workers = self._all_workers()
        for worker in workers:
            worker.close()
        await asyncio.gather(*(asyncio.to_thread(worker.join, grace_s) for worker in workers))
        for worker in workers:
            worker.close(abort=True)
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in workers))

    def _cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        self._streams.pop(sequence, None)

    def _all_workers(self) -> list[Worker]:
        return [*self._workers.values(), *self._leaving]

    def _new_worker(self, base: BaseInfo) -> Worker:
        loop = asyncio.get_running_loop()

        def in_loop(call: Callable[..., None], *args: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: no stream is read any more
                loop.call_soon_threadsafe(call, *args)

        return Worker(
            base, self.store, self.placement, self.limits or EngineLimits(),
            deliver=lambda outputs: in_loop(self._deliver, outputs), on_idle=lambda: in_loop(self._tidy),
        )  # fmt: skip

    def _tidy(self) -> None:
        """Forgets workers that have ended, and starts workers that wait for room.

        An idle worker makes room for them; after TURN_S a busy one does, as soon as its requests are answered.
        """
        for name, worker in list(self._workers.items()):
            if worker.ended:
                self._keep_counts(self._workers.pop(name))
        for worker in [one for one in self._leaving if one.ended]:
            self._leaving.remove(worker)
            self._keep_counts(worker)
        for waiting in sorted((w for w in self._workers.values() if not w.started), key=lambda worker: worker.created):
            started = {name: one for name, one in self._workers.items() if one.started}
            patient = time.monotonic() < waiting.created + TURN_S
            if len(started) + len(self._leaving) < self.bases:
                waiting.start()
            elif not self._leaving and (ready := [n for n, w in started.items() if w.idle or not patient]):
                self._leaving.append(self._workers.pop(ready[0]))
                self._leaving[-1].close()

    def _keep_counts(self, worker: Worker) -> None:
        counts = worker.counts()
        self._past.update({name: counts.get(name, 0) for name in _GROWING})

    def _deliver(self, outputs: Outputs) -> None:
        for sequence, output in outputs:
            stream = self._streams.pop(sequence, None) if output.finished else self._streams.get(sequence)
            if stream is not None:
                stream.put(output)
            if output.finish is not None:
                self._times.add(time.monotonic() - sequence.started)
