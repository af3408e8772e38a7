"""The page under test: who serves it, and the browser that it is driven in."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.server.page.browser import ARGUMENTS, Visit, chromium, serving, visit
from tests.server.page.fake_server import Fake, make_app


@dataclass
class Served:
    """Where the page is, and tokens by what their people have: newcomer, trained, assembled, failing, hostile.

    Another server takes the fake one's place by giving another of these; `fake` is what a test may say of the server.
    """

    url: str
    tokens: dict[str, str]
    fake: Fake


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for a module's tests."""
    api = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: the page. playwright is not installed")
    path = chromium()
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def _fake() -> Iterator[tuple[str, Fake]]:
    fake = Fake()
    with serving(make_app(fake)) as url:
        yield url, fake


@pytest.fixture
def served(_fake: tuple[str, Fake]) -> Served:
    """The server, with everybody as they were at first."""
    url, fake = _fake
    fake.reset()
    names = ("newcomer", "trained", "assembled", "failing", "hostile")
    return Served(url, {name: f"tok-{name}-0123456789" for name in names}, fake)


@pytest.fixture
def open_tab(browser: Any, served: Served) -> Iterator[Callable[..., Visit]]:
    """Opens tabs. At the end, none of them has said anything wrong."""
    tabs: list[Visit] = []
    with ExitStack() as stack:

        def opened(**options: Any) -> Visit:
            tabs.append(stack.enter_context(visit(browser, served.url, **options)))
            return tabs[-1]

        yield opened
        wrong = [text for tab in tabs for text in tab.wrong if not text.startswith(tab.allowed or ("\0",))]
    assert wrong == []


@pytest.fixture
def tab(open_tab: Callable[..., Visit]) -> Visit:
    """A tab at the page."""
    return open_tab()
