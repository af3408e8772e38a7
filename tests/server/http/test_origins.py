"""Pages of other origins: who may use the API from a browser, and that they can read every answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ownlm.errors import ConfigError
from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.http.origins import RESERVED, clean_origin, clean_root_path
from ownlm.server.limits import Limits
from ownlm.store.tokens import give_token
from tests.server.fake_engine import FakeEngine
from tests.shell import QuickShell

CHAT = "/v1/chat/completions"
PAGE, OTHER = "https://chat.example.org", "https://elsewhere.example.org"
ASKED = {"model": "sorting", "messages": [{"role": "user", "content": "thing"}]}
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(request: pytest.FixtureRequest, home: Home, engine: FakeEngine) -> Iterator[TestClient]:
    """A client of ada's at a server that allows the origins of the parameter."""
    app = create_app(home, engine, Limits(grace_s=0, body_bytes=10_000), origins=request.param)
    head = {"Authorization": f"Bearer {give_token(home.store, 'ada')[1]}"}
    with TestClient(app, headers=head, raise_server_exceptions=False) as client:
        yield client


ONE = pytest.mark.parametrize("client", [["http://localhost:3000", f"{PAGE}/"]], indirect=True)
ALL = pytest.mark.parametrize("client", [["*"]], indirect=True)
NONE = pytest.mark.parametrize("client", [[]], indirect=True)


def allowed(response: Any) -> str | None:
    value: str | None = response.headers.get("access-control-allow-origin")
    assert "access-control-allow-credentials" not in response.headers
    return value


@ONE
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_preflight_allows_methods_and_the_headers_that_clients_send(client: TestClient, method: str) -> None:
    told = client.options(CHAT, headers={"Origin": PAGE} | PREFLIGHT | {"Access-Control-Request-Method": method})
    assert told.status_code == 200 and allowed(told) == PAGE and method in told.headers["access-control-allow-methods"]
    assert told.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    local = client.options(CHAT, headers={"Origin": PAGE, "Access-Control-Request-Private-Network": "true"} | PREFLIGHT)
    assert local.headers["access-control-allow-private-network"] == "true"


@ONE
def test_other_origins_are_not_allowed(client: TestClient) -> None:
    told = client.options(CHAT, headers={"Origin": OTHER} | PREFLIGHT)
    assert told.status_code == 400 and allowed(told) is None
    for origin in (OTHER, "null", f"{PAGE}.evil.example", "http://chat.example.org"):
        assert allowed(client.get("/v1/models", headers={"Origin": origin})) is None


@ONE
def test_answers_streams_and_errors_can_be_read(
    client: TestClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = {"Origin": PAGE}

    def told(status: int, **changes: Any) -> Any:
        how: dict[str, Any] = {"method": "POST", "url": CHAT, "json": ASKED, "headers": page} | changes
        response = client.request(**how)
        assert response.status_code == status, response.text
        assert allowed(response) == PAGE and "Origin" in response.headers["vary"]
        return response

    told(200)
    exposed = told(200, json=ASKED | {"stream": True}).headers["access-control-expose-headers"]
    assert {"Retry-After", "X-Should-Retry", "Content-Disposition"} <= set(exposed.split(", "))
    told(400, json=ASKED | {"stop": 5})
    told(401, headers=page | {"Authorization": "Bearer own_wrong"})
    told(401, headers=page | {"Authorization": ""})
    told(403, method="GET", url="/metrics")
    told(404, json=ASKED | {"model": "nothing"})
    told(404, url="/nothing")
    told(405, method="PUT")
    told(413, content=b"x" * 20_000, json=None)
    monkeypatch.setattr("ownlm.server.routes.openai.bind_question", lambda *_: 1 / 0)
    told(500)
    monkeypatch.undo()
    engine.full = True
    told(429)


@ALL
def test_all_origins_may_be_allowed(client: TestClient) -> None:
    for origin in (PAGE, OTHER, "null"):
        assert allowed(client.options(CHAT, headers={"Origin": origin} | PREFLIGHT)) == "*"
        assert allowed(client.post(CHAT, json=ASKED, headers={"Origin": origin})) == "*"
        assert allowed(client.get("/v1/models", headers={"Origin": origin, "Authorization": ""})) == "*"


@NONE
def test_none_is_allowed_by_default(client: TestClient) -> None:
    assert client.options(CHAT, headers={"Origin": PAGE} | PREFLIGHT).status_code == 405
    response = client.post(CHAT, json=ASKED, headers={"Origin": PAGE})
    assert response.status_code == 200 and not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("text", [
    "", "chat.example.org", "https://", "https://a/path", "https://a b", "https://user@a", "https://*.example.org",
    "null", "https://a:port", "https://a\nb", "**",
])  # fmt: skip
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="scheme://host"):
        clean_origin(text)


@pytest.mark.parametrize(("text", "origin"), [
    ("HTTP://LocalHost:3000", "http://localhost:3000"), ("http://a:80", "http://a"), ("https://a:80", "https://a:80"),
    ("http://[::1]:8080/", "http://[::1]:8080"), ("app://obsidian.md", "app://obsidian.md"), ("*", "*"),
])  # fmt: skip
def test_origins_are_as_browsers_send_them(text: str, origin: str) -> None:
    assert clean_origin(text) == origin


@pytest.mark.parametrize("text", ["/a b", "/a?b", "/a/../b", "/..", "/ä", "http://a/b", "/a//b", "/v1", "/docs/x"])
def test_what_is_no_root_path_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="root path"):
        clean_root_path(text)


def test_every_path_of_the_api_is_reserved(home: Home) -> None:
    app = create_app(home, FakeEngine())
    paths = {*app.openapi()["paths"], *(getattr(route, "path", "/") for route in app.routes)}
    assert {path.split("/")[1] for path in paths} - {""} == RESERVED


@pytest.mark.parametrize("option", [("--root-path", "/v1"), ("--allow-origin", "*", "--allow-origin", "example.org")])
def test_the_command_refuses_them_before_it_serves(shell: QuickShell, option: tuple[str, ...]) -> None:
    assert f"Got: '{option[-1]}'" in shell.run("serve", "--port", 0, *option, code=1)
