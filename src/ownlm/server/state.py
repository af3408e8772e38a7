"""Shared state of one server: its home, engine, thread limits and per-user locks."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from ownlm.home import Home
from ownlm.inference.protocol import Busy, ServingEngine
from ownlm.server.deletions import Deletions
from ownlm.server.jobs import Jobs
from ownlm.server.limits import Limits, Meter
from ownlm.server.metrics import Metrics
from ownlm.server.retrieval import PROCESSES, Retrieval

T = TypeVar("T")
READERS, BINDERS, WRITERS = 16, 4, 8  # threads
MAX_WAITING = 64  # requests of one user that wait for the same lock


class UserLocks:
    """Locks by kind of work and user, which are granted in order of arrival."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}  # with the number of holders and waiters

    @asynccontextmanager
    async def hold(self, kind: str, user: str) -> AsyncIterator[None]:
        """Holds the lock of a user for this kind of work; raises Busy where too many requests wait for it."""
        lock, count = self._locks.get((kind, user), (asyncio.Lock(), 0))
        if count > MAX_WAITING:
            raise Busy("Too many requests of this user wait for each other", 5.0, expected=f"at most {MAX_WAITING}")
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
    """Shared state of one server.

    Attributes:
        retrieval: Processes that make prompts from long histories.
        locks: Per-user locks for heavy work.
        readers: Threads that read the home.
        binders: Threads that make prompts.
        writers: Threads that write to the home; all of them may wait for another process that writes.
        searchers: Threads that wait for `retrieval`, or that search or compress large data themselves.
    """

    home: Home
    engine: ServingEngine
    jobs: Jobs
    deletions: Deletions
    limits: Limits
    meter: Meter
    metrics: Metrics
    retrieval: Retrieval
    locks: UserLocks = field(default_factory=UserLocks)
    readers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READERS))
    binders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BINDERS))
    writers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(WRITERS))
    searchers: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(PROCESSES))

    async def write(self, user: str, work: Callable[[], T]) -> T:
        """Runs work that writes to the home in a thread, one at a time for each user."""
        async with self.locks.hold("write", user):
            return await to_thread.run_sync(work, limiter=self.writers)

    async def search(self, user: str, work: Callable[[], T]) -> T:
        """Runs work that takes long in a thread, one at a time for each user."""
        async with self.locks.hold("search", user):
            return await to_thread.run_sync(work, limiter=self.searchers)


async def _state(request: Request) -> State:  # a coroutine: FastAPI would run a function in a thread, and all may wait
    state: State = request.app.state.ownlm
    return state


ServerState = Annotated[State, Depends(_state)]
