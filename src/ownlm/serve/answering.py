"""Answers under way: whole, or as a stream of events; ended when the client leaves, or when they take too long."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event

from ownlm.errors import AdapterError, ConfigError, OwnlmError
from ownlm.serve.binding import Bound, check_leaving
from ownlm.serve.engine import Finish, Piece, Stream
from ownlm.serve.refusals import document, status_of
from ownlm.serve.state import State
from ownlm.serve.who import Caller

DONE = format_sse_event(data_str="[DONE]")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is complete."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answering:
    """A request that is being answered.

    Attributes:
        bounds: what is to be answered: one thing, or several texts to be continued.
        ignored: messages that are not read; None where there are no messages.
    """

    state: State
    caller: Caller
    model: str
    bounds: list[Bound]
    ignored: int | None
    id: str = field(default_factory=lambda: f"ownlm-{uuid4().hex}")
    started: float = field(default_factory=time.perf_counter)
    created: int = field(default_factory=lambda: int(time.time()))

    def document(self, kind: str, choices: list[dict[str, Any]], answers: list[Whole] | None = None) -> dict[str, Any]:
        """What is sent, as OpenAI's API has it, with what we tell beside it once the answers are there."""
        told = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        return told if answers is None else told | {"usage": usage(answers), "ownlm": self.extras()}

    def extras(self) -> dict[str, Any]:
        """What we tell beside what OpenAI's API has."""
        return self.bounds[0].extras(self.ignored)

    @property
    def left_s(self) -> float:
        """Seconds that the answer may still take."""
        return self.state.limits.timeout_s - (time.perf_counter() - self.started)

    def begin(self, stack: ExitStack) -> list[Stream]:
        """Has the engine begin; what was begun ends with the stack.

        Raises:
            Busy: too much is under way.
        """
        streams = []
        for bound in self.bounds:
            stack.enter_context(self.state.meter.answering(self.caller.token.id))
            streams.append(self.state.engine.submit(bound.work))
            stack.callback(streams[-1].cancel)
        return streams

    async def next(self, pieces: AsyncIterator[Piece]) -> Piece:
        """The next piece of an answer; an OwnlmError where it does not come in time."""
        try:
            return await asyncio.wait_for(anext(pieces), max(0.0, self.left_s))
        except (TimeoutError, StopAsyncIteration):
            most = self.state.limits.timeout_s
            raise OwnlmError("The answer took too long", expected=f"{most:g} s at most", hint="try again") from None

    def first(self, bound: Bound, stream: Stream) -> None:
        """The first piece is there."""
        own = bound.work.adapter
        if stream.adapter != (own.id if own else None):
            raise AdapterError("Another adapter answered than was asked; the answer is kept back", hint="ask again")
        self.state.metrics.first_token.observe(time.perf_counter() - self.started)

    async def check_leaving(self, bound: Bound, stream: Stream) -> None:
        """Looks once more whether the answer may leave; an AccessError or AdapterError where it may not."""

        def check() -> None:
            self.caller.check_still_there(self.state)
            check_leaving(self.state.home, bound, stream)

        await run_in_threadpool(check)
        self.state.metrics.tokens.labels("prompt").inc(stream.prompt_tokens)
        self.state.metrics.tokens.labels("answer").inc(stream.completion_tokens)


def usage(answers: list[Whole]) -> dict[str, int]:
    """How many tokens went in and came out."""
    given, made = sum(one.prompt_tokens for one in answers), sum(one.completion_tokens for one in answers)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


async def whole(request: Request, answering: Answering) -> list[Whole]:
    """All answers.

    Raises:
        OwnlmError: one of them cannot be given. ClientLeft: nobody waits for them any more.
    """
    with ExitStack() as stack:
        streams = answering.begin(stack)
        work = asyncio.gather(*map(_gathered, [answering] * len(streams), answering.bounds, streams))
        left = asyncio.ensure_future(_until_left(request))
        left.add_done_callback(lambda _: work.cancel())
        stack.callback(left.cancel)
        try:
            return await work
        except asyncio.CancelledError:
            if left.done() and not left.cancelled():
                raise ClientLeft from None
            raise


async def _gathered(answering: Answering, bound: Bound, stream: Stream) -> Whole:
    pieces, texts = aiter(stream), list[str]()
    while True:
        piece = await answering.next(pieces)
        if not texts:
            answering.first(bound, stream)
        texts.append(piece.text)
        if piece.finish is not None:
            await answering.check_leaving(bound, stream)
            return Whole("".join(texts), piece.finish, stream.prompt_tokens, stream.completion_tokens)


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def events(answering: Answering, kind: str, with_usage: bool) -> AsyncIterator[bytes]:
    """One answer, as server-sent events; its first piece is there when this returns.

    Raises:
        OwnlmError: it cannot be given.
    """
    if len(answering.bounds) > 1:
        raise ConfigError("One text is streamed at a time", got=len(answering.bounds), hint="ask for each by itself")
    stack = ExitStack()
    try:
        (stream,) = answering.begin(stack)
        pieces = aiter(stream)
        first = await answering.next(pieces)
        answering.first(answering.bounds[0], stream)
    except BaseException:
        stack.close()
        raise
    return _events(answering, kind, with_usage, stream, pieces, first, stack)


async def _events(
    answering: Answering, kind: str, with_usage: bool, stream: Stream, pieces: AsyncIterator[Piece], piece: Piece,
    stack: ExitStack,
) -> AsyncIterator[bytes]:  # fmt: skip
    chat = kind.startswith("chat")
    with stack:
        try:
            if chat:
                yield _event(answering.document(kind, [_choice(chat, {"role": "assistant", "content": ""})]))
            while True:
                if piece.text:
                    yield _event(answering.document(kind, [_choice(chat, _said(chat, piece.text))]))
                if piece.finish is not None:
                    break
                piece = await answering.next(pieces)
            await answering.check_leaving(answering.bounds[0], stream)
            last = _choice(chat, _said(chat, None), piece.finish)
            yield _event(answering.document(kind, [last]) | {"ownlm": answering.extras()})
            if with_usage:
                told = Whole("", piece.finish, stream.prompt_tokens, stream.completion_tokens)
                yield _event(answering.document(kind, []) | {"usage": usage([told])})
        except OwnlmError as error:
            yield _event(document(str(error), *status_of(error)))
        yield DONE


def _said(chat: bool, text: str | None) -> dict[str, Any]:
    return ({} if text is None else {"content": text}) if chat else {"text": text or ""}


def _choice(chat: bool, said: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
    return {"index": 0, **({"delta": said} if chat else said), "logprobs": None, "finish_reason": finish}


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content, ensure_ascii=False))
