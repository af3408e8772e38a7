"""Limits of a server (sizes, rates, times), and the counters that enforce them per token."""

import time
from collections import Counter, deque

from pydantic import BaseModel, ConfigDict, Field

from ownlm.inference.protocol import Busy, Overloaded
from ownlm.server.admission import Admission

WINDOW_S = 60.0
BODY_OF_ONE = 100_000  # bytes that count as one request more
IDLE = 1024  # tokens in memory before idle ones are looked for


class Limits(BaseModel):
    """Sizes, rates and times."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    body_bytes: int = Field(4_000_000, ge=1, description="of a request")
    bodies_bytes: int = Field(64_000_000, ge=1, description="of all requests under way; of one token, a quarter")
    connections: int = Field(1024, ge=1, description="open in all")
    connections_per_address: int = Field(256, ge=1, description="open of one address, but of this machine's own")
    head_s: float = Field(15.0, gt=0, description="for the headers of a request")
    body_s: float = Field(60.0, gt=0, description="for the body of a request")
    keep_alive_s: float = Field(30.0, gt=0, description="between two requests of a connection")
    stall_s: float = Field(30.0, gt=0, description="in which a client must read some of what it was sent")
    requests_per_minute: int = Field(600, ge=1, description="of one user's token")
    operator_requests_per_minute: int | None = Field(None, ge=1, description="of one operator's token; None for any")
    at_once: int = Field(16, ge=1, description="answers under way of one token")
    queued: int = Field(256, ge=0, description="answers of one token that wait for those")
    wait_s: float = Field(300.0, gt=0, description="of one answer, for its turn among those of its token")
    max_tokens: int = Field(1024, ge=1, description="of an answer")
    records: int = Field(20_000, ge=1, description="of a user and a task")
    history_bytes: int = Field(20_000_000, ge=1, description="of the records of a user and a task, as they are stored")
    prompts: int = Field(128, ge=1, description="of one completion request")
    timeout_s: float = Field(120.0, gt=0, description="of one answer, once its turn has come")
    job_timeout_s: float = Field(21_600.0, gt=0, description="of one process that trains or assembles")
    grace_s: float = Field(20.0, ge=0, description="for answers under way, when the server is stopped")


class Meter:
    """Counts what each token asks for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests: dict[str, deque[float]] = {}  # by token: when its last ones came, on the monotonic clock
        self.admission = Admission(limits.at_once, limits.queued, limits.wait_s)
        self._bodies: Counter[str] = Counter()  # bytes in memory, by token

    def count(self, token: str, operator: bool = False) -> None:
        """Counts one more request of a token.

        Args:
            operator: whether it is an operator's, which has a limit of its own, or none.

        Raises:
            Busy: they were too many within a minute.
        """
        most, option = self._limits.requests_per_minute, "--requests-per-minute"
        if operator:
            if self._limits.operator_requests_per_minute is None:
                return
            most, option = self._limits.operator_requests_per_minute, "--operator-requests-per-minute"
        now = time.monotonic()
        came = self._requests.setdefault(token, deque())
        while came and came[0] <= now - WINDOW_S:
            came.popleft()
        if len(came) >= most:
            wait = max(1.0, came[0] + WINDOW_S - now)
            expected = f"at most {most:,} a minute"
            raise Busy("Too many requests of this token", expected=expected, retry_after=wait, option=option)
        came.append(now)
        if len(self._requests) > IDLE:  # tokens that ask no more take no memory
            self._requests = {one: when for one, when in self._requests.items() if when and when[-1] > now - WINDOW_S}

    def hold(self, token: str, count: int) -> None:
        """Reserves memory for bytes of a token's request bodies until they are released.

        Raises:
            Busy: the token has too many. Overloaded: all have.
        """
        most = self._limits.bodies_bytes
        if self._bodies[token] + count > max(most // 4, self._limits.body_bytes):
            raise Busy("Too many large requests of this token at a time", retry_after=2.0, option="--bodies-mb")
        if self._bodies.total() + count > most:
            raise Overloaded("Too many large requests at a time", retry_after=2.0, option="--bodies-mb")
        self._bodies[token] += count

    def give_back(self, token: str, count: int) -> None:
        """So many bytes are in memory no longer."""
        self._bodies[token] -= count
        if self._bodies[token] <= 0:
            del self._bodies[token]

    def charge(self, token: str, body: int) -> None:
        """Counts a large body as several requests: reading it takes as long."""
        if (came := self._requests.get(token)) is None:  # of an operator without a limit, or without a token
            return
        now = time.monotonic()
        came.extend([now] * min(body // BODY_OF_ONE, max(0, self._limits.requests_per_minute - len(came))))
