"""Answers under way: whole, or as a stream of events; ended when the client leaves, or when they take too long."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from uuid import uuid4

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from ownlm.errors import OwnlmError
from ownlm.server.admission import Ticket
from ownlm.server.auth import Caller
from ownlm.server.binding import Bound, check_answered, check_there
from ownlm.server.engine import AnswerTimeoutError, Finish, Piece, Stream
from ownlm.server.errors import about_field, document, message_of, status_of
from ownlm.server.state import State

T = TypeVar("T")
LOOK_S = 1.0  # how often a stream looks whether its token and its adapter are still there
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
    def prompt_field(self) -> str:
        """The field of the request that holds what is to be answered."""
        return "prompt" if self.ignored is None else "messages"

    def take(self, stack: ExitStack) -> list[Ticket]:
        """Places for its answers, which are given back with the stack.

        Raises:
            Busy: too many answers of the caller wait already.
        """
        bounded = not self.caller.is_operator  # who asks for many; the engine's queue bounds them
        tickets = self.state.meter.admission.take(self.caller.token.id, len(self.bounds), bounded)
        for ticket in tickets:
            stack.callback(ticket.give_back)
        return tickets

    async def begin(self, bound: Bound, ticket: Ticket, stack: ExitStack) -> Stream:
        """Has the engine begin with an answer when its turn comes; what was begun ends with the stack.

        Raises:
            Busy: the turn did not come in time, or the engine takes no more on.
        """
        await ticket.wait(self.state.limits.wait_s)
        stream = self.state.engine.submit(replace(bound.work, caller=self.caller.token.id))
        stack.callback(stream.cancel)
        return stream

    async def next(self, bound: Bound, ticket: Ticket, pieces: AsyncIterator[Piece]) -> Piece:
        """The next piece of an answer.

        Raises:
            OwnlmError: it does not come, or not in time. Where the person, their token or the adapter went meanwhile,
                that is the error, whatever the engine missed for it.
        """
        try:
            return await self._next(ticket, pieces)
        except OwnlmError:
            await self.look(bound)
            with about_field(self.prompt_field):
                raise

    def note_failure(self, bound: Bound, error: OwnlmError) -> None:
        """Counts an answer that failed, be it before its stream began or in its midst."""
        self.state.metrics.failed(_how(bound), status_of(error)[1])

    async def _next(self, ticket: Ticket, pieces: AsyncIterator[Piece]) -> Piece:
        most = self.state.limits.timeout_s
        try:
            piece = await asyncio.wait_for(anext(pieces), max(0.0, ticket.began + most - time.monotonic()))
            if piece.finish is not None:
                ticket.give_back(finished=True)
            return piece
        except (TimeoutError, StopAsyncIteration):
            raise AnswerTimeoutError(
                "The answer took too long", expected=f"{most:g} s at most", hint="ask for fewer tokens"
            ) from None

    def first(self, bound: Bound, stream: Stream) -> None:
        """The first piece is there."""
        check_answered(bound, stream)
        self.state.metrics.first_token.observe(time.perf_counter() - self.started)

    async def look(self, bound: Bound) -> None:
        """Raises an AccessError or an AdapterError where the token or the adapter is gone."""
        await to_thread.run_sync(self._check_there, bound, limiter=self.state.readers)

    async def check_leaving(self, bound: Bound, stream: Stream, finish: Finish) -> None:
        """Looks once more whether the answer may leave; an AccessError or AdapterError where it may not."""
        check_answered(bound, stream)
        await self.look(bound)
        seconds = time.perf_counter() - self.started
        self.state.metrics.answered(
            _how(bound), finish, stream.prompt_tokens, stream.completion_tokens, seconds
        )  # fmt: skip

    def _check_there(self, bound: Bound) -> None:
        self.caller.check_still_there(self.state)
        check_there(self.state.home, bound)


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
        work = [
            asyncio.ensure_future(_gathered(answering, bound, ticket, stack))
            for bound, ticket in zip(answering.bounds, answering.take(stack), strict=True)
        ]
        for one in work:
            stack.callback(one.cancel)  # before its place is given back
        return await _unless_left(request, asyncio.gather(*work))


async def _unless_left(request: Request, work: Awaitable[T]) -> T:
    """What comes of work, which ends when the client leaves: with ClientLeft."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_until_left(request))
    left.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if left.done() and not left.cancelled():
            raise ClientLeft from None
        raise
    finally:
        left.cancel()


