"""The page before a real server, with a real engine and real training: one journey, from nothing to nothing."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ownlm.home import Home
from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.scheduler import EngineLimits
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.tokens import give_token
from tests.server.page.browser import Visit, serving, visit
from tests.sharing import TASK

LONG_MS = 120_000  # of work in a process of its own


@pytest.fixture
def at_home(browser: Any, shared: Home) -> Iterator[tuple[Visit, Home]]:
    """A tab at the page of a home in which four people share."""
    app = create_app(shared, AsyncEngine(shared.store, limits=EngineLimits(slots=4)), Limits(grace_s=0))
    with serving(app) as url, visit(browser, url) as tab:
        yield tab, shared
        assert tab.wrong == []


def test_a_newcomer_adds_assembles_trains_asks_downloads_and_leaves(at_home: tuple[Visit, Home]) -> None:
    tab, home = at_home
    page = tab.page
    tab.sign_in(give_token(home.store, "nina")[1], "history")
    page.locator("#add > summary").click()
    page.get_by_role("button", name="Several").click()
    lines = [f'{{"id": "n{n}", "text": "nina wrote {n}", "folder": "bin"}}' for n in range(6)]
    page.locator("#many-text").fill("\n".join(lines))
    page.get_by_role("button", name="Add records").click()
    page.get_by_text("6 records added").wait_for()
    assert [record.id for record in home.history("nina", TASK).records] == [f"n{n}" for n in range(6)]

    tab.go("My model")
    page.get_by_role("button", name="Put together from shared pieces").click()
    tab.main.get_by_text("Putting your model together is done").wait_for(timeout=LONG_MS)
    tab.main.get_by_text("Where its pieces come from").wait_for()
    assert home.latest_adapters()[TASK, "nina"].is_recipe

    page.get_by_role("button", name="Learn from my records").click()
    tab.main.get_by_text("Learning from your records is done").wait_for(timeout=LONG_MS)
    made = home.latest_adapters()[TASK, "nina"]
    assert made.method == "lora"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert zipfile.is_zipfile(Path(download.value.path()))

    tab.go("Ask")
    page.locator("#ask-text").fill("nina wrote 7")
    page.get_by_role("button", name="Ask both").click()
    own = page.get_by_role("article", name="Your own model")
    own.get_by_text(f"version {made.id[:8]}").wait_for(timeout=LONG_MS)
    asked = home.ask("nina", "nina wrote 7", TASK, choose=True).answer
    assert asked and own.get_by_text(asked, exact=True).is_visible()

    tab.go("You")
    page.locator("#forget-name").fill("nina")
    page.locator("#forget-form button").click()
    page.get_by_text("You are forgotten").wait_for(timeout=LONG_MS)
    assert "nina" not in {person.user for person in home.histories()} and home.adapters("nina") == []
