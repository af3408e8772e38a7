"""Admission: each token has some answers under way at once, the others wait for their turn, first come first served."""

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field

from ownlm.server.engine import Busy, Pace


@dataclass(slots=True, eq=False)
class Ticket:
    """One answer's place: in the queue of its token, then under way, until it is given back."""

    queue: "Queue"
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0  # when its turn came, on the monotonic clock

    async def wait(self, most_s: float) -> None:
        """Waits for its turn.

        Raises:
            Busy: it did not come in time.
        """
        try:
            await asyncio.wait_for(self.turn.wait(), most_s)
        except TimeoutError:
            what = "Other answers of this token took too long for this one to begin"
            expected = f"{most_s:g} s of waiting at most"
            raise Busy(what, self.queue.wait_s, expected=expected, option="--answers-at-once") from None

    def give_back(self, finished: bool = False) -> None:
        """Its answer has ended, or is not wanted any more. Again is no error.

        Args:
            finished: whether it came to its end, and so says how long answers take.
        """
        self.queue.leave(self, finished)


class Queue:
    """The answers of one token."""

    def __init__(self, at_once: float, pace: Pace) -> None:
        self.waiting: deque[Ticket] = deque()
        self.under_way: set[Ticket] = set()
        self._at_once, self._pace = at_once, pace

    def __len__(self) -> int:
        return len(self.waiting) + len(self.under_way)

    @property
    def wait_s(self) -> float:
        """Seconds until those that wait now have begun."""
        return self._pace.wait_s(len(self.waiting), len(self.under_way))

    def join(self, answers: int) -> list[Ticket]:
        """So many more."""
        tickets = [Ticket(self) for _ in range(answers)]
        self.waiting.extend(tickets)
        self._admit()
        return tickets

    def leave(self, ticket: Ticket, finished: bool) -> None:
        """One of them less."""
        if ticket in self.under_way:
            self.under_way.remove(ticket)
            if finished:
                self._pace.ended(time.monotonic() - ticket.began)
            self._admit()
        elif ticket in self.waiting:
            self.waiting.remove(ticket)

    def _admit(self) -> None:
        while self.waiting and len(self.under_way) < self._at_once:
            ticket = self.waiting.popleft()
            ticket.began = time.monotonic()
            self.under_way.add(ticket)
            ticket.turn.set()


class Admission:
    """Which answers may begin.

    Args:
        at_once: answers of a token that are under way together.
        queued: how many more may wait.
    """

    def __init__(self, at_once: int, queued: int) -> None:
        self._at_once, self._queued = at_once, queued
        self._pace = Pace()
        self._queues: dict[str, Queue] = {}

    def take(self, token: str, answers: int, bounded: bool) -> list[Ticket]:
        """Places for the answers of one request.

        Args:
            bounded: False for a token whose answers all begin at once.

        Raises:
            Busy: there is no room for all of them; none is taken.
        """
        self._queues = {name: queue for name, queue in self._queues.items() if len(queue)}
        at_once = self._at_once if bounded else math.inf
        queue = self._queues.setdefault(token, Queue(at_once, self._pace))
        if len(queue) + answers > at_once + self._queued:
            most = f"{self._at_once} under way and {self._queued} that wait"
            what = "Too many answers of this token wait already"
            raise Busy(what, queue.wait_s, expected=most, option="--answers-waiting")
        return queue.join(answers)
