"""OpenAI's API: completions of chats and of texts, streamed or not, and the list of models, which are tasks.

Differs: a model is a task, and the caller's token names the user. The last user message of a chat is the task's input;
earlier messages are not read, and the answer says how many they were. Without a temperature, answers are greedy. A
parameter that is not supported is refused, never ignored.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import format_sse_event

from ownlm.errors import ConfigError, NotFoundError, OwnlmError, TaskError
from ownlm.history.task import Task
from ownlm.inference.request import Finish, RequestOutput
from ownlm.server.answering import Events, answer, unless_left, whole
from ownlm.server.auth import Caller, CurrentCaller
from ownlm.server.binding import LongHistory, bind_question, bind_text, with_changes
from ownlm.server.errors import about_field, document, message_of, status_of
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.http.validation_errors import MAX_NAME
from ownlm.server.retrieval import Retrieval
from ownlm.server.routes.openai_requests import ChatRequest, CompletionRequest, Sampling
from ownlm.server.routes.schemas import ChatCompletion, Model, ModelList, Result, TextCompletion
from ownlm.server.state import ServerState, State
from ownlm.workflows.ask import Assignment

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["answers"])
_STARTED = int(time.time())


def content_of(kind: str, model: type[Result] | None = None) -> dict[int | str, dict[str, Any]]:
    """Describes responses of this content type in OpenAPI, beside those in JSON if there is a model of them."""
    return {200: {"content": {kind: {}}} | ({"model": model} if model else {})}


@router.get("/models")
async def list_models(caller: CurrentCaller, state: ServerState) -> ModelList:
    """The tasks of this home, as models."""
    names = await to_thread.run_sync(state.home.store.tasks, limiter=state.readers)
    return ModelList(object="list", data=[_model(name) for name in names])


@router.get("/models/{model}")
async def show_model(model: str, caller: CurrentCaller, state: ServerState) -> Model:
    """One of the tasks of this home, as a model."""
    task = await to_thread.run_sync(find_task, state, model, "model", limiter=state.readers)
    return _model(task.name)


@router.post("/chat/completions", responses=content_of("text/event-stream", ChatCompletion))
async def chat(asked: ChatRequest, request: Request, caller: CurrentCaller, state: ServerState) -> Response:
    """Answers the last message with the caller's own model."""

    def bind(search: Retrieval | None = None) -> Assignment:
        task, user = _asked_for(state, caller, asked.model)
        with about_field("messages"):
            assigned = bind_question(state.home, user, task, asked.text, asked.base_only, asked.rag, search)
        with about_field("choose"):
            if asked.choose and not assigned.task.labels:
                raise TaskError(f"Task {task.name!r} has no labels to choose among", hint="ask without `choose`")
        labels = (assigned.task.labels or ()) if asked.choose else ()
        return with_changes(assigned, _changes(state, asked) | {"labels": labels})

    try:
        assigned = await to_thread.run_sync(bind, limiter=state.binders)
    except LongHistory:
        user = asked.model.partition(":")[2] or caller.token.user or ""
        assigned = await state.search(user, lambda: bind(state.retrieval))
    return await _respond(request, state, caller, asked, [assigned])


@router.post("/completions", responses=content_of("text/event-stream", TextCompletion))
async def complete(asked: CompletionRequest, request: Request, caller: CurrentCaller, state: ServerState) -> Response:
    """Continues texts as they stand with the caller's own model."""

    def bind() -> list[Assignment]:
        task, user = _asked_for(state, caller, asked.model)
        prompts, most, changes = asked.prompts, state.limits.prompts, _changes(state, asked)
        with about_field("prompt"):
            if len(prompts) > most:
                raise ConfigError("Too many prompts in a request", got=len(prompts), expected=f"at most {most}")
            return [with_changes(bind_text(state.home, user, task, p, asked.base_only), changes) for p in prompts]

    return await _respond(request, state, caller, asked, await to_thread.run_sync(bind, limiter=state.binders))


def find_task(state: State, name: str, field: str = "task") -> Task:
    """Returns a task of this home; a NotFoundError where there is none.

    Args:
        field: of the request, that names the task.
    """
    task = state.home.store.task(name)
    if task is None:
        raise _no_model(field)
    return task


def _asked_for(state: State, caller: Caller, model: str) -> tuple[Task, str | None]:
    """The task, and the user to be answered for. A user's token gets the same error for others, known or unknown."""
    name, colon, other = model.partition(":")
    task, user = find_task(state, name, "model"), caller.token.user
    if colon:
        if not caller.is_operator:
            raise _no_model("model")
        if not state.home.store.knows(task.name, other):
            raise _no_user(task.name, other)
        user = other
    return task, user


