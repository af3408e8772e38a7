"""The client against a real server on this machine that is slow, silent, wrong or hostile."""

import asyncio
import gzip
import json
import socket
import threading
import time
from email.utils import formatdate

import httpx2 as httpx
import pytest

from ownlm.errors import ConfigError, OwnlmError
from ownlm.http_client import retry_after
from ownlm.inference import endpoint as module
from ownlm.inference.endpoint import Endpoint, answers
from tests.endpoint import Behaviour, Caller, free_port, serving

SECRET, KEY, RUBBISH = "ada's secret", "sk-do-not-tell", "endpoint's rubbish"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a minute, and no proxy of this machine is in the way."""
    monkeypatch.setattr(module, "TIMEOUT_S", 15)
    monkeypatch.setattr(module, "BACK_OFF_S", (0.01, 0.02))
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.3)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(url: str, *users: str, key: str | None = KEY) -> dict[str, str | OwnlmError]:
    return dict(answers(Endpoint(url, "m", key), {user: f"{user}: {SECRET}" for user in users or ("ada",)}))


def failure(behaviour: Behaviour) -> str:
    """What is said of a person's failed request; never what was asked, answered, or the key."""
    with serving(behaviour) as server:
        error = ask(server.url)["ada"]
    assert isinstance(error, OwnlmError)
    said = f"{error} {error.as_dict()}"
    assert "'ada'" in said and error.got and error.hint
    assert not any(word in said for word in (SECRET, KEY, RUBBISH))
    return str(error)


def test_each_user_gets_their_own_answer() -> None:
    together = threading.Barrier(module.AT_ONCE, timeout=10)

    def behaviour(caller: Caller) -> None:
        together.wait()
        time.sleep(0.1)  # a ninth would come in now
        caller.say(f"about {caller.question}")

    users = [f"user {n}" for n in range(3 * module.AT_ONCE)]
    with serving(behaviour) as server:
        assert ask(server.url, *users) == {user: f"about {user}: {SECRET}" for user in users}
    assert len(server.requests) == len(users) and server.most_at_once == module.AT_ONCE


def test_what_is_sent() -> None:
    with serving(lambda caller: caller.say("x")) as server:
        assert ask(server.url + "/") == {"ada": "x"}
        ask(server.url, key=None)
    first, second = server.requests
    assert first.path == second.path == "/v1/chat/completions"
    assert first.sent == {"model": "m", "messages": [{"role": "user", "content": f"ada: {SECRET}"}]}
    assert first.headers["Authorization"] == f"Bearer {KEY}" and first.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in second.headers


@pytest.mark.parametrize("trouble", ["429", "500", "503", "hang", "hang up", "half an answer"])
def test_what_may_pass_is_tried_three_times(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble == "hang":
        monkeypatch.setattr(module, "TIMEOUT_S", 1)

    def behaviour(caller: Caller) -> None:
        if caller.number >= 2:
            caller.say("at last")
        elif trouble.isdigit():
            caller.give(b"", int(trouble))
        elif trouble == "hang":
            caller.hang()
        else:
            caller.close_connection = True
            if trouble == "half an answer":
                caller.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")

    with serving(behaviour) as server:
        assert ask(server.url) == {"ada": "at last"}
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500, 502])
def test_three_tries_are_all(status: int) -> None:
    tries = []

    def behaviour(caller: Caller) -> None:
        tries.append(caller)
        caller.give(RUBBISH.encode(), status)

    assert f"status {status}" in failure(behaviour)
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "the model's name"),
        (401, "OWNLM_PROFILE_KEY"),
        (403, "OWNLM_PROFILE_KEY"),
        (404, "check its URL"),
        (204, ""),
    ],
)
def test_what_does_not_pass_is_tried_once(status: int, hint: str) -> None:
    tries = []

    def behaviour(caller: Caller) -> None:
        tries.append(caller)
        caller.give(b"" if status == 204 else RUBBISH.encode(), status)

    error = failure(behaviour)
    assert f"status {status}" in error and hint in error and len(tries) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    with serving(lambda caller: caller.say("caught")) as other:
        error = failure(lambda caller: caller.give(b"", status, Location=other.url + f"/{RUBBISH.split()[1]}"))
    assert f"status {status}" in error and "redirect" in error and "rubbish" not in error and not other.requests


