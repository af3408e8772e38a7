"""What all requests of one server have in common."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from ownlm.home import Home
from ownlm.inference.protocol import Busy, ServingEngine
from ownlm.server.deletions import Forgetting
from ownlm.server.jobs import Jobs
from ownlm.server.limits import Limits, Meter
from ownlm.server.metrics import Metrics
from ownlm.server.retrieval import PROCESSES, Retrieval

T = TypeVar("T")
READERS, BINDERS, WRITERS = 16, 4, 8  # threads
MOST_WAITING = 64  # pieces of one user's work that wait for each other


class Turns:
    """Lets each user's work of a kind be done one piece at a time, in the order it came."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}  # and how many hold one, or wait for it

    @asynccontextmanager
    async def of(self, kind: str, user: str) -> AsyncIterator[None]:
        """While it lasts, no other work of this kind is done for the user; a Busy where too much waits already."""
        lock, count = self._locks.get((kind, user), (asyncio.Lock(), 0))
        if count > MOST_WAITING:
            raise Busy("Too many requests of yours wait for each other", 5.0, expected=f"at most {MOST_WAITING}")
        self._locks[kind, user] = lock, count + 1
        try:
            async with lock:
                yield
        finally:
            _, count = self._locks.pop((kind, user))
            if count > 1:
                self._locks[kind, user] = lock, count - 1


@dataclass(frozen=True, slots=True)
class State:
    """A server: its home, and what works for it.

    Attributes:
        retrieval: makes prompts that show records of a long history.
        turns: of each user's heavy work.
        readers: threads that look things up.
        binders: threads that make prompts.
        writers: threads that write, and may all wait for another process that does.
        searchers: threads that wait for `retrieval`, or search or pack megabytes themselves.
    """

    home: Home
    engine: ServingEngine
    jobs: Jobs
    forgetting: Forgetting
    limits: Limits
    meter: Meter
    metrics: Metrics
    retrieval: Retrieval
    turns: Turns = field(default_factory=Turns)
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READERS))
    binders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BINDERS))
    writers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(WRITERS))
    searchers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PROCESSES))

    async def write(self, user: str, work: Callable[[], T]) -> T:
        """Does work that writes, in the user's turn."""
        async with self.turns.of("write", user):
            return await to_thread.run_sync(work, limiter=self.writers)

    async def search(self, user: str, work: Callable[[], T]) -> T:
        """Does work that takes long, in the user's turn."""
        async with self.turns.of("search", user):
            return await to_thread.run_sync(work, limiter=self.searchers)


async def _state_of(request: Request) -> State:  # a coroutine, as FastAPI runs else in threads that may all wait
    state: State = request.app.state.ownlm
    return state


AnyState = Annotated[State, Depends(_state_of)]