def _changes(state: State, asked: Sampling) -> dict[str, Any]:
    """Returns a request's settings that differ from the task's. A longer answer than allowed ends with `length`."""
    most, greedy = asked.most_tokens, asked.top_p == 0  # the likeliest token alone
    return {
        "max_tokens": None if most is None else min(most, state.limits.max_tokens),
        "temperature": 0.0 if greedy else asked.temperature, "top_p": None if greedy else asked.top_p,
        "seed": asked.seed, "stop": asked.stops,
    }  # fmt: skip


async def _respond(
    request: Request, state: State, caller: Caller, asked: Sampling, assigned: Sequence[Assignment]
) -> Response:
    """Sends the answers whole, or as events, which begin when the first output has come.

    Raises:
        OwnlmError: One of them cannot be given.
        ClientLeft: The client has disconnected.
    """
    chat = isinstance(asked, ChatRequest)
    kind = ("chat.completion.chunk" if asked.stream else "chat.completion") if chat else "text_completion"
    head = {"id": f"ownlm-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": asked.model}
    parts = answer(state, caller, assigned, "messages" if chat else "prompt")
    more = {"ignored_messages": asked.ignored_messages} if isinstance(asked, ChatRequest) else {}
    own = [_extras(one) | more for one in assigned]
    if not asked.stream:
        answers = await whole(request, parts)
        content = head | {
            "choices": [_complete(chat, index, one) for index, one in enumerate(answers)],
            "usage": _usage(answers), "ownlm": own[0],
        }  # fmt: skip
        return JSONResponse((ChatCompletion if chat else TextCompletion)(**content).model_dump())
    try:
        first = await unless_left(request, anext(parts))  # what cannot be answered is refused here
    except BaseException:
        await parts.aclose()
        raise
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return Events(_events(chat, head, own, first, parts, with_usage), parts)


async def _events(
    chat: bool, head: dict[str, Any], own: Sequence[dict[str, Any]], part: tuple[int, RequestOutput] | None,
    parts: AsyncIterator[tuple[int, RequestOutput]], with_usage: bool,
) -> AsyncIterator[bytes]:  # fmt: skip
    """Yields the first part, and those after it, as events of OpenAI's API."""

    def event(*choices: dict[str, Any], **more: Any) -> bytes:
        return format_sse_event(data_str=json.dumps(head | {"choices": choices} | more))

    finished = list[RequestOutput]()
    try:
        if chat:
            yield event(_chunk(chat, 0, {"role": "assistant", "content": ""}))
        while part is not None:
            index, output = part
            if output.text:
                yield event(_chunk(chat, index, {"content" if chat else "text": output.text}))
            if output.finish is not None:
                finished.append(output)
                yield event(_chunk(chat, index, {} if chat else {"text": ""}, output.finish), ownlm=own[index])
            part = await anext(parts, None)
        if with_usage:
            yield event(usage=_usage(finished))
    except OwnlmError as error:
        refusal = document(message_of(error), *status_of(error), error.param)
        yield format_sse_event(data_str=json.dumps(refusal))
    else:
        yield format_sse_event(data_str="[DONE]")


def _extras(one: Assignment) -> dict[str, Any]:
    """Returns the fields of an answer beside those of OpenAI's API."""
    return {
        "adapter": one.request.adapter.id if one.request.adapter else None,
        "base": one.request.base.name,
        "warning": one.warning,
        "retrieved": list(one.retrieved),
    }


def _complete(chat: bool, index: int, one: RequestOutput) -> dict[str, Any]:
    message = {"message": {"role": "assistant", "content": one.text, "refusal": None}} if chat else {"text": one.text}
    return {"index": index, **message, "finish_reason": one.finish, "logprobs": None}


def _chunk(chat: bool, index: int, content: dict[str, Any], finish: Finish | None = None) -> dict[str, Any]:
    return {"index": index, **({"delta": content} if chat else content), "logprobs": None, "finish_reason": finish}


def _usage(answers: Sequence[RequestOutput]) -> dict[str, int]:
    """Returns the numbers of tokens in prompts and answers."""
    prompts, completions = sum(one.prompt_tokens for one in answers), sum(one.completion_tokens for one in answers)
    return {"prompt_tokens": prompts, "completion_tokens": completions, "total_tokens": prompts + completions}


def _no_model(field: str) -> NotFoundError:
    what = "There is no such model (a task of this home), or it is not yours"
    hint = "GET /v1/models lists them; who runs the server adds one with its first records"
    error = NotFoundError(what, hint=hint)
    error.param = field
    return error


def _no_user(task: str, user: str) -> NotFoundError:
    """For operators alone: which users there are is nothing for others."""
    what = f"There is no such user: {user[:MAX_NAME]!r} has no records in task {task!r}"
    error = NotFoundError(what, hint="see who has records on the machine that serves, or add records first")
    error.param = "model"
    return error


def _model(name: str) -> Model:
    return Model(id=name, object="model", created=_STARTED, owned_by="ownlm")
