"""Answers to HTTP requests, as they come. They end when the client leaves, or at the time limit."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import TypeVar

import fastapi
from anyio import to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ownlm.errors import OwnlmError
from ownlm.inference.protocol import AnswerTimeoutError
from ownlm.inference.request import RequestOutput
from ownlm.server.auth import Caller
from ownlm.server.binding import check_answered, check_there
from ownlm.server.errors import about_field, status_of
from ownlm.server.state import State
from ownlm.workflows.ask import Assignment

T = TypeVar("T")
LOOK_S = 1.0  # time between two checks of an answer that its token and its adapter still exist


class ClientLeft(Exception):
    """The client has disconnected."""


async def answer(
    state: State, caller: Caller, assigned: Sequence[Assignment], field: str
) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """Yields the outputs of all requests as they come, each with its request's index; closing it cancels the rest.

    Requests take turns with the caller's others. No text leaves later than LOOK_S after a check of the token and the
    adapter, and no answer ends without one.

    Args:
        assigned: What answers each request.
        field: Name of the field with the prompts, for errors.

    Raises:
        Busy: Too many answers of the caller wait already.
        OwnlmError: A turn or an answer does not come in time, or the engine fails. If the user, their token or the
            adapter were deleted in between, that is the error.
    """
    began, checked, unfinished = time.perf_counter(), -LOOK_S, len(assigned)
    parts = asyncio.Queue[tuple[int, RequestOutput | Exception]]()

    async def run(index: int) -> None:
        try:
            async with turns[index]:
                with about_field(field):
                    await _answer_one(state, caller, assigned[index], began, lambda one: parts.put_nowait((index, one)))
        except Exception as error:
            parts.put_nowait((index, error))

    bounded = not caller.is_operator  # an operator asks for many users; the engine's queue bounds them
    with ExitStack() as stack:
        turns = state.meter.admission.join(stack, caller.token.id, len(assigned), bounded)
        tasks = [asyncio.create_task(run(index)) for index in range(len(turns))]
        for task in tasks:
            stack.callback(task.cancel)  # before its place is given back
        while unfinished:
            index, output = await parts.get()
            one, seconds = assigned[index], time.perf_counter() - began
            how = "chosen" if one.request.labels else "written"
            try:
                if isinstance(output, Exception):
                    raise output
                if output.finish is not None or time.monotonic() > checked + LOOK_S:
                    checked = time.monotonic()
                    check_answered(one, output.adapter)
                    await _check_exists(state, caller, one)
            except OwnlmError as error:
                state.metrics.failed(how, status_of(error)[1])
                raise
            if output.finish is not None:
                unfinished -= 1
                tokens = output.prompt_tokens, output.completion_tokens
                state.metrics.answered(how, output.finish, *tokens, seconds)
            yield index, output


async def _answer_one(
    state: State, caller: Caller, one: Assignment, began: float, put: Callable[[RequestOutput], None]
) -> None:
    """Puts the outputs of one request, whose turn has come."""
    limit, begun = state.limits.timeout_s, False
    stream = state.engine.submit(replace(one.request, caller=caller.token.id))
    try:
        async with asyncio.timeout(limit):
            async for output in stream:
                if not begun:
                    check_answered(one, output.adapter)
                    state.metrics.first_token.observe(time.perf_counter() - began)
                begun = True
                put(output)
                if output.finish is not None:
                    return
            raise TimeoutError
    except (OwnlmError, TimeoutError) as error:
        await _check_exists(state, caller, one)
        if isinstance(error, OwnlmError):
            raise
        expected = f"{limit:g} s at most"
        raise AnswerTimeoutError("The answer took too long", expected=expected, hint="ask for fewer tokens") from None
    finally:
        stream.cancel()


async def _check_exists(state: State, caller: Caller, one: Assignment) -> None:
    """Raises an AccessError or an AdapterError where the token or the adapter was deleted."""

    def check() -> None:
        caller.check_still_there(state)
        check_there(state.home, one)

    await to_thread.run_sync(check, limiter=state.readers)


async def whole(client: fastapi.Request, parts: AsyncGenerator[tuple[int, RequestOutput]]) -> list[RequestOutput]:
    """Returns the last output of each answer, with its whole text.

    Raises:
        OwnlmError: One of them cannot be given.
        ClientLeft: The client has disconnected.
    """
    answers = dict[int, RequestOutput]()

    async def read() -> None:
        async for index, output in parts:
            before = answers[index].text if index in answers else ""
            answers[index] = replace(output, text=before + output.text)

    async with aclosing(parts):
        await unless_left(client, read())
    return [answers[index] for index in sorted(answers)]


async def unless_left(client: fastapi.Request, work: Awaitable[T]) -> T:
    """Waits for work; when the client leaves, cancels it and raises ClientLeft."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_until_left(client))
    left.add_done_callback(lambda _: task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        if left.done() and not left.cancelled():
            raise ClientLeft from None
        raise
    finally:
        left.cancel()


async def _until_left(client: fastapi.Request) -> None:
    while (await client.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events made of `parts`, which are closed with the response, even where it was never begun."""

    def __init__(self, content: AsyncIterator[bytes], parts: AsyncGenerator[tuple[int, RequestOutput]]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        async with aclosing(self._parts):
            await super().__call__(scope, receive, send)
