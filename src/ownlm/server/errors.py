"""Errors as clients of OpenAI's API expect them: a status, and {"error": {"message", "type", "param", "code"}}."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
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
)
from ownlm.inference.protocol import AnswerTimeoutError, Busy, EngineDownError, EngineError, Overloaded, StoppedError
from ownlm.server.http.validation_errors import describe_errors
from ownlm.server.told import told

log = logging.getLogger("ownlm.server")

RETRY_S = 2  # after which a database that is locked may be free
AGAIN = "x-should-retry"  # a header that OpenAI's clients obey, whatever the status


class Verdict(NamedTuple):
    """How an error is answered."""

    status: int
    code: str
    again: bool  # whether the same request can succeed later without anybody's doing


_VERDICTS: tuple[tuple[type[OwnlmError], Verdict], ...] = (  # the first that fits
    (ForbiddenError, Verdict(403, "insufficient_permissions", False)),
    (AccessError, Verdict(401, "invalid_api_key", False)),
    (SupersededError, Verdict(409, "adapter_superseded", True)),
    (NotFoundError, Verdict(404, "not_found", False)),
    (Overloaded, Verdict(503, "overloaded", True)),
    (Busy, Verdict(429, "rate_limit_exceeded", True)),
    (StoreBusyError, Verdict(503, "busy", True)),
    (CopyError, Verdict(409, "copy_in_home", False)),
    (ConflictError, Verdict(409, "conflict", False)),
    (AdapterError, Verdict(409, "adapter", False)),
    (PoolError, Verdict(409, "pool", False)),
    (DataError, Verdict(400, "invalid_request", False)),
    (TaskError, Verdict(400, "invalid_request", False)),
    (ConfigError, Verdict(400, "invalid_request", False)),
    (AnswerTimeoutError, Verdict(504, "timeout", False)),
    (StoppedError, Verdict(503, "stopping", True)),
    (EngineDownError, Verdict(500, "engine", False)),
    (EngineError, Verdict(500, "engine", True)),
    (BaseModelError, Verdict(500, "base", False)),
    (StoreError, Verdict(500, "storage", False)),
    (OwnlmError, Verdict(500, "server_error", False)),
)


def verdict_of(error: OwnlmError) -> Verdict:
    """Status and code of an error, and whether repeating the request can help.

    5xx and `again` go together only where the same request can succeed later by itself: 503 while something is busy,
    starting or stopping, with `Retry-After`; 500 where an answer broke through no fault of the request. What somebody
    must change first is 409 (the user, or the operator by hand) or 500 (damage, a full disk), never repeated.
    """
    return next(verdict for kind, verdict in _VERDICTS if isinstance(error, kind))


def status_of(error: OwnlmError) -> tuple[int, str]:
    """The status of an error, and its code."""
    return verdict_of(error)[:2]


def document(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def message_of(error: OwnlmError) -> str:
    """What a client is told. What the operator must see to goes to the log: what failed, and where."""
    if isinstance(error, StoreError | BaseModelError) and not isinstance(error, StoreBusyError):
        got = "" if error.got is None else f" (got: {error.got})"
        log.error("%s: %s%s; `ownlm doctor` says more", type(error).__name__, error.what, got)
    elif isinstance(error, PoolError):  # its words may name sharers
        log.error("%s, in place of an answer; `ownlm doctor` says more", type(error).__name__)
    return str(told(error))


def refuse(
    message: str, status: int, code: str, *, param: str | None = None, again: bool = False,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:  # fmt: skip
    """A refusal.

    Args:
        again: whether the same request can succeed later without anybody's doing.
    """
    return JSONResponse(document(message, status, code, param), status, {AGAIN: str(again).lower(), **(headers or {})})


def refusal(error: OwnlmError) -> JSONResponse:
    """The answer in place of one that cannot be given."""
    status, code, again = verdict_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(math.ceil(max(1, error.retry_after)))
    elif status == 503:
        headers["Retry-After"] = str(RETRY_S)
    return refuse(message_of(error), status, code, param=error.param, again=again, headers=headers)


@contextmanager
def about_field(name: str) -> Iterator[None]:
    """Errors of what the user sent, raised within, name this field of the request in `param`."""
    try:
        yield
    except (DataError, TaskError, ConfigError) as error:
        error.param = error.param or name
        raise


def add_refusals(app: FastAPI) -> None:
    """Has an app answer errors so."""

    @app.exception_handler(OwnlmError)
    async def _(request: Request, error: OwnlmError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            place, why = None, f"it is no JSON from character {first['loc'][-1]} on"
        elif first["type"] in ("model_attributes_type", "missing") and first["loc"] == ("body",):
            place, why = None, "it must be a JSON object, sent with `Content-Type: application/json`"
        else:
            place, why = describe_errors(error.errors(), error.body)
        where = f" at {place!r}" if place else ""
        return refuse(f"The request is wrong{where}: {why}", 400, "invalid_request", param=place)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail or HTTPStatus(error.status_code).phrase
        if message == HTTPStatus.NOT_FOUND.phrase:
            root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
            message = f"There is nothing at this address. Next: {root}/docs shows all there is."
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return refuse(message, error.status_code, code, headers=error.headers)
