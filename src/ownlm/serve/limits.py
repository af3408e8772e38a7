"""What a server allows, and who had too much of it."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field

from ownlm.serve.engine import Busy

WINDOW_S = 60.0
IDLE = 1024  # tokens in memory before idle ones are looked for


class Limits(BaseModel):
    """Sizes, rates and times."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(4_000_000, ge=1, description="of a request")
    requests_per_minute: int = Field(600, ge=1, description="of one token")
    at_once: int = Field(16, ge=1, description="answers under way of one token")
    max_tokens: int = Field(1024, ge=1, description="of an answer")
    records: int = Field(20_000, ge=1, description="of a person and a task")
    prompts: int = Field(128, ge=1, description="of one completion request")
    timeout_s: float = Field(120.0, gt=0, description="of one answer, waiting included")
    job_timeout_s: float = Field(21_600.0, gt=0, description="of one process that trains or assembles")
    grace_s: float = Field(20.0, ge=0, description="for answers under way, when the server is stopped")


class Meter:
    """Counts what each token asks for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests: dict[str, deque[float]] = {}  # by token: when its last ones came, on the monotonic clock
        self._under_way: Counter[str] = Counter()

    def count(self, token: str) -> None:
        """One more request of a token.

        Raises:
            Busy: they were too many within a minute.
        """
        now, most = time.monotonic(), self._limits.requests_per_minute
        came = self._requests.setdefault(token, deque())
        while came and came[0] <= now - WINDOW_S:
            came.popleft()
        if len(came) >= most:
            wait = max(1.0, came[0] + WINDOW_S - now)
            raise Busy("Too many requests of this token", expected=f"{most} a minute", retry_after=wait)
        came.append(now)
        if len(self._requests) > IDLE:  # tokens that ask no more take no memory
            self._requests = {one: when for one, when in self._requests.items() if when[-1] > now - WINDOW_S}

    @contextmanager
    def answering(self, token: str) -> Iterator[None]:
        """While it lasts, an answer of a token is under way.

        Raises:
            Busy: too many of them are.
        """
        if self._under_way[token] >= self._limits.at_once:
            raise Busy(
                "Too many answers of this token are under way", expected=f"{self._limits.at_once} at once",
                retry_after=1.0,
            )  # fmt: skip
        self._under_way[token] += 1
        try:
            yield
        finally:
            self._under_way[token] -= 1
            if not self._under_way[token]:
                del self._under_way[token]
