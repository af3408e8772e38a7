"""Slow and broken networks: never a blank page, always a way on."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.server.page.browser import Visit, until
from tests.server.page.conftest import Served

FAILED = ("Failed to load resource", "GET http")


@pytest.mark.parametrize("missing", ["page.js", "drafts.js", "*.css"])
def test_the_page_has_words_before_and_without_its_other_files(tab: Visit, served: Served, missing: str) -> None:
    tab.allowed = FAILED
    held = list[Any]()
    tab.page.route(f"**/page/**/{missing}", lambda route: held.append(route))  # it never comes
    tab.page.goto(served.url, wait_until="commit")
    words = tab.page.get_by_text("Loading the page…")
    words.wait_for()
    until(tab, lambda: bool(held))
    assert words.is_visible() and tab.page.get_by_role("link", name="load it again").is_visible()
    again = list[Any]()
    tab.page.on("request", lambda request: again.append(request) if request.is_navigation_request() else None)
    # What the browser asks for again fails too, until the page is loaded again.
    tab.page.route(f"**/page/**/{missing}", lambda route: route.continue_() if again else route.abort())
    for route in held:
        route.abort()  # and now it has failed for good
    if not missing.endswith(".css"):
        assert words.is_visible()
        tab.page.get_by_role("link", name="load it again").click()
    tab.page.get_by_label("Your access key").wait_for()
    assert not words.is_visible()


def test_without_javascript_the_page_says_so(open_tab: Callable[..., Visit], served: Served) -> None:
    tab = open_tab(java_script_enabled=False)
    tab.page.goto(served.url)
    tab.page.locator("noscript strong", has_text="This page needs JavaScript").wait_for()
    tab.page.wait_for_load_state()
    assert not tab.page.get_by_text("Loading the page…").is_visible()


def test_everything_is_asked_for_at_once_and_kept(tab: Visit, served: Served) -> None:
    page, asked, held = tab.page, list[str](), list[Any]()
    page.on("request", lambda request: asked.append(request.url.removeprefix(served.url)))
    page.route("**/page/**/page.js", lambda route: held.append(route))
    page.goto(served.url, wait_until="commit")
    until(tab, lambda: len({one for one in asked if one.endswith((".js", ".css"))}) == 18)  # none waits for another
    held[0].continue_()
    page.get_by_label("Your access key").fill(served.tokens["trained"])
    api = list[Any]()
    page.route("**/v1/**", lambda route: api.append(route))
    page.get_by_role("button", name="Sign in").click()
    until(tab, lambda: len(api) == 2)  # who one is, and the tasks
    for route in api[:]:
        route.continue_()
    page.unroute("**/v1/**")
    page.get_by_role("heading", name="Ask").wait_for()
    assert len([one for one in asked if one.startswith("v1/")]) == 2  # nothing is asked for twice


def test_a_slow_answer_is_said_and_can_be_asked_for_again(tab: Visit, served: Served) -> None:
    page = tab.page
    page.clock.install()
    tab.sign_in(served.tokens["trained"])
    held = list[Any]()
    for section, path in (("History", "history"), ("My model", "adapter"), ("You", "me")):
        page.route(f"**/v1/users/{path}*" if path == "me" else f"**/me/{path}?*", lambda route: held.append(route))
        tab.go(section)
        until(tab, lambda: bool(held))
        page.clock.fast_forward(6000)
        note = page.locator("section:not([hidden]) .slow")
        note.get_by_text("The server is slow to answer.").wait_for()
        note.get_by_role("button", name="Try again").click()
        until(tab, lambda: len(held) == 2)
        held[1].continue_()
        page.locator("section:not([hidden]) :is(.record, #adapter-facts .card, #you-facts .card)").first.wait_for()
        note.wait_for(state="hidden")
        page.unroute_all()
        assert tab.focus() != "BODY"
        held.clear()


def test_a_start_that_fails_says_so_and_can_be_tried_again(tab: Visit, served: Served) -> None:
    tab.allowed = FAILED
    page = tab.page
    tab.sign_in(served.tokens["trained"])
    page.route("**/v1/tasks", lambda route: route.abort())
    page.reload()
    page.get_by_role("alert").filter(has_text="The server cannot be reached.").wait_for()
    page.get_by_role("heading", name="Not loaded").wait_for()
    page.unroute("**/v1/tasks")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="Ask").wait_for()
    assert tab.focus() != "BODY"
    page.get_by_role("button", name="Sign out").click()
    page.route("**/v1/tasks", lambda route: route.abort())
    page.get_by_label("Your access key").fill(served.tokens["trained"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").filter(has_text="The server cannot be reached.").wait_for()
    page.unroute("**/v1/tasks")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Ask").wait_for()
