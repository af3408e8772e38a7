"""Admission by token: some answers of each token run at once, the others wait in order of arrival."""

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field

from ownlm.inference.protocol import AnswerTimes, Busy


@dataclass(slots=True, eq=False)
class Ticket:
    """The place of one answer in the queue of its token, waiting or running, until it is given back."""

    queue: "Queue"
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0  # start of the answer, on the monotonic clock

    async def wait(self, longest_s: float) -> None:
        """Waits until the answer may begin.

        Raises:
            Busy: It may not within that time.
        """
        try:
            await asyncio.wait_for(self.turn.wait(), longest_s)
        except TimeoutError:
            what = "Other answers of this token took too long for this one to begin"
            expected = f"{longest_s:g} s of waiting at most"
            raise Busy(what, self.queue.wait_s, expected=expected, option="--answers-at-once") from None

    def give_back(self, finished: bool = False) -> None:
        """Leaves the queue. May be called again.

        Args:
            finished: Whether the answer was completed, so that its duration counts.
        """
        self.queue.leave(self, finished)


class Queue:
    """The answers of one token."""

    def __init__(self, at_once: float, times: AnswerTimes) -> None:
        self.waiting: deque[Ticket] = deque()
        self.running: set[Ticket] = set()
        self._at_once, self._times = at_once, times

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def wait_s(self) -> float:
        """Estimated seconds until all waiting answers run."""
        return self._times.wait_s(len(self.waiting), len(self.running))

    def join(self, answers: int) -> list[Ticket]:
        """Adds answers."""
        tickets = [Ticket(self) for _ in range(answers)]
        self.waiting.extend(tickets)
        self._admit()
        return tickets

    def leave(self, ticket: Ticket, finished: bool) -> None:
        """Removes an answer, and lets the next one begin."""
        if ticket in self.running:
            self.running.remove(ticket)
            if finished:
                self._times.add(time.monotonic() - ticket.began)
            self._admit()
        elif ticket in self.waiting:
            self.waiting.remove(ticket)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._at_once:
            ticket = self.waiting.popleft()
            ticket.began = time.monotonic()
            self.running.add(ticket)
            ticket.turn.set()


class Admission:
    """The queues of all tokens.

    Args:
        at_once: Number of answers of a token that run together.
        queued: Number of answers of a token that may wait.
    """

    def __init__(self, at_once: int, queued: int) -> None:
        self._at_once, self._queued = at_once, queued
        self._times = AnswerTimes()
        self._queues: dict[str, Queue] = {}

    def take(self, token: str, answers: int, bounded: bool) -> list[Ticket]:
        """Takes places for the answers of one request.

        Args:
            bounded: False for a token without a limit.

        Raises:
            Busy: There is no room for all of them; none is taken.
        """
        self._queues = {name: queue for name, queue in self._queues.items() if len(queue)}
        at_once = self._at_once if bounded else math.inf
        queue = self._queues.setdefault(token, Queue(at_once, self._times))
        if len(queue) + answers > at_once + self._queued:
            expected = f"{self._at_once} under way and {self._queued} that wait"
            what = "Too many answers of this token wait already"
            raise Busy(what, queue.wait_s, expected=expected, option="--answers-waiting")
        return queue.join(answers)
