"""The contract between a server and its engine: submission, streams of outputs, errors."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Protocol

from ownlm.errors import OwnlmError
from ownlm.inference.request import Request, RequestOutput

UNKNOWN_S = 5.0  # assumed time of an answer before the first one has finished
LONGEST_WAIT_S = 59.0  # longest `Retry-After`: some clients of OpenAI's API ignore a minute or more


class OutputStream:
    """Outputs of one submitted request, as an asynchronous iterator; it raises the error that ends the request.

    All methods belong to the event loop; `cancelled` may be read by any thread.

    Args:
        on_cancel: Frees what the request uses; called by each `cancel`.
    """

    def __init__(self, request: Request, on_cancel: Callable[[], object] = lambda: None) -> None:
        self.request = request
        self.cancelled = False
        self._on_cancel = on_cancel
        self._outputs: asyncio.Queue[RequestOutput | None] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> RequestOutput:
        output = None if self._ended else await self._outputs.get()
        self._ended = output is None or output.finished
        if output is None:
            raise StopAsyncIteration
        if output.error is not None:
            raise output.error
        return output

    def put(self, output: RequestOutput | None) -> None:
        """Adds an output; None ends the stream."""
        self._outputs.put_nowait(output)

    def cancel(self) -> None:
        """Ends the stream and frees what the request uses, at the engine's next step. May be called again."""
        self.cancelled = True
        self._on_cancel()
        self.put(None)


class ServingEngine(Protocol):
    """Answers the requests of many users together."""

    def start(self) -> object:
        """Loads what the first request needs. Called within the event loop; requests may be submitted before it."""
        ...

    def submit(self, request: Request) -> OutputStream:
        """Accepts a request, within the event loop; raises Busy when the queue is full."""
        ...

    def counts(self) -> Mapping[str, float]:
        """Gauges: queued, live, slots_used, slots, hits, misses, evictions, tokens, passes, chosen."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, finishes running requests within that time, and ends the rest with an error."""
        ...


class AnswerTimes:
    """Durations of the last answers, from which waiting times are estimated."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=64)

    def add(self, seconds: float) -> None:
        """Records the duration of a finished answer."""
        self._seconds.append(seconds)

    def wait_s(self, waiting: int, running: int) -> float:
        """Estimated seconds until all waiting requests run, from 1 to LONGEST_WAIT_S.

        wait = mean duration x waiting / running
        """
        mean = fmean(self._seconds) if self._seconds else UNKNOWN_S
        return min(LONGEST_WAIT_S, max(1.0, mean * waiting / max(1, running)))


class Busy(OwnlmError):
    """A caller has too many requests at a time.

    Args:
        option: Option of `ownlm serve` that raises the limit.

    Attributes:
        retry_after: Seconds after which the caller may try again.
    """

    def __init__(self, what: str, retry_after: float, *, expected: object = None, option: str | None = None) -> None:
        raises = f"; whoever runs the server raises the limit with `{option}`" if option else ""
        super().__init__(what, expected=expected, hint=f"try again in {retry_after:.0f} s{raises}")
        self.retry_after = retry_after


class Overloaded(Busy):
    """The server has too many requests, or is stopping."""


class EngineError(OwnlmError, RuntimeError):
    """An answer could not be finished, through no fault of the request."""


class StoppedError(EngineError):
    """The server stopped before an answer was finished."""


class EngineDownError(EngineError):
    """The engine process has ended; the server must be restarted."""


class AnswerTimeoutError(OwnlmError, TimeoutError):
    """An answer took longer than the server's limit."""
