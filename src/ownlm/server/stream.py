"""An answer on its way from the thread that makes it to the event loop that waits for it."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from ownlm.errors import OwnlmError
from ownlm.server.engine import Piece, Work


@dataclass(frozen=True, slots=True)
class News:
    """What a pass brought for one stream."""

    stream: "OwnStream"
    what: Piece | OwnlmError
    adapter: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ends(self) -> bool:
        """Whether nothing follows."""
        return isinstance(self.what, OwnlmError) or self.what.finish is not None


class OwnStream:
    """See `Stream`. All but `cancelled` belongs to the event loop."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.adapter: str | None = None
        self.prompt_tokens = self.completion_tokens = 0
        self.cancelled = False
        self.began = time.monotonic()  # when it joined the batch
        self._ended = False
        self._came: asyncio.Queue[News | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        news = None if self._ended else await self._came.get()
        if news is None:
            self._ended = True
            raise StopAsyncIteration
        self.adapter, self.prompt_tokens = news.adapter, news.prompt_tokens
        self.completion_tokens = news.completion_tokens
        if isinstance(news.what, OwnlmError):
            self._ended = True
            raise news.what
        self._ended = news.what.finish is not None
        return news.what

    def cancel(self) -> None:
        """Ends it: who iterates gets nothing more."""
        self.cancelled = True
        self._came.put_nowait(None)

    def hear(self, news: News) -> None:
        """Something came."""
        self._came.put_nowait(news)
