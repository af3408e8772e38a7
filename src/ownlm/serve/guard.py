"""What every request passes, whatever its route: size, headers, counting, and an end for what nobody expected."""

import logging
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ownlm.serve.metrics import Metrics
from ownlm.serve.refusals import refuse as refusal_of

log = logging.getLogger("ownlm.serve")

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


class _TooLarge(Exception):
    """More came than is taken."""


class Guard:
    """Around an app: refuses what is too large, sets headers, counts, and tells nobody's text when something breaks.

    Args:
        most: bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int, metrics: Metrics) -> None:
        self._app, self._most, self._metrics = app, most, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, taken = time.perf_counter(), 0, 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise _TooLarge
            return message

        async def headed(message: Message) -> None:
            nonlocal status
            if taken > self._most and not status:
                raise _TooLarge  # whatever the app makes of half a body
            if message["type"] == "http.response.start":
                status = message["status"]
                _head(message, _route(scope))
            await send(message)

        async def refuse(text: str, code: str, refused: int) -> None:
            nonlocal taken
            taken = 0
            await refusal_of(text, refused, code)(scope, receive, headed)

        try:
            if _announced(scope) > self._most:
                raise _TooLarge
            await self._app(scope, limited, headed)
        except _TooLarge:
            await refuse(f"The request is too large. Expected: {self._most:,} bytes at most.", "too_large", 413)
        except Exception as error:  # its words may be a person's: only where it happened is told
            at = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s at %s:%s, in answer to %s", type(error).__name__, at.filename, at.lineno, _route(scope))
            if status:
                raise ConnectionAbortedError from None  # the answer has begun: it ends here
            await refuse("The server failed. Next: tell who runs it: the log says where.", "server_error", 500)
        finally:
            self._metrics.request(_route(scope), status, time.perf_counter() - started)


def _head(message: MutableMapping[str, Any], route: str) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", DOCS_POLICY if route == "/docs" else PAGE_POLICY)


def _announced(scope: Scope) -> int:
    """How long the body is, as its header says."""
    value = dict(scope["headers"]).get(b"content-length", b"")
    return int(value) if value.isdigit() else 0


def _route(scope: Scope) -> str:
    """The template of a route: what stands in its place in a path may be a person's."""
    return getattr(scope.get("route"), "path", None) or "other"
