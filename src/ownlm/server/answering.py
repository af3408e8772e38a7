"""Answers to HTTP requests: whole, or as server-sent events. They end when the client leaves, or at the time limit."""

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
from ownlm.inference.protocol import AnswerTimeoutError, OutputStream
from ownlm.inference.request import Finish, RequestOutput
from ownlm.server.admission import Turn
from ownlm.server.auth import Caller
from ownlm.server.binding import check_answered, check_there
from ownlm.server.errors import about_field, document, message_of, status_of
from ownlm.server.state import State
from ownlm.workflows.ask import Assignment

T = TypeVar("T")
LOOK_S = 1.0  # time between two checks of a stream that its token and its adapter still exist
DONE = format_sse_event(data_str="[DONE]")


class ClientLeft(Exception):
    """The client has disconnected."""


@dataclass(frozen=True, slots=True)
class Answering:
    """An HTTP request that is being answered.

    Attributes:
        assigned: What answers: for one question, or for several texts to be continued.
        ignored: Number of messages that are not read; None where the request has no messages.
    """

    state: State
    caller: Caller
    model: str
    assigned: list[Assignment]
    ignored: int | None
    id: str = field(default_factory=lambda: f"ownlm-{uuid4().hex}")
    started: float = field(default_factory=time.perf_counter)
    created: int = field(default_factory=lambda: int(time.time()))

    def document(
        self, kind: str, choices: list[dict[str, Any]], answers: list[RequestOutput] | None = None
    ) -> dict[str, Any]:
        """Returns a document of OpenAI's API; with complete answers also their usage, and what we add."""
        sent = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        if answers is None:
            return sent
        return sent | {"usage": usage(answers), "ownlm": extras(self.assigned[0], self.ignored)}

    def join(self, stack: ExitStack) -> list[Turn]:
        """Queues the answers; those that have not ended leave the queue with the stack.

        Raises:
            Busy: Too many answers of the caller wait already.
        """
        bounded = not self.caller.is_operator  # an operator asks for many users; the engine's queue bounds them
        return self.state.meter.admission.join(stack, self.caller.token.id, len(self.assigned), bounded)

    async def outputs(self, one: Assignment, turn: Turn) -> AsyncIterator[RequestOutput]:
        """Yields the outputs of one answer, which begins when its turn comes.

        Raises:
            OwnlmError: The turn or the answer does not come in time, or the engine fails. If the user, their token or
                the adapter were deleted in between, that is the error.
        """
        try:
            async with turn:
                stream = self.state.engine.submit(replace(one.request, caller=self.caller.token.id))
                output = None
                try:
                    while output is None or output.finish is None:
                        first = output is None
                        output = await self._next(one, turn.began, stream)
                        if first:
                            check_answered(one, output.adapter)
                            self.state.metrics.first_token.observe(time.perf_counter() - self.started)
                        yield output
                finally:
                    stream.cancel()
        except OwnlmError as error:
            self._count_failure(one, error)
            raise

    async def _next(self, one: Assignment, began: float, stream: OutputStream) -> RequestOutput:
        limit = self.state.limits.timeout_s
        try:
            try:
                return await asyncio.wait_for(anext(stream), max(0.0, began + limit - time.monotonic()))
            except (TimeoutError, StopAsyncIteration):
                raise AnswerTimeoutError(
                    "The answer took too long", expected=f"{limit:g} s at most", hint="ask for fewer tokens"
                ) from None
        except OwnlmError:
            await self.check_exists(one)
            with about_field("prompt" if self.ignored is None else "messages"):
                raise

    async def check_exists(self, one: Assignment) -> None:
        """Raises an AccessError or an AdapterError where the token or the adapter was deleted."""

        def check() -> None:
            self.caller.check_still_there(self.state)
            check_there(self.state.home, one)

        await to_thread.run_sync(check, limiter=self.state.readers)

    async def check_leaving(self, one: Assignment, output: RequestOutput) -> None:
        """Checks once more whether a finished answer may leave; an AccessError or AdapterError where it may not."""
        assert output.finish is not None
        try:
            check_answered(one, output.adapter)
            await self.check_exists(one)
        except OwnlmError as error:
            self._count_failure(one, error)
            raise
        seconds, tokens = time.perf_counter() - self.started, (output.prompt_tokens, output.completion_tokens)
        self.state.metrics.answered(_how(one), output.finish, *tokens, seconds)

    def _count_failure(self, one: Assignment, error: OwnlmError) -> None:
        self.state.metrics.failed(_how(one), status_of(error)[1])


def extras(one: Assignment, ignored_messages: int | None = None) -> dict[str, Any]:
    """Returns the fields of an answer beside those of OpenAI's API."""
    answered = {
        "adapter": one.request.adapter.id if one.request.adapter else None,
        "base": one.request.base.name,
        "warning": one.warning,
        "retrieved": list(one.retrieved),
    }
    return answered if ignored_messages is None else answered | {"ignored_messages": ignored_messages}


