"""What clients without a token, slow ones, and those that do not read can do to a server: little."""

import json
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn

from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.http.connections import (
    HEAD_BYTES,
    ConnectionTable,
    RateLimitFilter,
    _Transport,
    network_of,
    server_config,
)
from ownlm.server.limits import Limits
from ownlm.server.state import State
from ownlm.store.tokens import give_token
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
QUESTION = json.dumps({"model": "sorting", "messages": [{"role": "user", "content": "thing"}]}).encode()
QUICK = Limits(
    grace_s=0, connections=8, connections_per_address=8, head_s=1, body_s=1, keep_alive_s=1, stall_s=1, body_bytes=5000
)


class Here:
    """A server in a thread."""

    def __init__(self, home: Home, limits: Limits) -> None:
        self.home, self.engine = home, FakeEngine()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]
        app = create_app(home, self.engine, limits)
        self.state: State = app.state.ownlm
        self.server = uvicorn.Server(server_config(app, limits))
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._listening]})

    def __enter__(self) -> "Here":
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def open(self) -> int:
        return len(self.server.server_state.connections)

    def until_open(self, count: int) -> None:
        end = time.monotonic() + 30
        while self.open != count:
            assert time.monotonic() < end, self.open
            time.sleep(0.01)

    def token(self, user: str = "ada") -> str:
        return give_token(self.home.store, user)[1]

    @contextmanager
    def client(self, sends: bytes = b"") -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.settimeout(30)
            if sends:
                client.sendall(sends)
            yield client


@pytest.fixture
def here(home: Home) -> Iterator[Here]:
    with Here(home, QUICK) as server:
        yield server


def head(method: str = "POST", path: str = CHAT, token: str = "", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name.replace('_', '-')}: {v}" for name, v in headers.items())]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode()