def test_retry_after_is_honoured_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    pause = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await pause(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    waits = {
        "0.2": 0.2,
        "99999": 0.3,
        "0": 0.01,
        "soon": 0.01,
        "-5": 0.01,
        formatdate(time.time() + 99, usegmt=True): 0.3,
    }
    for header in waits:

        def behaviour(caller: Caller, header: str = header) -> None:  # fmt: skip
            if caller.number == 0:
                caller.give(b"", 429, Retry_After=header)
            else:
                caller.say("x")

        with serving(behaviour) as server:
            assert ask(server.url) == {"ada": "x"}
    assert slept == list(waits.values())


def test_the_seconds_of_a_retry_after() -> None:
    def seconds(text: str) -> float | None:
        return retry_after(httpx.Response(429, headers={"Retry-After": text}))

    assert [seconds(text) for text in ("7", "1.5", "nan", "-1", "inf", "", "x", "9" * 5000)] == [
        7, 1.5, 0, 0, float("inf"), None, None, float("inf")]  # fmt: skip
    assert seconds(formatdate(time.time() + 50, usegmt=True)) == pytest.approx(50, abs=2)
    assert seconds("Mon, 01 Jan 2001 00:00:00 GMT") == 0


def choice(**message: object) -> bytes:
    return json.dumps({"choices": [{"message": {"note": RUBBISH, **message}}]}).encode()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "no JSON"),
        (f"<html>{RUBBISH}</html>".encode(), "no JSON"),
        (b'{"choices": [', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (gzip.compress(choice(content="x"), mtime=0), "no JSON"),
        (b"9" * 9999, "no JSON"),
        (b"null", "choices[0]"),
        (b'"text"', "choices[0]"),
        (f'{{"error": "{RUBBISH}"}}'.encode(), "choices[0]"),
        (b'{"choices": []}', "choices[0]"),
        (b'{"choices": {"a": 1}}', "choices[0]"),
        (b'{"choices": [{"message": null}]}', "choices[0]"),
        (choice(), "choices[0]"),
        (choice(content=None), "NoneType"),
        (choice(content=[{"type": "text", "text": RUBBISH}]), "list"),
        (choice(content=7), "int"),
        (choice(content="x" * 2**20), "1,048,576 bytes"),
    ],
)  # fmt: skip
def test_what_is_no_answer(body: bytes, word: str) -> None:
    error = failure(lambda caller: caller.give(body))
    assert word in error and "status 200" in error


