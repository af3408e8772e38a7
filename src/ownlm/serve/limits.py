"""What a server allows, and who had too much of it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field

from ownlm.serve.engine import Busy


class Limits(BaseModel):
    """Sizes, rates and times."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(4_000_000, ge=1, description="of a request")
    requests_per_minute: int = Field(600, ge=1, description="of one token")
    at_once: int = Field(16, ge=1, description="answers under way of one token")
    max_tokens: int = Field(1024, ge=1, description="of an answer")
    records: int = Field(20_000, ge=1, description="of a person and a task")
    prompts: int = Field(16, ge=1, description="of one completion request")
    timeout_s: float = Field(120.0, gt=0, description="of one answer, waiting included")
    job_timeout_s: float = Field(21_600.0, gt=0, description="of one process that trains or assembles")
    grace_s: float = Field(20.0, ge=0, description="for answers under way, when the server is stopped")


class Meter:
    """Counts what each token asks for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rate = RateLimitItemPerMinute(limits.requests_per_minute)
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._under_way: Counter[str] = Counter()

    def count(self, token: str) -> None:
        """One more request of a token.

        Raises:
            Busy: they were too many within a minute.
        """
        if not self._window.hit(self._rate, token):
            free_at = self._window.get_window_stats(self._rate, token).reset_time
            raise Busy(
                "Too many requests of this token", expected=f"{self._limits.requests_per_minute} a minute",
                retry_after=max(1.0, free_at - time.time()),
            )  # fmt: skip

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
