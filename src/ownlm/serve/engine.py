"""What answers: work goes in, bound to one version of an adapter, and text comes out piece by piece."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ownlm.errors import OwnlmError
from ownlm.store.rows import AdapterInfo, BaseInfo

Finish = Literal["stop", "length"]


class Busy(OwnlmError):
    """There is too much to do just now.

    Attributes:
        retry_after: seconds after which it may be tried again.
    """

    def __init__(self, what: str, *, expected: object = None, retry_after: float) -> None:
        super().__init__(what, expected=expected, hint=f"try again in {retry_after:.0f} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be answered, bound to one version of an adapter when the request came.

    Attributes:
        adapter: None for the base alone.
        prompt: all that the model reads.
        temperature: 0 for the most likely token each time.
        seed: of what is drawn; None to draw one.
        stop: texts that end the answer, and are no part of it.
        one_line: whether the answer ends with its first line.
        labels: where there are any, the likeliest of them is the answer, in one piece.
    """

    base: BaseInfo
    adapter: AdapterInfo | None
    prompt: str
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    one_line: bool = False
    labels: tuple[str, ...] = ()


class Piece(NamedTuple):
    """What came since the last piece; the last one says why it is the last."""

    text: str
    finish: Finish | None


class Stream(Protocol):
    """An answer as it comes; iterating raises an OwnlmError where it cannot be given.

    Attributes:
        adapter: id of the adapter that really answers, as the slot has it; None for the base alone.
        prompt_tokens: known from the first piece on.
        completion_tokens: so far.
    """

    adapter: str | None
    prompt_tokens: int
    completion_tokens: int

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """Frees what the answer takes; twice is no error."""


class Engine(Protocol):
    """Answers many people's work together."""

    def submit(self, work: Work) -> Stream:
        """Begins an answer; called within the event loop.

        Raises:
            Busy: too many wait already.
        """

    def counts(self) -> Mapping[str, float]:
        """What it does just now, by name, for who watches it."""

    async def stop(self, grace_s: float) -> None:
        """Ends; what is under way may take so long."""