def test_a_short_answer_may_be_anything() -> None:
    for text in ("", "\x00\x1b[31m", "\ud800", "x" * 500_000):
        with serving(lambda caller, text=text: caller.say(text)) as server:  # type: ignore[misc]
            assert ask(server.url) == {"ada": text}


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: y\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
)
def test_drops_without_end_have_a_deadline(first: bytes, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACK_OFF_S", ())
    monkeypatch.setattr(module, "TIMEOUT_S", 0.6)
    error = failure(lambda caller: caller.drip(first, drop))
    assert "within 0.6 s" in error or "broke" in error


def test_an_endless_answer_is_read_up_to_a_bound() -> None:
    written = 0

    def behaviour(caller: Caller) -> None:
        nonlocal written
        caller.close_connection = True
        caller.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(2000):
            written += caller.wfile.write(b"x" * 2**16)

    assert "bytes" in failure(behaviour)
    assert written < 64 * 2**20  # what fits into the system's buffers, not all 125 MiB


def test_a_failure_does_not_stop_other_users() -> None:
    def behaviour(caller: Caller) -> None:
        if caller.question.startswith("u3"):
            caller.give(b"", 404)
        else:
            caller.say("fine")

    with serving(behaviour) as server:
        given = ask(server.url, *(f"u{n}" for n in range(12)))
    assert [user for user, text in given.items() if text != "fine"] == ["u3"] and len(given) == 12


def test_a_row_of_failures_ends_it_and_a_success_between_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    users = [f"u{n}" for n in range(60)]
    with serving(lambda caller: caller.give(RUBBISH.encode(), 401)) as server:
        failed = []
        with pytest.raises(OwnlmError, match="8 times in a row") as caught:
            for outcome in answers(Endpoint(server.url, "m"), dict.fromkeys(users, SECRET)):
                failed.append(outcome)
    assert len(failed) == 8 and len(server.requests) <= 8 + 2 * module.AT_ONCE
    assert "401" in str(caught.value) and SECRET not in str(caught.value)

    monkeypatch.setattr(module, "AT_ONCE", 1)
    with serving(lambda caller: caller.say("x") if caller.number % 5 == 4 else caller.give(b"", 404)) as server:
        assert len(ask(server.url, *users)) == 60


def test_an_unreachable_endpoint_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    attempt = module._try
    monkeypatch.setattr(module, "_try", lambda *asked: tries.append(asked) or attempt(*asked))
    for url in (f"http://127.0.0.1:{free_port()}/v1", "http://no-such-host.invalid/v1"):
        tries.clear()
        with pytest.raises(OwnlmError, match="cannot be reached") as caught:
            ask(url, *(f"u{n}" for n in range(500)))
        assert len(tries) <= 4 * module.AT_ONCE and caught.value.hint and SECRET not in str(caught.value)
    with serving(lambda caller: caller.say("x")) as server, pytest.raises(OwnlmError, match="cannot be reached"):
        ask(server.url.replace("http:", "https:"))  # it speaks no TLS


def test_a_host_that_takes_no_connection_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ownlm.http_client.CONNECT_S", 0.3)
    with socket.socket() as deaf:  # listens, and its queue is full
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        with pytest.raises(OwnlmError, match="cannot be reached"):
            ask(f"http://127.0.0.1:{address[1]}/v1", "ada", "bela")
        for one in waiting:
            one.close()


def test_closing_the_generator_stops_the_sending() -> None:
    threads = threading.active_count()
    with serving(lambda caller: caller.say("x")) as server:
        given = answers(Endpoint(server.url, "m"), {f"u{n}": "q" for n in range(5000)})
        next(given)
        given.close()
        sent = len(server.requests)
        time.sleep(0.3)
        assert sent < 5000 and len(server.requests) <= sent + module.AT_ONCE
    assert threads == threading.active_count()


def test_it_works_inside_a_running_event_loop() -> None:
    async def notebook(url: str) -> dict[str, str | OwnlmError]:
        return ask(url)

    with serving(lambda caller: caller.say("x")) as server:
        assert asyncio.run(notebook(server.url)) == {"ada": "x"}


def test_proxies_are_for_others_than_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda caller: caller.say("x")) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{free_port()}")
        assert ask(server.url) == ask(server.url.replace("127.0.0.1", "localhost")) == {"ada": "x"}
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
        assert ask("http://endpoint.invalid/v1") == {"ada": "x"}
        assert server.requests[-1].path == "http://endpoint.invalid/v1/chat/completions"
    monkeypatch.setenv("HTTP_PROXY", "telnet://x")
    with pytest.raises(ConfigError, match="proxy"):
        ask("http://endpoint.invalid/v1")


def test_an_endpoint_has_a_plain_url_and_a_key_that_can_be_sent() -> None:
    for url in ("", "x", "ftp://a/v1", "http://", "https:///v1", "http://a:port/", "http://[::1", "http://a/\nb",
                f"http://me:{KEY}@a/v1", f"http://a/v1?key={KEY}", "http://a/v1#x", "/v1"):  # fmt: skip
        with pytest.raises(ConfigError, match="URL") as caught:
            Endpoint(url, "m")
        assert KEY not in str(caught.value)
    for key in ("", "a b", "é", "a\nb"):
        with pytest.raises(ConfigError, match="key") as caught:
            Endpoint("http://a", "m", f"{KEY}{key}" if key else " ")
        assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="model"):
        Endpoint("http://a", " ")
    assert KEY not in repr(Endpoint("http://a", "m", KEY))


@pytest.mark.parametrize(
    ("url", "host", "local", "encrypted"),
    [
        ("https://api.example.com/v1", "api.example.com", False, True),
        ("http://api.example.com:8080", "api.example.com:8080", False, False),
        ("http://127.0.0.1:1/v1", "127.0.0.1:1", True, False),
        ("http://127.8.8.8", "127.8.8.8", True, False),
        ("http://[::1]:5/v1", "[::1]:5", True, False),
        ("https://LOCALHOST/v1", "localhost", True, True),
        ("http://127.0.0.1.example.com/", "127.0.0.1.example.com", False, False),
        ("http://localhost.example.com/", "localhost.example.com", False, False),
    ],
)
def test_where_an_endpoint_is(url: str, host: str, local: bool, encrypted: bool) -> None:
    endpoint = Endpoint(url, "m")
    assert (endpoint.host, endpoint.local, endpoint.encrypted) == (host, local, encrypted)
