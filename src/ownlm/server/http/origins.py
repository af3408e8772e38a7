"""The path prefix of a reverse proxy, and CORS for web pages of other origins."""

import re
from collections.abc import Iterable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ownlm.errors import ConfigError

RESERVED = frozenset({"v1", "docs", "docs-files", "openapi.json", "healthz", "metrics", "page"})

_ROOT_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_EXPOSED = ("Retry-After", "X-Should-Retry", "Content-Disposition")


class RootPathMiddleware:
    """Accepts requests below a path prefix, whether the proxy strips the prefix or passes it on.

    Args:
        root_path: Path prefix, as returned by `clean_root_path`.

    Source: ours. Differs: uvicorn's own `root_path` needs a proxy that strips the prefix.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http":
            root, path = self._root_path, scope["path"]
            if path == root:
                path = f"{root}/"
            below = path.startswith(f"{root}/")
            scope = {**scope, "root_path": root, "path": path if below else root + path}
        await self._app(scope, receive, send)


def clean_root_path(text: str) -> str:
    """Returns a path prefix with a slash at its front and none at its end; empty for none.

    >>> clean_root_path("models/own/"), clean_root_path("/")
    ('/models/own', '')

    Raises:
        ConfigError: The prefix is no path, or begins like a path of the API.
    """
    if not (inner := text.strip("/")):
        return ""
    path = f"/{inner}"
    if not _ROOT_PATH.fullmatch(path):
        raise ConfigError(
            "The root path cannot be used", got=repr(text), expected="a path such as /own, of letters, digits, . _ ~ -"
        )
    if (first := inner.split("/")[0]) in RESERVED:
        raise ConfigError(
            "The root path begins like a path of the API", got=repr(text),
            expected=f"anything but /{first}", hint="choose another prefix in the proxy, such as /own",
        )  # fmt: skip
    return path


def clean_origin(text: str) -> str:
    """Returns an origin as browsers send it: scheme, host, and the port unless it is the default; or '*' for all.

    >>> clean_origin("https://Chat.Example.org:443/"), clean_origin("*")
    ('https://chat.example.org', '*')

    Raises:
        ConfigError: The text is no origin.
    """
    origin = text.lower().removesuffix("/")
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ConfigError(
            "The origin cannot be allowed", got=repr(text),
            expected="scheme://host or scheme://host:port, without a path; or '*' for every page",
        )  # fmt: skip
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], "\0"))


def allow_origins(app: FastAPI, origins: Iterable[str]) -> None:
    """Allows pages of these origins to read responses, errors included. No cookies: tokens are sent in a header."""
    if cleaned := [clean_origin(one) for one in origins]:
        app.add_middleware(
            CORSMiddleware, allow_origins=cleaned, allow_methods=_METHODS, allow_headers=["*"],
            expose_headers=_EXPOSED, allow_private_network=True,
        )  # fmt: skip
