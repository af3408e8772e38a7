"""Errors as clients of OpenAI's API expect them: a status, and {"error": {"message", "type", "param", "code"}}."""

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ownlm.errors import (
    AccessError,
    AdapterError,
    BaseModelError,
    ConfigError,
    DataError,
    NotFoundError,
    OwnlmError,
    PoolError,
    StoreError,
    TaskError,
)
from ownlm.serve.engine import Busy
from ownlm.serve.told import told

log = logging.getLogger("ownlm.serve")

_STATUS: tuple[tuple[type[OwnlmError], int, str], ...] = (
    (AccessError, 401, "invalid_api_key"),
    (NotFoundError, 404, "not_found"),
    (Busy, 429, "rate_limit_exceeded"),
    (AdapterError, 409, "adapter"),
    (PoolError, 409, "pool"),
    (DataError, 400, "invalid_request"),
    (TaskError, 400, "invalid_request"),
    (ConfigError, 400, "invalid_request"),
    (BaseModelError, 503, "base"),
    (OwnlmError, 503, "unavailable"),
)


_KIND = re.compile(r"constrained-|\w+\[")  # of a type, which pydantic puts between names
_WHY = {"extra_forbidden": "nothing here is called so; leave it out", "missing": "it is missing"}


def status_of(error: OwnlmError) -> tuple[int, str]:
    """The status of an error, and its code."""
    return next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))


def document(message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def message_of(error: OwnlmError) -> str:
    """What a client is told."""
    instead = told(error)
    if isinstance(error, StoreError | BaseModelError | PoolError):
        log.error("%s, in place of an answer; `ownlm doctor` says more", type(error).__name__)
    return str(instead)


def refusal(error: OwnlmError) -> JSONResponse:
    """The answer in place of one that cannot be given."""
    status, code = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return JSONResponse(document(message_of(error), status, code), status, headers)


def add_refusals(app: FastAPI) -> None:
    """Has an app answer errors so."""

    @app.exception_handler(OwnlmError)
    async def _(request: Request, error: OwnlmError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # without what was given: it may be a person's text
        parts = [str(part) for part in first["loc"][1:] if not _KIND.match(str(part))]
        place = ".".join(parts) or None
        why = _WHY.get(first["type"]) or str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            why, place = f"it is no JSON from character {place} on", None
        elif first["type"] == "model_attributes_type" or (first["type"], first["loc"]) == ("missing", ("body",)):
            why, place = "it must be a JSON object, sent with `Content-Type: application/json`", None
        where = f" at {place!r}" if place else ""
        return JSONResponse(document(f"The request is wrong{where}: {why}", 400, "invalid_request", place), 400)

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        message = error.detail or HTTPStatus(error.status_code).phrase
        if message == HTTPStatus.NOT_FOUND.phrase:
            message = "There is nothing at this address. Next: /docs shows all there is."
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return JSONResponse(document(message, error.status_code, code), error.status_code, error.headers)
