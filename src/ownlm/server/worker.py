"""The thread that answers on one base."""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ownlm.errors import BaseModelError, OwnlmError
from ownlm.model.base import BaseLM
from ownlm.server.engine import StoppedError
from ownlm.server.running import Limits, Order, Running
from ownlm.server.stream import News
from ownlm.store.store import Store

ADMISSION_S = 0.1  # between two passes: loading adapters must not keep those waiting who are being answered
SWEEP_S = 1.0  # how often what was forgotten is looked for
PASSED_S = 5.0  # for so long others may join before who does not fit yet


class Worker:
    """Answers orders on one base, in the order they came, until it is closed.

    Args:
        load: gives the base; called in the thread.
        tell: takes news to the event loop.
        on_idle: called in a thread, each time there may be nothing more to do, and at the end.
    """

    def __init__(
        self,
        load: Callable[[], BaseLM],
        store: Store,
        limits: Limits,
        tell: Callable[[list[News]], None],
        on_idle: Callable[[], None],
    ) -> None:
        self.running: Running | None = None  # once the base is loaded
        self._load, self._store, self._limits, self._tell, self._on_idle = load, store, limits, tell, on_idle
        self._raw: list[Order] = []  # whose prompts are no tokens yet
        self._waiting: deque[Order] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._aborted = False
        self._busy = False
        self._did: dict[str, int] = {}  # at the end
        self.made = self._swept = time.monotonic()
        self.ended = False  # nothing more is answered
        self._thread = threading.Thread(target=self._run, name="ownlm answers", daemon=True)

    @property
    def waiting(self) -> int:
        """How many orders have not joined the batch."""
        with self._changed:
            return sum(not order.stream.cancelled for order in (*self._raw, *self._waiting))

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do."""
        with self._changed:
            return not self._busy and not self._waiting and not self._raw

    @property
    def started(self) -> bool:
        """Whether its thread was started."""
        return self._thread.ident is not None

    def counts(self) -> dict[str, int]:
        """See `Engine.counts`."""
        running = self.running
        return {"queued": self.waiting, **(running.counts() if running else self._did)}

    def start(self) -> None:
        """Loads the base, and begins."""
        self._thread.start()

    def put(self, order: Order) -> bool:
        """One more to be answered; False if nothing more is answered here."""
        with self._changed:
            if self._closed:
                return False
            self._raw.append(order)
            self._changed.notify_all()
            return True

    def close(self, abort: bool = False) -> None:
        """Ends the thread when everything is answered; or, to abort, at the next step, with errors for the rest."""
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
            self.running = Running(self._load(), self._store, self._limits, self._tell)
        except OwnlmError as error:
            self._end(error)
        except Exception as error:
            self._end(BaseModelError("The base cannot be loaded", got=type(error).__name__))
        else:
            threading.Thread(target=self._encode, args=(self.running,), name="ownlm tokens", daemon=True).start()
            while self._wait(self.running):
                self._sweep(self.running)
                self._admit(self.running)
                if self.running.live:
                    self.running.step()
            self.running.fail(_stopped())
            self._did = self.running.close()
            self.running = None
            gc.collect()  # a model and what was attached to it name each other; the next base may need the room
            self._end(_stopped())

    def _encode(self, running: Running) -> None:
        """Makes tokens of prompts, the shortest first, beside the answers: long ones take seconds."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._raw or self.ended)
                if self.ended:
                    return
                order = min(self._raw, key=lambda one: 0 if one.stream.cancelled else len(one.work.prompt))
            error = None if order.stream.cancelled else running.encode(order)
            with self._changed:
                if order not in self._raw:  # all was ended
                    continue
                self._raw.remove(order)
                if error is None and not order.stream.cancelled:
                    self._waiting.append(order)
                self._changed.notify_all()
            if error is not None:
                self._tell([News(order.stream, error)])
                self._on_idle()

    def _wait(self, running: Running) -> bool:
        """Until there is something to do; False at the end."""
        if not running.live and not self._waiting:
            self._busy = False
            self._on_idle()
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: running.live or self._waiting or self._is_over, SWEEP_S):
                    self._busy = bool(running.live or self._waiting)
                    return self._busy and not self._aborted
            self._sweep(running)

    @property
    def _is_over(self) -> bool:
        return self._aborted or (self._closed and not self._raw)

    def _sweep(self, running: Running) -> None:
        """Once in a while, wipes what the home has no more."""
        if running.slots.used and time.monotonic() > self._swept + SWEEP_S:
            self._swept = time.monotonic()
            with suppress(Exception):  # the home is busy, say: next time
                running.slots.sweep()

    def _admit(self, running: Running) -> None:
        """Lets orders join: who has the fewest answers under way, and of these who came first.

        Others pass an order that does not fit yet, for some time; then it keeps those behind it waiting, too.
        """
        began, under_way = time.monotonic(), running.callers()
        with self._changed:
            self._waiting = deque(order for order in self._waiting if not order.stream.cancelled)
            waiting = list(self._waiting)
        while waiting and time.monotonic() < began + ADMISSION_S:
            order = min(waiting, key=lambda one: under_way[one.work.caller])  # the first of them
            waiting.remove(order)
            if running.admit(order):
                under_way[order.work.caller] += 1
                with self._changed:
                    self._waiting.remove(order)
            elif order.came < began - PASSED_S:
                return

    def _end(self, error: OwnlmError) -> None:
        """Ends all that waits with an error; nothing more is taken."""
        with self._changed:
            self._closed = True
            orders = [*self._raw, *self._waiting]
            self._raw.clear()
            self._waiting.clear()
            self.ended = True
            self._changed.notify_all()
        self._tell([News(order.stream, error) for order in orders])
        self._on_idle()


def _stopped() -> StoppedError:
    return StoppedError("The server was stopped before the answer was finished", hint="ask again")
