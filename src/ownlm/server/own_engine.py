"""ownlm's own engine: everybody's answers in one running batch for each base."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress

from ownlm.errors import OwnlmError
from ownlm.home import Home
from ownlm.inference.load import load_registered
from ownlm.server.engine import Overloaded, Pace, Work
from ownlm.server.running import Limits, Order
from ownlm.server.stream import News, OwnStream
from ownlm.server.worker import Worker
from ownlm.store.rows import BaseInfo

TURN_S = 5.0  # for so long a base that is asked for waits until another that is in memory has nothing to do
_GROWING = ("hits", "misses", "evictions", "tokens", "passes", "chosen")
_GAUGES = ("queued", "live", "slots_used", "slots", *_GROWING)


class OwnEngine:
    """See `Engine`. A thread for each loaded base; all else happens in the event loop of who submits.

    Args:
        home: whose bases and adapters answer.
        slots: how many trained adapters of one shape are kept in memory; the least recently used one makes room.
        queue: how many requests may wait.
        live: how many are answered together.
        tokens_per_pass: how many tokens of prompts go through the model in one pass, beside the next tokens: prompts
            are read faster with more, and with fewer those wait less who are being answered.
        places: how many tokens' keys and values are kept.
        bases: how many are kept in memory; one that has nothing to do makes room.
    """

    def __init__(
        self,
        home: Home,
        *,
        slots: int = 64,
        queue: int = 256,
        live: int = 64,
        tokens_per_pass: int = 256,
        places: int = 2**15,
        bases: int = 1,
    ) -> None:
        self.home, self.queue, self.bases = home, queue, bases
        self.limits = Limits(slots, live, tokens_per_pass, places)
        self._workers: OrderedDict[str, Worker] = OrderedDict()  # by base, least recently used first
        self._leaving: list[Worker] = []  # they make room for others
        self._past: Counter[str] = Counter()  # what those did that are gone
        self._pace = Pace()
        self._stopping = False

    def start(self) -> None:
        """Loads the home's newest base. One that cannot be loaded is told to those who ask."""
        if bases := self.home.bases():
            self._workers[bases[-1].name] = self._new_worker(bases[-1])
            self._tidy()

    def submit(self, work: Work) -> OwnStream:
        """Takes work on; raises Overloaded when the queue is full, or the engine stops."""
        if self._stopping:
            raise Overloaded("The server is stopping", 5)
        if sum(worker.waiting for worker in (*self._workers.values(), *self._leaving)) >= self.queue:
            raise Overloaded(f"{self.queue} requests wait already", self._retry_after(), option="--queue")
        stream = OwnStream(work)
        worker = self._workers.get(work.base.name)
        if worker is None or not worker.put(Order(stream)):
            worker = self._workers[work.base.name] = self._new_worker(work.base)
            worker.put(Order(stream))
        self._workers.move_to_end(work.base.name)
        self._tidy()
        return stream

    def counts(self) -> Mapping[str, float]:
        """See `Engine`; hits, misses, evictions, tokens and passes never fall."""
        counts = Counter(dict.fromkeys(_GAUGES, 0))
        counts.update(self._past)
        for worker in (*self._workers.values(), *self._leaving):
            counts.update(worker.counts())
        return counts

    async def stop(self, grace_s: float) -> None:
        """See `Engine`."""
        self._stopping = True
        workers = [*self._workers.values(), *self._leaving]
        for worker in workers:
            worker.close()
        await asyncio.gather(*(asyncio.to_thread(worker.join, grace_s) for worker in workers))
        for worker in workers:
            worker.close(abort=True)
        await asyncio.gather(*(asyncio.to_thread(worker.join) for worker in workers))

    def _new_worker(self, base: BaseInfo) -> Worker:
        loop = asyncio.get_running_loop()

        def tell(news: list[News]) -> None:
            with suppress(RuntimeError):  # nobody listens any more: the loop is closed
                loop.call_soon_threadsafe(self._deliver, news)

        def on_idle() -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._tidy)

        return Worker(lambda: load_registered(base, self.home.device), self.home.store, self.limits, tell, on_idle)

    def _tidy(self) -> None:
        """Forgets workers that have ended, and starts those that wait for room.

        Who is idle makes room for them; after some time also who is not, as soon as its orders are answered.
        """
        for name, worker in list(self._workers.items()):
            if worker.ended:
                self._remember(self._workers.pop(name))
        for worker in [one for one in self._leaving if one.ended]:
            self._leaving.remove(worker)
            self._remember(worker)
        for waiting in sorted((w for w in self._workers.values() if not w.started), key=lambda worker: worker.made):
            started = {name: one for name, one in self._workers.items() if one.started}
            patient = time.monotonic() < waiting.made + TURN_S
            if len(started) + len(self._leaving) < self.bases:
                waiting.start()
            elif not self._leaving and (ready := [n for n, w in started.items() if w.idle or not patient]):
                self._leaving.append(self._workers.pop(ready[0]))
                self._leaving[-1].close()

    def _remember(self, worker: Worker) -> None:
        """What a worker did, as far as it is no longer so."""
        counts = worker.counts()
        self._past.update({name: counts.get(name, 0) for name in _GROWING})

    def _deliver(self, news: list[News]) -> None:
        for one in news:
            one.stream.hear(one)
            if one.ends and not isinstance(one.what, OwnlmError):
                self._pace.ended(time.monotonic() - one.stream.began)

    def _retry_after(self) -> float:
        """Seconds until those that wait now have begun."""
        counts = self.counts()
        return self._pace.wait_s(int(counts["queued"]), int(counts["live"]))
