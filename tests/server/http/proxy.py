"""A reverse proxy of the tests: serves another server below a path."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.serving import running

PREFIX = "/own"
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Proxy"

    def _pass(self) -> None:
        path = self.path
        if not path.startswith(PREFIX):
            self.send_error(404, "not below the prefix")
            return
        if self.server.strips:
            path = path.removeprefix(PREFIX)
            path = path if path.startswith("/") else f"/{path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behind = http.client.HTTPConnection(self.server.behind, timeout=60)
        behind.request(self.command, path, body or None, dict(self.headers))
        response = behind.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        behind.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _pass

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing."""


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: str, strips: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.strips = urlsplit(behind).netloc, strips


@contextmanager
def proxied(url: str, *, strips: bool) -> Iterator[str]:
    """Serves a server below `PREFIX`; the address, without a slash at its end.

    Args:
        strips: whether the server behind sees paths without the prefix.
    """
    server = _Proxy(url, strips)
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
