"""Middleware: token before body, bounds on bodies, security headers, metrics, and an answer to unexpected errors."""

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
from ownlm.server.errors import refusal
from ownlm.server.errors import refuse as refusal_of
from ownlm.server.state import State

log = logging.getLogger("ownlm.server")

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'self'; frame-ancestors 'none'"
)
DOCS_POLICY = (  # what shows the API writes styles and one script into its page
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


_CLOSE = {"Connection": "close"}


class _BadBody(Exception):
    """A body that is not read to its end. No OwnlmError: the app would answer it by itself.

    Args:
        response: the refusal.
    """

    def __init__(self, response: JSONResponse) -> None:
        self.response = response


class Guard:
    """Around an app: asks for a token before a body is read, bounds bodies, sets headers, counts requests, and answers
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

        async def headed(message: Message) -> None:
            nonlocal status
            if body.failure is not None and not status:
                raise body.failure  # whatever the app makes of half a body
            if message["type"] == "http.response.start":
                status = message["status"]
                _head(message, _route(scope))
            await send(message)

        async def refuse(response: JSONResponse) -> None:
            body.failure = None
            if not body.complete:
                response.headers.update(_CLOSE)
            await response(scope, receive, headed)

        try:
            if _needs_token(scope):
                body.token = (await authorise(scope, self._state)).token.id
            body.check_announced()
            await self._app(scope, body.receive, headed)
        except _BadBody as error:
            await refuse(error.response)
        except OwnlmError as error:
            if status:
                raise ConnectionAbortedError from None
            await refuse(refusal(error))
        except Exception as error:  # its words may be a person's: only where it happened is told
            at = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s, in answer to %s", type(error).__name__, at.filename, at.lineno, _route(scope))
            if status:
                raise ConnectionAbortedError from None  # the answer has begun: it ends here
            words = "The server failed. Next: tell who runs it: the log says where."
            await refuse(refusal_of(words, 500, "server_error"))
        finally:
            body.forget()
            self._state.metrics.request(_route(scope), status, time.perf_counter() - started)


class _Body:
    """The body of a request as it is read: bounded in bytes and time, alone and together with others.

    Attributes:
        token: id of the token that it is counted against.
        complete: whether all of it was read.
        failure: why it is read no further.
    """

    def __init__(self, state: State, scope: Scope, receive: Receive) -> None:
        self._state, self._receive, self._headers = state, receive, Headers(scope=scope)
        self._taken, self._until = 0, time.monotonic() + state.limits.body_s
        self._length = self._headers.get("content-length", "")
        self.complete = "transfer-encoding" not in self._headers and self._length in ("", "0")
        self.token = ""
        self.failure: _BadBody | None = None

    def check_announced(self) -> None:
        """Refuses a body whose header says that it is too large, or compressed."""
        if self._length.isdigit() and int(self._length) > self._state.limits.body_bytes:
            raise self._too_large()
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            words = "Compressed requests are not read. Next: send the body as it is."
            raise _BadBody(refusal_of(words, 415, "invalid_request"))

    async def receive(self) -> Message:
        """The next piece; what fails is raised, and kept for who sends the answer."""
        if self.complete:
            return await self._receive()
        try:
            return await self._next()
        except _BadBody as error:
            self.failure = error
            raise

    async def _next(self) -> Message:
        limits = self._state.limits
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            words = f"The body of the request took too long. Expected: {limits.body_s:g} s at most."
            raise _BadBody(refusal_of(words, 408, "timeout")) from None
        size = len(message.get("body", b""))
        if self._taken + size > limits.body_bytes:
            raise self._too_large()
        try:
            self._state.meter.hold(self.token, size)
        except OwnlmError as error:
            raise _BadBody(refusal(error)) from None
        self._taken += size
        if not message.get("more_body", False):
            self.complete = True
            self._state.meter.charge(self.token, self._taken)
        return message

    def forget(self) -> None:
        """The request was answered."""
        self._state.meter.give_back(self.token, self._taken)

    def _too_large(self) -> _BadBody:
        most = self._state.limits.body_bytes
        words = f"The request is too large. Expected: {most:,} bytes at most. Next: send it in several parts."
        return _BadBody(refusal_of(words, 413, "too_large"))


def _head(message: MutableMapping[str, Any], route: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", DOCS_POLICY if route == "/docs" else PAGE_POLICY)


def _needs_token(scope: Scope) -> bool:
    """Whether a request is for the API or the metrics: all else is open, and reads no body."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"]
    path = path.removeprefix(root) if path.startswith(f"{root}/") else path
    return scope["method"] != "OPTIONS" and (path.startswith("/v1/") or path == "/metrics")


def _route(scope: Scope) -> str:
    """The template of a route: what stands in its place in a path may be a person's."""
    return getattr(scope.get("route"), "path", None) or "other"