def usage(answers: list[RequestOutput]) -> dict[str, int]:
    """Returns the numbers of tokens in prompts and answers."""
    prompts, completions = sum(one.prompt_tokens for one in answers), sum(one.completion_tokens for one in answers)
    return {"prompt_tokens": prompts, "completion_tokens": completions, "total_tokens": prompts + completions}


async def whole(request: Request, answering: Answering) -> list[RequestOutput]:
    """Returns the last output of each answer, with its whole text.

    Raises:
        OwnlmError: One of them cannot be given.
        ClientLeft: The client has disconnected.
    """

    async def answer(one: Assignment, turn: Turn) -> RequestOutput:
        outputs = [output async for output in answering.outputs(one, turn)]
        await answering.check_leaving(one, outputs[-1])
        return replace(outputs[-1], text="".join(output.text for output in outputs))

    with ExitStack() as stack:
        turns = answering.join(stack)
        tasks = [asyncio.ensure_future(answer(*one)) for one in zip(answering.assigned, turns, strict=True)]
        for task in tasks:
            stack.callback(task.cancel)  # before its place is given back
        return await _unless_left(request, asyncio.gather(*tasks))


async def _unless_left(request: Request, work: Awaitable[T]) -> T:
    """Waits for work; when the client leaves, cancels it and raises ClientLeft."""
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


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events. What the answers use is free when they end, even where they never began."""

    def __init__(self, content: AsyncIterator[bytes], stack: ExitStack) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        with self._stack:
            await super().__call__(scope, receive, send)


Part = tuple[int, RequestOutput]  # the index of an answer, and one of its outputs


async def events(request: Request, answering: Answering, kind: str, with_usage: bool) -> Events:
    """Returns answers as server-sent events, each with its index, once the first output of all has come.

    Raises:
        OwnlmError: One of them cannot be given.
        ClientLeft: The client has disconnected.
    """
    stack, parts = ExitStack(), asyncio.Queue[Part | Exception]()

    async def produce(index: int, turn: Turn) -> None:
        try:
            async for output in answering.outputs(answering.assigned[index], turn):
                parts.put_nowait((index, output))
        except Exception as error:
            parts.put_nowait(error)

    try:
        for index, turn in enumerate(answering.join(stack)):
            task = asyncio.ensure_future(produce(index, turn))
            stack.callback(task.cancel)  # before its place is given back
        first = await _unless_left(request, _next_part(parts))
        checked = time.monotonic()
        await answering.check_exists(answering.assigned[first[0]])
    except BaseException:
        stack.close()
        raise
    return Events(_events(answering, kind, with_usage, parts, first, checked), stack)


async def _next_part(parts: asyncio.Queue[Part | Exception]) -> Part:
    part = await parts.get()
    if isinstance(part, Exception):
        raise part
    return part


async def _events(
    answering: Answering, kind: str, with_usage: bool, parts: asyncio.Queue[Part | Exception], part: Part,
    checked: float,
) -> AsyncIterator[bytes]:  # fmt: skip
    """Yields the events of a stream. No text leaves later than LOOK_S after a check of the token and the adapter."""
    chat, finished = kind.startswith("chat"), list[RequestOutput]()
    try:
        if chat:
            yield _event(answering.document(kind, [_choice(chat, 0, {"role": "assistant", "content": ""})]))
        while True:
            index, output = part
            one = answering.assigned[index]
            if output.finish is not None:
                await answering.check_leaving(one, output)
            elif time.monotonic() > checked + LOOK_S:
                checked = time.monotonic()
                await answering.check_exists(one)
            if output.text:
                yield _event(answering.document(kind, [_choice(chat, index, _content(chat, output.text))]))
            if output.finish is not None:
                last = _choice(chat, index, _content(chat, None), output.finish)
                yield _event(answering.document(kind, [last]) | {"ownlm": extras(one, answering.ignored)})
                finished.append(output)
                if len(finished) == len(answering.assigned):
                    break
            part = await _next_part(parts)
        if with_usage:
            yield _event(answering.document(kind, []) | {"usage": usage(finished)})
    except OwnlmError as error:
        yield _event(document(message_of(error), *status_of(error), error.param))
    else:
        yield DONE


def _how(one: Assignment) -> str:
    return "chosen" if one.request.labels else "written"


def _content(chat: bool, text: str | None) -> dict[str, Any]:
    return ({} if text is None else {"content": text}) if chat else {"text": text or ""}


def _choice(chat: bool, index: int, content: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
    return {"index": index, **({"delta": content} if chat else content), "logprobs": None, "finish_reason": finish}


def _event(content: dict[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(content))
