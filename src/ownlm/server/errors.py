"""HTTP responses of errors, as OpenAI's API has them: a status, and {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ownlm.errors import (
    AccessError,
    AdapterError,
    BaseModelError,
    ConfigError,
    ConflictError,
    CopyError,
    DataError,
    ForbiddenError,
    NotFoundError,
    OwnlmError,
    PoolError,
    StoreBusyError,
    StoreError,
    SupersededError,
    TaskError,
    UnknownUserError,
)
from ownlm.inference.protocol import AnswerTimeoutError, Busy, EngineDownError, EngineError, Overloaded, StoppedError
from ownlm.server.http.validation_errors import describe_errors

log = logging.getLogger("ownlm.server")

RETRY_S = 2  # `Retry-After` while the database is locked
RETRY_HEADER = "x-should-retry"  # OpenAI's clients obey it, whatever the status


class ErrorDetails(BaseModel):
    """Error of a request, as OpenAI's API has it."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResult(BaseModel):
    """JSON body of an error response."""

    error: ErrorDetails


class HttpError(NamedTuple):
    """HTTP status and code of an error, and whether a client should send the same request again."""

    status: int
    code: str
    retry: bool


_HTTP_ERRORS: tuple[tuple[type[OwnlmError], HttpError], ...] = (  # the first match counts
    (ForbiddenError, HttpError(403, "insufficient_permissions", False)),
    (AccessError, HttpError(401, "invalid_api_key", False)),
    (SupersededError, HttpError(409, "adapter_superseded", True)),
    (NotFoundError, HttpError(404, "not_found", False)),
    (Overloaded, HttpError(503, "overloaded", True)),
    (Busy, HttpError(429, "rate_limit_exceeded", True)),
    (StoreBusyError, HttpError(503, "busy", True)),
    (CopyError, HttpError(409, "copy_in_home", False)),
    (ConflictError, HttpError(409, "conflict", False)),
    (AdapterError, HttpError(409, "adapter", False)),
    (PoolError, HttpError(409, "pool", False)),
    (DataError, HttpError(400, "invalid_request", False)),
    (TaskError, HttpError(400, "invalid_request", False)),
    (ConfigError, HttpError(400, "invalid_request", False)),
    (AnswerTimeoutError, HttpError(504, "timeout", False)),
    (StoppedError, HttpError(503, "stopping", True)),
    (EngineDownError, HttpError(500, "engine", False)),
    (EngineError, HttpError(500, "engine", True)),
    (BaseModelError, HttpError(500, "base", False)),
    (StoreError, HttpError(500, "storage", False)),
    (OwnlmError, HttpError(500, "server_error", False)),
)


def http_error_of(error: OwnlmError) -> HttpError:
    """Returns status, code and retry of an error.

    A 5xx is retried only where the same request can succeed later: 503 while something is busy, starting or stopping,
    with `Retry-After`; 500 where an answer failed through no fault of the request. Where the user or the operator must
    change something first, it is 409, or 500 for damage and full disks, and never retried.
    """
    return next(http for kind, http in _HTTP_ERRORS if isinstance(error, kind))


def status_of(error: OwnlmError) -> tuple[int, str]:
    """Returns the status and the code of an error."""
    return http_error_of(error)[:2]


def document(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """Returns the JSON body of an error response."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def message_of(error: OwnlmError) -> str:
    """Returns the message for a client, and logs what the operator must see."""
    if isinstance(error, StoreError | BaseModelError) and not isinstance(error, StoreBusyError):
        got = "" if error.got is None else f" (got: {error.got})"
        log.error("%s: %s%s; `ownlm doctor` says more", type(error).__name__, error.what, got)
    elif isinstance(error, PoolError):  # its message may name sharers
        log.error("%s, in place of an answer; `ownlm doctor` says more", type(error).__name__)
    return str(for_client(error))


def for_client(error: OwnlmError) -> OwnlmError:
    """Returns the error that a client may see.

    Errors of the home and of bases contain paths of the server, and errors of pools contain users: they are replaced.
    Where only the operator has the command that helps, the hint is to ask them. Users can change their own records.
    """
    if isinstance(error, UnknownUserError):  # it may suggest another user's name
        return for_client(error.without_name())
    if isinstance(error, StoreBusyError):
        return StoreBusyError("The server's database is busy", hint="try again in some seconds")
    if isinstance(error, CopyError):
        return CopyError(
            "Nothing was deleted: another file in the server's home holds a copy of it",
            hint="ask whoever runs this server to remove that file, then delete again",
        )
    if isinstance(error, StoreError | BaseModelError):
        return OwnlmError(
            "The server cannot read or write its data",
            hint="tell whoever runs this server; its log says why",
        )
    if isinstance(error, PoolError):
        return PoolError(
            "The pool of pieces cannot be used now: it waits for a withdrawal, is too small, or is damaged",
            hint="try again later, or train an adapter",
        )
    if error.command is not None and not isinstance(error, DataError):
        return type(error)(error.what, got=error.got, expected=error.expected, hint="ask whoever runs this server")
    return error


def json_error(
    message: str, status: int, code: str, *, param: str | None = None, retry: bool = False,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:  # fmt: skip
    """Returns an error response.

    Args:
        message: Error message, followed by what to do next.
        status: HTTP status.
        code: Machine-readable code of the error.
        param: Field of the request that is wrong.
        retry: Whether the client should send the same request again.
        headers: Further headers.
    """
    headers = {RETRY_HEADER: str(retry).lower(), **(headers or {})}
    return JSONResponse(document(message, status, code, param), status, headers)


def error_response(error: OwnlmError) -> JSONResponse:
    """Returns the response to a request that failed with this error."""
    status, code, retry = http_error_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(math.ceil(max(1, error.retry_after)))
    elif status == 503:
        headers["Retry-After"] = str(RETRY_S)
    return json_error(message_of(error), status, code, param=error.param, retry=retry, headers=headers)


@contextmanager
def about_field(name: str) -> Iterator[None]:
    """Sets `param` of errors in the request, raised within, to this field."""
    try:
        yield
    except (DataError, TaskError, ConfigError) as error:
        error.param = error.param or name
        raise


def add_error_handlers(app: FastAPI) -> None:
    """Adds handlers that answer errors with these responses."""

    @app.exception_handler(OwnlmError)
    async def _(request: Request, error: OwnlmError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            place, reason = None, f"it is no JSON from character {first['loc'][-1]} on"
        elif first["type"] in ("model_attributes_type", "missing") and first["loc"] == ("body",):
            place, reason = None, "it must be a JSON object, sent with `Content-Type: application/json`"
        else:
            place, reason = describe_errors(error.errors(), error.body)
        where = f" at {place!r}" if place else ""
        return json_error(f"The request is wrong{where}: {reason}", 400, "invalid_request", param=place)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail or HTTPStatus(error.status_code).phrase
        if message == HTTPStatus.NOT_FOUND.phrase:
            root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
            message = f"There is nothing at this address. Next: see {root}/docs for all routes."
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return json_error(message, error.status_code, code, headers=error.headers)
