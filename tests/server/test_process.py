"""The server as a process: how it begins and ends, and what it does when a client leaves."""

import json
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from ownlm.home import Home
from ownlm.store.tokens import give_token
from tests.server.process import Process, serve, until
from tests.shell import QuickShell

LONG = {"model": "free-text", "prompt": "a", "max_tokens": 400}


@pytest.fixture
def folder(home: Home) -> Path:
    """A home with a task whose answers are long."""
    home.keep_task("free-text")
    return home.store.folder


def counted(server: Process, operator: str, name: str = "live") -> float:
    """What the engine counts: answers under way, say."""
    lines = server.send("GET", "/metrics", operator).text.splitlines()
    return next(
        float(line.split()[1])
        for line in lines
        if line.startswith((f"ownlm_engine_{name} ", f"ownlm_engine_{name}_total "))
    )


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_answers_under_way_have_come_to_their_end(folder: Path, home: Home, by: signal.Signals) -> None:
    token, operator = give_token(home.store, "ada")[1], give_token(home.store, None)[1]
    answers: list[Any] = []
    with serve(folder) as server:
        assert server.send("GET", "/healthz", operator).json() == {"status": "ok"}
        asking = threading.Thread(target=lambda: answers.append(server.send("POST", "/v1/completions", token, LONG)))
        asking.start()
        until(lambda: counted(server, operator))
        status, told = server.end(by)
        asking.join()
    assert status == 0 and "ending after the answers under way" in told and len(told.splitlines()) == 1
    answer = answers[0].json()
    assert answer["choices"][0]["finish_reason"] in ("length", "stop") and answer["usage"]["completion_tokens"] > 1


def test_who_leaves_frees_their_place(folder: Path, home: Home) -> None:
    token, operator = give_token(home.store, "ada")[1], give_token(home.store, None)[1]
    with serve(folder) as server:
        where, many = urlsplit(server.url), 16
        whole = server.send("POST", "/v1/completions", token, LONG).json()["usage"]["completion_tokens"]
        for how in ({"stream": True}, {"prompt": ["a"] * many}):
            before = counted(server, operator, "tokens")
            body = json.dumps(LONG | how).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.create_connection((str(where.hostname), int(where.port or 0))) as client:
                client.sendall(head.encode() + body)
                until(lambda: counted(server, operator, "tokens") > before)  # noqa: B023
            until(lambda: counted(server, operator) == 0)
        assert counted(server, operator, "tokens") < before + many * whole
        assert server.end(signal.SIGTERM)[0] == 0


def test_ctrl_c_again_breaks_answers_off(folder: Path, home: Home) -> None:
    token, operator = give_token(home.store, "ada")[1], give_token(home.store, None)[1]
    with serve(folder) as server:

        def ask() -> None:
            with suppress(httpx2.HTTPError):
                server.send("POST", "/v1/completions", token, LONG)

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: counted(server, operator))
        server.popen.send_signal(signal.SIGINT)
        time.sleep(0.2)
        _, told = server.end(signal.SIGINT)
        asking.join()
        assert "Traceback" not in told and len(told.splitlines()) == 1


def test_a_home_has_one_server_and_a_port_one_listener(folder: Path, tmp_path: Path) -> None:
    shell = QuickShell(tmp_path)
    with serve(folder) as server:
        told = shell.run("serve", "--home", folder, "--port", 0, code=1)
        assert "is being served already" in told and "end that server" in told
        other = Home(tmp_path / "other")
        told = shell.run("serve", "--home", other.store.folder, "--port", urlsplit(server.url).port, code=1)
        assert "Nothing can listen at 127.0.0.1" in told and "--port" in told
