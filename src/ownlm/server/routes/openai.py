"""OpenAI's API: completions of chats and of texts, streamed or not, and the list of models, which are tasks.

Differs: a model is a task, and the caller's token names the user. The last user message of a chat is the task's input;
earlier messages are not read, and the answer says how many they were. Without a temperature, answers are greedy. A
parameter that is not supported is refused, never ignored.
"""

import time
from collections.abc import Callable
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ownlm.errors import ConfigError, NotFoundError, TaskError
from ownlm.history.task import Task
from ownlm.inference.request import RequestOutput
from ownlm.server.answering import Answering, events, whole
from ownlm.server.auth import Caller, CurrentCaller
from ownlm.server.binding import LongHistory, bind_question, bind_text, with_changes
from ownlm.server.errors import about_field
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.http.validation_errors import MAX_NAME
from ownlm.server.retrieval import Retrieval
from ownlm.server.routes.openai_requests import ChatRequest, CompletionRequest, Sampling
from ownlm.server.routes.schemas import ChatCompletion, Completion, Model, ModelList, Result, TextCompletion
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
            bound = bind_question(state.home, user, task, asked.text, asked.base_only, asked.rag, search)
        with about_field("choose"):
            if asked.choose and not bound.task.labels:
                raise TaskError(f"Task {task.name!r} has no labels to choose among", hint="ask without `choose`")
        labels = (bound.task.labels or ()) if asked.choose else ()
        return with_changes(bound, _changes(state, asked) | {"labels": labels})

    try:
        bound = await to_thread.run_sync(bind, limiter=state.binders)
    except LongHistory:
        user = asked.model.partition(":")[2] or caller.token.user or ""
        bound = await state.search(user, lambda: bind(state.retrieval))
    answering = Answering(state, caller, asked.model, [bound], asked.ignored_messages)
    return await _respond(request, answering, asked, _chat_completion, "chat.completion.chunk")


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

    answering = Answering(state, caller, asked.model, await to_thread.run_sync(bind, limiter=state.binders), None)
    return await _respond(request, answering, asked, _text_completion, "text_completion")


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
    request: Request,
    answering: Answering,
    asked: Sampling,
    complete: Callable[[Answering, list[RequestOutput]], Completion],
    chunk: str,
) -> Response:
    if not asked.stream:
        answers = await whole(request, answering)
        return JSONResponse(complete(answering, answers).model_dump())
    usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return await events(request, answering, chunk, usage)  # what cannot be answered is refused here


def _chat_completion(answering: Answering, answers: list[RequestOutput]) -> ChatCompletion:
    (one,) = answers
    message = {"role": "assistant", "content": one.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": one.finish, "logprobs": None}
    return ChatCompletion(**answering.document("chat.completion", [choice], answers))


def _text_completion(answering: Answering, answers: list[RequestOutput]) -> TextCompletion:
    choices = [
        {"index": place, "text": one.text, "finish_reason": one.finish, "logprobs": None}
        for place, one in enumerate(answers)
    ]
    return TextCompletion(**answering.document("text_completion", choices, answers))


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
