"""Middleware: authentication before the body, body limits, security headers, metrics, HEAD, and the catch-all 500."""

import asyncio
import logging
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ownlm.errors import OwnlmError
from ownlm.server.auth import authorise
from ownlm.server.errors import error_response, json_error
from ownlm.server.state import State

log = logging.getLogger("ownlm.server")

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'self'; frame-ancestors 'none'"
)
DOCS_POLICY = (  # Swagger UI has inline styles and one inline script
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _BodyError(Exception):
    """The body is not read to its end. No OwnlmError, which the app would answer itself."""

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


class RequestMiddleware:
    """Authenticates requests before their body is read, limits bodies, sets headers, counts requests, and answers
    unexpected errors without their text.
    """

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, body = time.perf_counter(), 0, _Body(self._state, scope, receive)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if body.error is not None and not status:
                raise body.error  # instead of the app's answer to half a body
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, _route(scope))
            await send(message)

        async def respond(response: JSONResponse) -> None:
            if status:
                raise ConnectionAbortedError from None  # the response has begun: it ends here
            body.error = None
            if not body.complete:
                response.headers["Connection"] = "close"
            await response(scope, receive, send_with_headers)

        try:
            if _needs_token(scope):
                body.token = (await authorise(scope, self._state)).token.id
            body.check_headers()
            await self._app(scope, body.receive, send_with_headers)
        except _BodyError as error:
            await respond(error.response)
        except OwnlmError as error:
            await respond(error_response(error))
        except Exception as error:  # its message may contain a user's text: only the place is logged
            at = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s, in answer to %s", type(error).__name__, at.filename, at.lineno, _route(scope))
            message = "The server failed. Next: tell whoever runs it: the log says where."
            await respond(json_error(message, 500, "server_error"))
        finally:
            body.release()
            self._state.metrics.request(_route(scope), status, time.perf_counter() - started)


class _Body:
    """Body of a request, limited in bytes and time, alone and together with other bodies.

    Attributes:
        token: Id of the token that the bytes are counted for.
        complete: Whether all of the body was read.
        error: Why reading has stopped.
    """

    def __init__(self, state: State, scope: Scope, receive: Receive) -> None:
        self._state, self._receive, self._headers = state, receive, Headers(scope=scope)
        self._bytes, self._deadline = 0, time.monotonic() + state.limits.body_s
        self._length = self._headers.get("content-length", "")
        self.complete = "transfer-encoding" not in self._headers and self._length in ("", "0")
        self.token = ""
        self.error: _BodyError | None = None

    def check_headers(self) -> None:
        """Raises a _BodyError where the headers announce a body that is too large or compressed."""
        if self._length.isdigit() and int(self._length) > self._state.limits.body_bytes:
            raise self._too_large()
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            message = "Compressed requests are not supported. Next: send the body uncompressed."
            raise _BodyError(json_error(message, 415, "invalid_request"))

    async def receive(self) -> Message:
        """Receives the next part; an error is raised and kept in `error`."""
        if self.complete:
            return await self._receive()
        try:
            return await self._next()
        except _BodyError as error:
            self.error = error
            raise

    async def _next(self) -> Message:
        limits = self._state.limits
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
        except TimeoutError:
            text = f"The body of the request took too long. Expected: {limits.body_s:g} s at most."
            raise _BodyError(json_error(text, 408, "timeout")) from None
        size = len(message.get("body", b""))
        if self._bytes + size > limits.body_bytes:
            raise self._too_large()
        try:
            self._state.meter.hold(self.token, size)
        except OwnlmError as error:
            raise _BodyError(error_response(error)) from None
        self._bytes += size
        if not message.get("more_body", False):
            self.complete = True
            self._state.meter.charge(self.token, self._bytes)
        return message

    def release(self) -> None:
        """Gives back the bytes of an answered request."""
        self._state.meter.give_back(self.token, self._bytes)

    def _too_large(self) -> _BodyError:
        limit = self._state.limits.body_bytes
        message = f"The request is too large. Expected: {limit:,} bytes at most. Next: send it in several parts."
        return _BodyError(json_error(message, 413, "too_large"))


class HeadMiddleware:
    """Answers HEAD requests as GET requests without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        get = {**scope, "method": "GET"}  # a copy: uvicorn must see the method that it answers
        try:
            await self._app(get, receive, send_without_body)
        finally:
            scope["route"] = get.get("route")


def _add_headers(message: MutableMapping[str, Any], route: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", DOCS_POLICY if route == "/docs" else PAGE_POLICY)


def _needs_token(scope: Scope) -> bool:
    """Whether a request is for the API or the metrics; all other routes are public and read no body."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    path = path.removeprefix(root) if path.startswith(f"{root}/") else path
    return scope["method"] != "OPTIONS" and (path.startswith("/v1/") or path == "/metrics")


def _route(scope: Scope) -> str:
    """Returns the template of the route; the path itself may contain ids of records."""
    return getattr(scope.get("route"), "path", None) or "other"
