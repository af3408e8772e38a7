"""What answers requests: the contract between the address and whatever engine stands behind it."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple, Protocol

from ownlm.errors import OwnlmError
from ownlm.store.rows import AdapterInfo, BaseInfo

Finish = Literal["stop", "length"]
UNKNOWN_S = 5.0  # that an answer takes, where none has ended yet
LONGEST_WAIT_S = 59.0  # that anybody is told to wait: some of OpenAI's clients heed less than a minute alone


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be answered, bound to one adapter version when the request came.

    Attributes:
        adapter: None for the base alone.
        prompt: the whole text, which the engine turns into tokens as `BaseLM.encode_prompt` does; or token ids.
        max_tokens: the answer's most tokens; fewer where the base's context has less room after the prompt.
        temperature: 0 for the likeliest tokens.
        seed: of sampling; None draws one.
        stop: texts that end the answer.
        one_line: whether the answer ends with its first line.
        continues: whether the answer continues the prompt as it stands, with the white space at its ends.
        labels: not empty: answer with the likeliest of these, in one piece.
        caller: whose request it is, by the id of their token: who has fewer answers under way goes first.
    """

    base: BaseInfo
    adapter: AdapterInfo | None
    prompt: str | tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    one_line: bool = False
    continues: bool = False
    labels: tuple[str, ...] = ()
    caller: str = ""


class Piece(NamedTuple):
    """What came since the last piece; the last one says why it is the last."""

    text: str
    finish: Finish | None


class Stream(Protocol):
    """An answer under way: an iterator of pieces. What goes wrong is raised out of it, as an OwnlmError.

    Attributes:
        adapter: id of the adapter that really answers, read from where its weights lie; None for the base.
        prompt_tokens: known from the first piece on.
        completion_tokens: of the pieces given so far.
    """

    adapter: str | None
    prompt_tokens: int
    completion_tokens: int

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces."""
        ...

    def cancel(self) -> None:
        """Nobody waits for the rest: what it takes up is free at the next step. Again is no error."""
        ...


class Engine(Protocol):
    """Answers many people's requests together."""

    def start(self) -> object:
        """Makes ready, within the event loop, so that who asks first waits less. Work is taken on before it, too."""
        ...

    def submit(self, work: Work) -> Stream:
        """Takes work on, within the event loop; raises Busy when the queue is full."""
        ...

    def counts(self) -> Mapping[str, float]:
        """Gauges: queued, live, slots_used, slots, hits, misses, evictions, tokens, passes, chosen."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Takes nothing on any more, finishes what it has within that time, and ends the rest with an error."""
        ...


class Pace:
    """How soon there is room again, from the time that the last answers took."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=64)

    def ended(self, seconds: float) -> None:
        """One more answer is finished, after so many seconds."""
        self._took.append(seconds)

    def wait_s(self, ahead: int, under_way: int) -> float:
        """Seconds in which `ahead` answers end where `under_way` are answered together: 1 to LONGEST_WAIT_S.

        wait = mean time of an answer x ahead / under way
        """
        mean = fmean(self._took) if self._took else UNKNOWN_S
        return min(LONGEST_WAIT_S, max(1.0, mean * ahead / max(1, under_way)))


class Busy(OwnlmError):
    """A caller asks for too much at a time.

    Args:
        option: of `ownlm serve`, that raises the limit.

    Attributes:
        retry_after: seconds after which it may be worth to try again.
    """

    def __init__(self, what: str, retry_after: float, *, expected: object = None, option: str | None = None) -> None:
        raises = f"; whoever runs the server raises the limit with `{option}`" if option else ""
        super().__init__(what, expected=expected, hint=f"try again in {retry_after:.0f} s{raises}")
        self.retry_after = retry_after


class Overloaded(Busy):
    """The server as a whole has too much to do, or is stopping."""


class EngineError(OwnlmError, RuntimeError):
    """An answer could not be finished, through no fault of the request."""


class StoppedError(EngineError):
    """The server stopped before an answer was finished."""


class EngineDownError(EngineError):
    """The engine behind the server has ended, and does not come back until the server is restarted."""


class AnswerTimeoutError(OwnlmError, TimeoutError):
    """An answer took longer than the server's limit."""
