"""The page, the description of the API and the API below a path of a reverse proxy, with and without `--root-path`."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest

from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.tokens import give_token
from tests.server.fake_engine import FakeEngine
from tests.server.http.proxy import PREFIX, proxied
from tests.server.page.browser import serving, visit

Below = tuple[str, Home, bool]  # address, home, whether the server knows its prefix


@pytest.fixture(params=["strips", "passes on", "strips, unknown to the server"])
def below(request: pytest.FixtureRequest, home: Home) -> Iterator[Below]:
    known, strips = "unknown" not in request.param, "strips" in request.param
    app = create_app(home, FakeEngine(), Limits(grace_s=0), root_path=f"{PREFIX}/" if known else "")
    with serving(app) as behind, proxied(behind, strips=strips) as url:
        yield url, home, known


def test_every_address_of_the_api(below: Below) -> None:
    url, home, known = below
    head = {"Authorization": f"Bearer {give_token(home.store, 'ada')[1]}"}
    with httpx2.Client(headers=head, timeout=60) as client:
        for path, kind in {
            "/": "text/html", "/healthz": "json", "/v1/models": "json", "/docs": "text/html",
            "/docs-files/swagger-ui-bundle.js": "javascript", "/docs-files/swagger-ui.css": "text/css",
        }.items():  # fmt: skip
            got = client.get(url + path)
            assert got.status_code == 200 and kind in got.headers["content-type"], path
            assert "script-src 'self'" in got.headers["content-security-policy"]
            assert ("unsafe-inline" in got.headers["content-security-policy"]) == (path == "/docs"), path
        for address in [f"{url}/", url] if known else [f"{url}/"]:  # without the slash the prefix must be known
            page = client.get(address).text
            based = re.search('<base href="([^"]+)">', page)
            files = re.findall('(?:href|src)="(page/[^"]+)"', page)
            assert len(files) > 15
            for name in (files[0], files[-1]):
                got = client.get(urljoin(urljoin(address, based[1] if based else ""), name))
                assert got.status_code == 200 and got.url.path.startswith(f"{PREFIX}/page/")
        described = client.get(f"{url}/openapi.json").json()
        (server,) = described["servers"]
        root = urljoin(f"{url}/openapi.json", server["url"]).rstrip("/")
        assert root == url and client.get(f"{root}/v1/tasks").status_code == 200
        asked = {"model": "sorting", "messages": [{"role": "user", "content": "a"}]}
        assert client.post(f"{url}/v1/chat/completions", json=asked).json()["ownlm"]["base"] == "tiny"
        missing = client.get(f"{url}/nothing/here")
        assert missing.status_code == 404
        assert f"{PREFIX}/docs for all routes" in missing.text if known else "/docs for all routes" in missing.text


def test_the_page_and_the_description_in_a_browser(browser: Any, below: Below) -> None:
    url, home, known = below
    with visit(browser, url) as tab:
        tab.page.goto(url if known else f"{url}/")  # a server that does not know its prefix needs the slash
        tab.page.get_by_label("Your access key").fill(give_token(home.store, "ada")[1])
        tab.page.get_by_role("button", name="Sign in").click()
        tab.page.get_by_role("button", name="Sign out").wait_for()
        tab.go("History")
        tab.main.get_by_text("ada secret6 said").first.wait_for()
        assert tab.page.url.startswith(f"{url}/#")

        tab.page.goto(f"{url}/docs")
        tab.page.locator("#operations-server-healthz_healthz_get").click()
        tab.page.get_by_role("button", name="Try it out").click()
        tab.page.get_by_role("button", name="Execute").click()
        tab.page.locator(".live-responses-table").get_by_text('"ok"').wait_for()
        assert f"{url}/healthz" in tab.page.locator(".request-url").inner_text().split()
        assert tab.wrong == []
