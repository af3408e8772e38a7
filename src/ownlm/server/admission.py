"""Admission by token: some answers of each token run at once, the others wait in order of arrival."""

import asyncio
import math
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field

from ownlm.inference.protocol import AnswerTimes, Busy


@dataclass(slots=True, eq=False)
class Turn:
    """The turn of one answer in the queue of its token: an asynchronous context manager, entered when it comes.

    Raises:
        Busy: On entering, it does not come within the time that the queue allows.
    """

    queue: "Queue"
    came: asyncio.Event = field(default_factory=asyncio.Event)
    began: float = 0.0  # start of the answer, on the monotonic clock

    async def __aenter__(self) -> None:
        longest_s = self.queue.longest_s
        try:
            await asyncio.wait_for(self.came.wait(), longest_s)
        except TimeoutError:
            what = "Other answers of this token took too long for this one to begin"
            expected = f"{longest_s:g} s of waiting at most"
            raise Busy(what, self.queue.wait_s, expected=expected, option="--answers-at-once") from None

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.queue.leave(self, finished=kind is None)


class Queue:
    """The answers of one token.

    Args:
        at_once: Number of answers that run together.
        longest_s: Seconds that an answer waits for its turn at most.
        times: Durations of finished answers, of all tokens.
    """

    def __init__(self, at_once: float, longest_s: float, times: AnswerTimes) -> None:
        self.waiting: deque[Turn] = deque()
        self.running: set[Turn] = set()
        self.longest_s = longest_s
        self._at_once, self._times = at_once, times

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def wait_s(self) -> float:
        """Estimated seconds until all waiting answers run."""
        return self._times.wait_s(len(self.waiting), len(self.running))

    def join(self, answers: int) -> list[Turn]:
        """Adds answers."""
        turns = [Turn(self) for _ in range(answers)]
        self.waiting.extend(turns)
        self._admit()
        return turns

    def leave(self, turn: Turn, finished: bool = False) -> None:
        """Removes an answer, and lets the next one begin. May be called again.

        Args:
            finished: Whether the answer was completed, so that its duration counts.
        """
        if turn in self.running:
            self.running.remove(turn)
            if finished:
                self._times.add(time.monotonic() - turn.began)
            self._admit()
        elif turn in self.waiting:
            self.waiting.remove(turn)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._at_once:
            turn = self.waiting.popleft()
            turn.began = time.monotonic()
            self.running.add(turn)
            turn.came.set()


class Admission:
    """The queues of all tokens.

    Args:
        at_once: Number of answers of a token that run together.
        queued: Number of answers of a token that may wait.
        longest_s: Seconds that an answer waits for its turn at most.
    """

    def __init__(self, at_once: int, queued: int, longest_s: float) -> None:
        self._at_once, self._queued, self._longest_s = at_once, queued, longest_s
        self._times = AnswerTimes()
        self._queues: dict[str, Queue] = {}

    def join(self, stack: ExitStack, token: str, answers: int, bounded: bool) -> list[Turn]:
        """Queues the answers of one request.

        Args:
            stack: Its end removes those that are still in the queue.
            bounded: False for a token without a limit.

        Raises:
            Busy: There is no room for all of them; none is taken.
        """
        self._queues = {name: queue for name, queue in self._queues.items() if len(queue)}
        at_once = self._at_once if bounded else math.inf
        queue = self._queues.setdefault(token, Queue(at_once, self._longest_s, self._times))
        if len(queue) + answers > at_once + self._queued:
            expected = f"{self._at_once} under way and {self._queued} that wait"
            what = "Too many answers of this token wait already"
            raise Busy(what, queue.wait_s, expected=expected, option="--answers-waiting")
        turns = queue.join(answers)
        for turn in turns:
            stack.callback(queue.leave, turn)
        return turns
