"""What an engine is: it answers, each time with one person's adapter."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ownlm.errors import OwnlmError
from ownlm.store.rows import AdapterInfo, BaseInfo


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be answered, bound to one adapter version when the request came.

    Attributes:
        adapter: None for the base alone.
        prompt: the whole text.
        temperature: 0 for the likeliest token each time.
        seed: of sampling; None draws one.
        stop: the answer ends before the first of these.
        one_line: the answer ends with its first line.
        labels: not empty: the answer is the likeliest of these, in one piece.
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
    finish: Literal["stop", "length"] | None


class Stream(Protocol):
    """An answer as it comes.

    Attributes:
        adapter: id of the adapter that really answered.
        prompt_tokens: known from the first piece on.
    """

    adapter: str | None
    prompt_tokens: int
    completion_tokens: int

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def cancel(self) -> None:
        """Nobody wants the rest. May be said twice."""


class Engine(Protocol):
    """Answers many people at once."""

    def submit(self, work: Work) -> Stream:
        """Takes a request, in the event loop; raises Busy where too many wait."""

    def counts(self) -> Mapping[str, float]:
        """Numbers for those who watch it."""

    async def stop(self, grace_s: float) -> None:
        """Finishes what is under way if that takes no longer, and ends the rest with an error."""


class Busy(OwnlmError):
    """Too many wait; try again after `retry_after` seconds."""

    retry_after: float