async def _gathered(answering: Answering, bound: Bound, ticket: Ticket, stack: ExitStack) -> Whole:
    try:
        return await _whole(answering, bound, ticket, stack)
    except OwnlmError as error:
        answering.note_failure(bound, error)
        raise


async def _whole(answering: Answering, bound: Bound, ticket: Ticket, stack: ExitStack) -> Whole:
    stream = await answering.begin(bound, ticket, stack)
    pieces, texts = aiter(stream), list[str]()
    while True:
        piece = await answering.next(bound, ticket, pieces)
        if not texts:
            answering.first(bound, stream)
        texts.append(piece.text)
        if piece.finish is not None:
            await answering.check_leaving(bound, stream, piece.finish)
            return Whole("".join(texts), piece.finish, stream.prompt_tokens, stream.completion_tokens)


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events. What the answer takes up is free when they end, even where they never began."""

    def __init__(self, content: AsyncIterator[bytes], stack: ExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        with self._stack:
            await super().__call__(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of one of the answers of a stream.

    Attributes:
        index: of the answer.
    """

    index: int
    stream: Stream
    piece: Piece


Parts = asyncio.Queue[_Part | Exception]


async def events(request: Request, answering: Answering, kind: str, with_usage: bool) -> Events:
    """Answers as server-sent events, each with its index; the first piece of all is there when this returns.

    Raises:
        OwnlmError: one cannot be given. ClientLeft: the client has disconnected.
    """
    stack, parts = ExitStack(), Parts()
    try:
        for index, ticket in enumerate(answering.take(stack)):
            task = asyncio.ensure_future(_produce(answering, index, ticket, stack, parts))
            stack.callback(task.cancel)  # before its place is given back
        first = await _unless_left(request, _next_part(parts))
        looked = time.monotonic()
        await answering.look(answering.bounds[first.index])
    except BaseException:
        stack.close()
        raise
    return Events(_events(answering, kind, with_usage, parts, first, looked), stack)


async def _produce(answering: Answering, index: int, ticket: Ticket, stack: ExitStack, parts: Parts) -> None:
    """Puts the pieces of an answer where those of all answers of its stream come together; or its error."""
    bound, begun = answering.bounds[index], False
    try:
        stream = await answering.begin(bound, ticket, stack)
        pieces = aiter(stream)
        while True:
            piece = await answering.next(bound, ticket, pieces)
            if not begun:
                answering.first(bound, stream)
                begun = True
            parts.put_nowait(_Part(index, stream, piece))
            if piece.finish is not None:
                return
    except Exception as error:
        if isinstance(error, OwnlmError):
            answering.note_failure(bound, error)
        parts.put_nowait(error)


async def _next_part(parts: Parts) -> _Part:
    part = await parts.get()
    if isinstance(part, Exception):
        raise part
    return part


async def _events(
    answering: Answering, kind: str, with_usage: bool, parts: Parts, part: _Part, looked: float
) -> AsyncIterator[bytes]:
    """The events of a stream; no piece leaves later than LOOK_S after a look at the token and the adapter."""
    chat, ended = kind.startswith("chat"), list[Whole]()
    try:
        if chat:
            yield _event(answering.document(kind, [_choice(chat, 0, {"role": "assistant", "content": ""})]))
        while True:
            bound, stream, piece = answering.bounds[part.index], part.stream, part.piece
            if piece.finish is not None:
                await answering.check_leaving(bound, stream, piece.finish)
            elif time.monotonic() > looked + LOOK_S:
                looked = time.monotonic()
                await answering.look(bound)
            if piece.text:
                yield _event(answering.document(kind, [_choice(chat, part.index, _said(chat, piece.text))]))
            if piece.finish is not None:
                last = _choice(chat, part.index, _said(chat, None), piece.finish)
                yield _event(answering.document(kind, [last]) | {"ownlm": bound.extras(answering.ignored)})
                ended.append(Whole("", piece.finish, stream.prompt_tokens, stream.completion_tokens))
                if len(ended) == len(answering.bounds):
                    break
            part = await _next_part(parts)
        if with_usage:
            yield _event(answering.document(kind, []) | {"usage": usage(ended)})
    except OwnlmError as error:
        yield _event(document(message_of(error), *status_of(error), error.param))
    else:
        yield DONE


def _how(bound: Bound) -> str:
    return "chosen" if bound.work.labels else "written"


def _said(chat: bool, text: str | None) -> dict[str, Any]:
    return ({} if text is None else {"content": text}) if chat else {"text": text or ""}


def _choice(chat: bool, index: int, said: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
    return {"index": index, **({"delta": said} if chat else said), "logprobs": None, "finish_reason": finish}


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content))
