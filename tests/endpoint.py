"""An OpenAI-compatible endpoint on this machine, which behaves as badly as a test wants it to."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import running

Behaviour = Callable[["Caller"], None]
LONGEST_S = 20.0  # how long a request is kept waiting at most: no test hangs


@dataclass(frozen=True)
class Sent:
    """What one request held."""

    path: str
    headers: Message
    sent: dict[str, Any]


class Caller(BaseHTTPRequestHandler):
    """A connection with one request after another, and how each can be answered."""

    protocol_version = "HTTP/1.1"
    server: "Endpoint"
    number: int  # of this request at this server, from 0 on
    question: str

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.question = sent["messages"][0]["content"]
        with self.server.lock:
            self.number = len(self.server.requests)
            self.server.requests.append(Sent(self.path, self.headers, sent))
            self.server.inside += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.inside)
        try:
            with suppress(OSError):  # the caller is gone
                self.server.behaviour(self)
        finally:
            with self.server.lock:
                self.server.inside -= 1

    def say(self, text: object, **headers: str) -> None:
        """Answers as a model does."""
        self.give(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode(), **headers)

    def give(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Answers with these bytes."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, first: bytes, drop: bytes, every_s: float = 0.02) -> None:
        """Sends drop after drop, for as long as anybody listens."""
        self.close_connection = True
        self.wfile.write(first)
        end = time.monotonic() + LONGEST_S
        while time.monotonic() < end:
            self.wfile.write(drop)
            time.sleep(every_s)

    def hang(self) -> None:
        """Says nothing until the caller goes away."""
        self.close_connection = True
        self.connection.settimeout(LONGEST_S)
        self.connection.recv(1)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Endpoint(ThreadingHTTPServer):
    """The server; remembers what it was sent."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Caller)
        self.behaviour = behaviour
        self.requests: list[Sent] = []
        self.lock = threading.Lock()
        self.inside = self.most_at_once = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that left is no fault of the server: its traceback would stand among the caller's own words."""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Endpoint]:
    """A running endpoint."""
    server = Endpoint(behaviour)
    with running(server):
        yield server


def free_port() -> int:
    """A port without a server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
