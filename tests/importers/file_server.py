"""A server of files on this machine, which cuts, lies and changes its mind as a test wants it to."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import running

Behaviour = Callable[["Asked"], None]


class Asked(BaseHTTPRequestHandler):
    """A connection with one request after another."""

    protocol_version = "HTTP/1.1"
    server: "FileServer"
    number: int  # of this request at this server, from 0 on

    def do_GET(self) -> None:
        with self.server.lock:
            self.number = len(self.server.requests)
            self.server.requests.append((self.path, self.headers))
        with suppress(OSError):  # who asked is gone
            self.server.behaviour(self)

    def give(self, body: bytes, status: int = 200, *, length: bool = True, **headers: str) -> None:
        """Answers with these bytes; without a length the connection's end is theirs."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def file(self, *, ranges: bool = True, trust: bool = False, cut: int | None = None, **headers: str) -> None:
        """Answers with the file, as a good server does, but for what is asked for here.

        Args:
            ranges: whether parts can be had.
            trust: send the part that is asked for whatever If-Range says.
            cut: break off after so many bytes.
        """
        body = self.server.files.get(self.path)
        if body is None:
            self.give(b"<html>no such page</html>", 404, Content_Type="text/html")
            return
        headers = {"ETag": etag(body), "Content_Type": "application/json", **headers}
        asked, same = self.headers.get("Range"), self.headers.get("If-Range") in (None, headers["ETag"])
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges and (same or trust) else 0
        self.send_response(206 if begin else 200)
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:][:cut])
        self.close_connection = cut is not None

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class FileServer(ThreadingHTTPServer):
    """The server: paths and what lies there; remembers what it was asked."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.files, self.behaviour = files, behaviour
        self.requests: list[tuple[str, Message]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[int]:
        """From which byte on each request was."""
        said = [headers.get("Range") or "bytes=0-" for _, headers in self.requests]
        return [int(text.removeprefix("bytes=").rstrip("-")) for text in said]


def etag(body: bytes) -> str:
    """What stands for these bytes."""
    return f'"{hashlib.sha256(body).hexdigest()[:12]}"'


@contextmanager
def serving(files: dict[str, bytes], behaviour: Behaviour = Asked.file) -> Iterator[FileServer]:
    """A running server."""
    server = FileServer(files, behaviour)
    with running(server):
        yield server