def answer(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection; nothing where it was reset."""
    told = b""
    try:
        while piece := client.recv(65536):
            told += piece
    except ConnectionResetError:
        pass
    return told


def status(told: bytes) -> int:
    return int(told.split()[1]) if told else 0


def test_headers_that_do_not_come_end_the_connection(here: Here) -> None:
    for begun in (b"", b"GET", head("GET", "/healthz")[:-2]):
        with here.client(begun) as client:
            assert answer(client) == b""


def test_headers_that_come_byte_by_byte_end_the_connection(here: Here) -> None:
    with here.client(b"GET / HTTP/1.1\r\n") as client:
        client.settimeout(0.05)
        told, end = b"?", time.monotonic() + 30
        while told:
            assert time.monotonic() < end
            try:
                client.sendall(b"a: b\r\n"[:1])
                told = client.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                break


def test_an_idle_connection_ends(here: Here) -> None:
    with here.client(head("GET", "/healthz")) as client:
        assert status(answer(client)) == 200


def test_a_client_that_has_gone_is_disconnected() -> None:
    raw = Mock(**{"is_closing.return_value": False, "write_eof.side_effect": OSError(107, "not connected")})
    _Transport(raw, Mock()).end()
    raw.abort.assert_called_once()


@pytest.mark.parametrize("length", [{"Content_Length": 1000}, {"Transfer_Encoding": "chunked"}])
@pytest.mark.parametrize("token", ["", "own_unknown"])
def test_without_a_token_the_body_is_not_waited_for(token: str, length: dict[str, Any], here: Here) -> None:
    with here.client(head(token=token, **length)) as client:
        told = answer(client)
    assert status(told) == 401 and b"connection: close" in told.lower()


def test_a_client_that_sends_all_of_its_body_first_reads_the_refusal(here: Here) -> None:
    with here.client(head(Content_Length=3_000_000) + b"x" * 3_000_000) as client:
        assert status(answer(client)) == 401


def test_a_body_without_end_is_not_read_for_ever(here: Here) -> None:
    with here.client(head(Content_Length=10**9)) as client:
        sent = 0
        try:
            while sent < 10**9:
                sent += client.send(b"x" * 65536)
        except OSError:
            pass
    assert sent < 50_000_000


def test_a_body_that_does_not_come_is_refused(here: Here) -> None:
    with here.client(head(token=here.token(), Content_Length=1000, Content_Type="application/json")) as client:
        client.sendall(QUESTION[:10])
        told = answer(client)
    assert status(told) == 408 and b"took too long" in told


def test_a_chunked_body_without_end_is_refused(here: Here) -> None:
    how = {"Transfer_Encoding": "chunked", "Content_Type": "application/json"}
    with here.client(head(token=here.token(), **how) + b"400\r\n" + b"x" * 1024 + b"\r\n") as client:
        try:
            for _ in range(2000):
                client.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except OSError:
            pass
        told = answer(client)
    assert status(told) in (413, 0)


def test_a_body_is_asked_for_with_a_token_alone(here: Here) -> None:
    how = {"Content_Length": len(QUESTION), "Content_Type": "application/json", "Expect": "100-continue"}
    with here.client(head(**how)) as client:
        assert status(answer(client)) == 401
    with here.client(head(token=here.token(), **how)) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 100")
        client.sendall(QUESTION)
        assert b"HTTP/1.1 200" in client.recv(65536)


def test_two_requests_at_once_are_answered_in_turn(here: Here) -> None:
    token = here.token()
    ask = head(token=token, Content_Length=len(QUESTION), Content_Type="application/json") + QUESTION
    with here.client(ask + head("GET", "/v1/models", token, Content_Length=2) + b"xx" + ask) as client:
        told = answer(client)
    assert told.count(b"HTTP/1.1 200") == 3 and told.count(b"ada read") == 2


@pytest.mark.parametrize(
    "sends",
    [
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\na: " + b"b" * 2 * HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"a" * 2 * HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        head("GET", "/healthz") + b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
    ids=["many", "long", "long address", "many of a second request"],
)
def test_too_many_headers_are_refused(sends: bytes, here: Here) -> None:
    with here.client(sends) as client:
        told = answer(client)
    assert b" 431 " in told or b" 400 " in told


def test_other_protocols_are_no_way_in(here: Here) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Key": "eA==",
        "Sec_WebSocket_Version": 13,
    }
    with here.client(head("GET", "/v1/models", **upgrade)) as client:
        assert status(answer(client)) == 401
    for other in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 100 + b"\r\n\r\n"):
        with here.client(other) as client:
            assert status(answer(client)) in (0, 400, 404)


def test_connections_without_a_request_make_room(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    limits, clients = QUICK, list[socket.socket]()
    for _ in range(2 * limits.connections):
        clients.append(socket.create_connection(("127.0.0.1", here.port)))
    with here.client(head("GET", "/healthz", Connection="close")) as client:
        assert status(answer(client)) == 200
    assert here.open <= limits.connections
    for one in clients:
        one.close()
    here.until_open(0)
    assert "connections without a token are closed" in caplog.text and "Traceback" not in caplog.text


def test_answers_under_way_do_not_make_room(here: Here) -> None:
    here.engine.gate.clear()
    ask = head(token=here.token(), Content_Length=len(QUESTION), Content_Type="application/json", Connection="close")
    with here.client(ask + QUESTION) as asking:
        while not here.engine.streams:
            time.sleep(0.01)
        others = [socket.create_connection(("127.0.0.1", here.port)) for _ in range(3 * QUICK.connections)]
        with here.client(head("GET", "/healthz", Connection="close")) as client:
            assert status(answer(client)) == 200
        here.server.servers[0].get_loop().call_soon_threadsafe(here.engine.gate.set)
        assert b"ada read" in answer(asking)
        for one in others:
            one.close()


def test_a_client_that_does_not_read_is_disconnected(home: Home) -> None:
    with Here(home, QUICK) as here:
        big = head("GET", "/docs-files/swagger-ui-bundle.js")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", here.port))
            client.sendall(big * 8)  # more than the system buffers
            here.until_open(1)
            here.until_open(0)
            received = 0
            with suppress(ConnectionResetError):
                while piece := client.recv(1_000_000):
                    received += len(piece)
        with here.client(head("GET", "/docs-files/swagger-ui-bundle.js", Connection="close")) as client:
            assert 0 < received < 8 * len(answer(client))


def test_one_address_has_a_share_alone() -> None:
    table = ConnectionTable(QUICK.model_copy(update={"connections_per_address": 2}))
    here, there = [object() for _ in range(3)], object()
    assert [table.admit(one, "192.0.2.1") for one in here] == [True, True, False]  # type: ignore[arg-type]
    assert table.admit(there, "192.0.2.2")  # type: ignore[arg-type]
    table.leave(here[0])  # type: ignore[arg-type]
    assert table.admit(here[2], "192.0.2.1")  # type: ignore[arg-type]
    proxied = [object() for _ in range(4)]
    assert all(table.admit(one, network_of("127.0.0.1")) for one in proxied)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1:2:3", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"), ("127.0.0.9", "loopback"), ("::1", "loopback"), ("::ffff:127.0.0.1", "loopback"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_a_network_that_one_client_owns_is_one_address(host: str, network: str) -> None:
    assert network_of(host) == network


def test_descriptors_bound_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = list[object]()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda *told: raised.append(told))
    assert ConnectionTable(Limits())._limit == (1024 - 256 - 128) // 2 and raised == []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    assert ConnectionTable(Limits())._limit == Limits().connections and len(raised) == 1


def test_a_log_does_not_fill_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, bound = [0.0], RateLimitFilter()
    monkeypatch.setattr("ownlm.server.http.connections.time.monotonic", lambda: clock[0])

    def record(line: int, text: str) -> logging.LogRecord:
        return logging.LogRecord("x", logging.ERROR, "file.py", line, text, None, None)

    assert [bound.filter(record(1, "bad")) for _ in range(1000)].count(True) == RateLimitFilter.LINES
    assert bound.filter(record(2, "other"))
    clock[0] += 61
    again = record(1, "bad")
    assert bound.filter(again) and again.getMessage() == "bad (995 more like it before)"


def test_bodies_are_bounded_together(home: Home) -> None:
    limits = QUICK.model_copy(update={"bodies_bytes": 12_000, "body_s": 30, "body_bytes": 4000})
    with Here(home, limits) as here:
        tokens = [here.token(user) for user in ("ada", "bela", "ciro", "dora")]
        how = {"Content_Length": 4000, "Content_Type": "application/json", "Connection": "close"}
        held = []
        for token in tokens[:3]:
            client = socket.create_connection(("127.0.0.1", here.port))
            client.sendall(head(token=token, **how) + b"x" * 3900)
            held.append(client)
        end = time.monotonic() + 30
        while here.state.meter._bodies.total() < 3 * 3900:
            assert time.monotonic() < end
            time.sleep(0.01)
        with here.client(head(token=tokens[0], **how) + b"x" * 4000) as client:
            assert status(answer(client)) == 429
        with here.client(head(token=tokens[3], **how) + b"x" * 4000) as client:
            assert status(answer(client)) == 503
        for one in held:
            one.close()
        here.until_open(0)
        assert not here.state.meter._bodies
        with here.client(head(token=tokens[3], **how | {"Content_Length": len(QUESTION)}) + QUESTION) as client:
            assert status(answer(client)) == 200


def test_other_loggers_of_the_process_stay_as_they_are() -> None:
    """`logging.config` closes every handler of the process, and absl's closes its stream."""
    closed = []

    class Handler(logging.Handler):
        def close(self) -> None:
            closed.append(self)
            super().close()

    handler = Handler()
    server_config(Mock(), Limits())
    assert not closed
    handler.close()
