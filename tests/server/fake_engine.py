"""An engine that computes nothing: it says which adapter it was given, and what it was to read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ownlm.errors import OwnlmError
from ownlm.inference.protocol import Busy, OutputStream
from ownlm.inference.request import Request, RequestOutput


class FakeStream(OutputStream):
    """An answer word by word."""

    def __init__(self, request: Request, engine: "FakeEngine") -> None:
        super().__init__(request)
        self.engine, self._words = engine, self._answer()

    async def __anext__(self) -> RequestOutput:
        return await anext(self._words)

    async def _answer(self) -> AsyncIterator[RequestOutput]:
        engine, request = self.engine, self.request
        if engine.error is not None:
            raise engine.error
        own = request.adapter
        adapter = engine.swap or (own.id if own else None)
        words = engine.words or f"{own.user if own else 'base'} read {len(request.prompt)} letters".split()
        words = request.labels[:1] or words
        for place, word in enumerate(words, 1):
            await asyncio.sleep(0)  # others get their words between two of this answer
            await engine.gate.wait()
            if word in engine.before:
                await asyncio.to_thread(engine.before.pop(word))
            engine.said.set()
            last = engine.last_with_text and place == len(words)
            text = ("" if place == 1 else " ") + word
            yield RequestOutput(text, "stop" if last else None, adapter, len(request.prompt), place)
        yield RequestOutput("", "stop", adapter, len(request.prompt), len(words))

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(slots=True)
class FakeEngine:
    """Set `error` to have it fail, `swap` to have another adapter answer, `words` for the answer itself; clear `gate`
    to have it wait.
    """

    error: OwnlmError | None = None
    swap: str | None = None
    full: bool = False
    words: Sequence[str] = ()
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    said: asyncio.Event = field(default_factory=asyncio.Event)
    streams: list[FakeStream] = field(default_factory=list)
    stopped: bool = False
    last_with_text: bool = False  # whether the last word comes with the end of the answer
    before: dict[str, Callable[[], object]] = field(default_factory=dict)  # what happens before a word of the answer
    meanwhile: Callable[[], object] = lambda: None  # what happens between a request and its answer

    def __post_init__(self) -> None:
        self.gate.set()

    def start(self) -> None:
        pass

    def submit(self, request: Request) -> FakeStream:
        if self.full:
            raise Busy("Too much is waiting", retry_after=3.0)
        self.meanwhile()
        self.streams.append(FakeStream(request, self))
        return self.streams[-1]

    def counts(self) -> Mapping[str, float]:
        return {"live": float(len(self.streams))}

    async def stop(self, grace_s: float) -> None:
        self.stopped = True
