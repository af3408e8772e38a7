"""The page's manners: hostile texts, failures, the keyboard, small windows, contrast, what it loads."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import ownlm
from tests.server.page.browser import Visit, until
from tests.server.page.conftest import Served
from tests.server.page.fake_people import XSS

PAGE = Path(ownlm.__file__).parent / "server" / "page"
REFUSED = "Failed to load resource: the server responded with a status of"
SECTIONS = ("Ask", "History", "My model", "You")
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const known = new Map();
  const rgba = (colour) => {
    if (known.has(colour)) return known.get(colour);
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    known.set(colour, canvas.getImageData(0, 0, 1, 1).data);
    return known.get(colour);
  };
  const light = (c) => [0, 1, 2].map((n) => c[n] / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, n) => sum + v * [.2126, .7152, .0722][n], 0);
  const behind = (one) => { for (; one; one = one.parentElement) {
    const colour = getComputedStyle(one).backgroundColor;
    if (rgba(colour)[3] > 250) return colour;
  } return 'Canvas'; };
  const poor = [];
  for (const one of document.querySelectorAll('body *')) {
    const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !one.checkVisibility() || one.closest('.unseen, option, :disabled')) continue;
    const [a, b] = [light(rgba(getComputedStyle(one).color)), light(rgba(behind(one)))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(`${one.tagName} ${one.className} ${one.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
NAMELESS = """() => [...document.querySelectorAll(
  'input, select, textarea, button, a, [role=img], dialog, nav, section')]
  .filter((one) => !one.labels?.length && !one.ariaLabel && !one.getAttribute('aria-labelledby'))
  .filter((one) => !one.textContent.trim())
  .map((one) => one.outerHTML.slice(0, 80))"""


def test_hostile_texts_stay_texts(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["hostile"])
    page = tab.page
    page.get_by_role("textbox", name="Text").fill(XSS)
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("article", name="Shared model").get_by_text(XSS).wait_for()
    own = page.get_by_role("article", name="Your own model")
    own.get_by_text("Your own model cannot be used now: this is the shared model's answer.").wait_for()
    tab.go("History")
    row = page.locator(".record").first
    row.get_by_text(XSS).first.wait_for()
    assert row.locator("dd").first.inner_text() == XSS
    long = page.locator("[data-id=long]")
    hidden = len(long.locator("dd").first.inner_text())
    long.get_by_role("button", name="show all").click()
    assert len(long.locator("dd").first.inner_text()) > 3 * hidden
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("5 records").wait_for()
    tab.go("My model")
    page.get_by_text("Shared pieces in it are no longer available").wait_for()
    assert page.evaluate("window.hurt") is None
    assert page.locator("#signed-in img, #signed-in script").count() == 0


@pytest.mark.parametrize("name", [".", ".."])
def test_a_record_named_like_a_way_up_deletes_nothing_else(tab: Visit, served: Served, name: str) -> None:
    someone = served.fake.people[served.tokens["trained"]]
    someone.records["triage"][0]["id"] = name
    tab.sign_in(served.tokens["trained"], "history")
    tab.page.locator(".record").first.get_by_role("button", name="Delete").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    tab.page.get_by_role("alert").filter(has_text="cannot be reached from here").wait_for()
    assert served.fake.people[served.tokens["trained"]] is someone and len(someone.records["triage"]) == 43


@pytest.mark.parametrize("section", SECTIONS)
def test_a_dead_token_signs_out_wherever_one_is(tab: Visit, served: Served, section: str) -> None:
    from playwright.sync_api import Error  # which may be missing: then nothing here is run

    tab.allowed = (f"{REFUSED} 401",)
    tab.sign_in(served.tokens["trained"], "history" if section == "Ask" else "ask")
    tab.main.get_by_text("43 records" if section == "Ask" else "File the message").first.wait_for()
    del served.fake.people[served.tokens["trained"]]
    with suppress(Error):  # the page asks by itself too, and may just be signing out
        tab.page.evaluate(f"location.hash = '#{section.lower().removeprefix('my ')}'")
    tab.page.get_by_text("Your access key is no longer valid, so you were signed out.").wait_for()
    assert tab.page.evaluate("sessionStorage.length") == 0
    assert tab.page.locator(".record").count() == 0


def test_failures_say_what_to_do_and_can_be_tried_again(tab: Visit, served: Served) -> None:
    tab.allowed = (REFUSED, "Failed to load resource: net::ERR_FAILED")
    tab.sign_in(served.tokens["trained"])
    page, refuse = tab.page, served.fake.refuse
    refuse["/v1/users/me/history"] = 503
    tab.go("History")
    alert = page.get_by_role("alert")
    alert.filter(has_text="Refused with 503").wait_for()
    assert "The server is busy or stopping." in alert.inner_text()
    alert.get_by_role("button", name="Try again").click()
    page.get_by_text("43 records, the newest").wait_for()
    assert alert.count() == 0
    tab.go("Ask")
    page.get_by_role("textbox", name="Text").fill("anything")
    refuse["/v1/chat/completions"] = 429  # one of the two
    page.get_by_role("button", name="Ask both").click()
    alert.filter(has_text="Refused with 429").wait_for()
    assert "Wait 2 s, then try again." in alert.inner_text()
    page.route("**/v1/**", lambda route: route.abort())
    tab.go("You")
    alert.filter(has_text="The server cannot be reached.").last.wait_for()
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").last.click()
    page.get_by_text("You agree to share since").wait_for()


def test_a_job_outlives_a_lost_connection(tab: Visit, served: Served) -> None:
    tab.allowed = (REFUSED,)
    tab.sign_in(served.tokens["trained"], "model")
    served.fake.refuse["/v1/users/me/jobs/job-0"] = 503
    tab.page.get_by_role("button", name="Learn from my records").click()
    tab.main.get_by_text("Learning from your records is done").wait_for()
    assert served.fake.refuse == {}  # it was refused once
    assert [job["state"] for job in served.fake.people[served.tokens["trained"]].jobs] == ["done"]


def test_everything_can_be_done_from_the_keyboard(tab: Visit, served: Served) -> None:
    page, keyboard = tab.page, tab.page.keyboard

    def tab_to(name: str, back: bool = False) -> None:
        for _ in range(40):
            keyboard.press("Shift+Tab" if back else "Tab")
            here = "one => (one.labels?.[0] ?? one).textContent.trim() + '|' + (one.ariaLabel ?? '')"
            told = page.evaluate(f"({here})(document.activeElement)")
            if told.startswith(name) or f"|{name}" in told:
                ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert ring != "none", f"no visible focus on {name}"
                return
        raise AssertionError(f"{name} is not reached by the Tab key")

    page.goto(served.url)
    page.get_by_label("Your access key").wait_for()
    keyboard.type(served.tokens["trained"])  # the focus is there
    keyboard.press("Enter")
    page.get_by_role("heading", name="Ask").wait_for()
    page.reload()
    page.get_by_role("heading", name="Ask").wait_for()
    for name in ("Skip to the content", "Sign out", "Ask", "History"):  # in this order
        tab_to(name)
    keyboard.press("Enter")
    page.get_by_text("43 records").wait_for()
    assert page.evaluate("document.activeElement.id") == "h-history"
    assert page.title() == "My history · ownlm"
    tab_to("Delete record r-0042")
    keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Cancel"
    keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Delete record r-0042"
    keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to("Delete")
    keyboard.press("Enter")
    page.get_by_text("42 records").wait_for()
    assert page.evaluate("document.activeElement.dataset.id") == "r-0041"
    tab_to("Ask", back=True)
    keyboard.press("Enter")
    tab_to("text")
    keyboard.type("From the club: lunch?")
    tab_to("Ask both")
    keyboard.press("Enter")
    page.get_by_role("article", name="Your own model").get_by_text("later", exact=True).wait_for()
    page.locator("#said", has_text="Your own model: later. Shared model: bin").wait_for(state="attached")
    tab_to("Keep as a record")
    keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "one-folder"


def test_a_question_asked_again_at_once_is_heard(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"], "history")
    delete = tab.page.get_by_role("button", name="Delete record r-0042")
    delete.click()
    tab.page.get_by_role("dialog").wait_for()
    delete.evaluate("one => { document.getElementById('sure').close(); one.click(); }")
    tab.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    tab.page.get_by_text("42 records").wait_for()
    assert delete.count() == 0


@pytest.mark.parametrize(("who", "width", "height"), [("hostile", 320, 640), ("assembled", 360, 740)])
def test_nothing_is_wider_than_a_phone(
    open_tab: Callable[..., Visit], served: Served, who: str, width: int, height: int
) -> None:
    tab = open_tab(viewport={"width": width, "height": height}, is_mobile=True, has_touch=True)
    tab.sign_in(served.tokens[who])
    page = tab.page
    page.get_by_role("textbox", name="Text").fill("From the club")
    page.get_by_label("Choose one").uncheck()
    page.get_by_role("button", name="Ask both").tap()
    tab.main.locator(".meta").nth(1).wait_for()
    for section in SECTIONS:
        tab.go(section)
        page.get_by_role("heading", level=1).wait_for()
        for folded in page.locator("#main section:not([hidden]) summary:visible").all():
            folded.tap()
        page.wait_for_timeout(150)
        scroll, window = tab.width()
        assert scroll <= window == width, section


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_and_controls_have_names(open_tab: Callable[..., Visit], served: Served, scheme: str) -> None:
    tab = open_tab(color_scheme=scheme, reduced_motion="reduce")
    page = tab.page
    page.goto(served.url)
    page.get_by_label("Your access key").wait_for()
    assert page.evaluate(CONTRAST) == []
    for who in ("trained", "assembled"):
        tab.sign_in(served.tokens[who])
        page.get_by_role("textbox", name="Text").fill("From the club")
        page.get_by_role("button", name="Ask both").click()
        tab.main.locator(".meta").nth(1).wait_for()
        for section in SECTIONS:
            tab.go(section)
            page.wait_for_timeout(150)
            assert page.evaluate(CONTRAST) == [], section
            assert page.evaluate(NAMELESS) == [], section
            assert page.evaluate("document.getAnimations().length") == 0
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Your access key").wait_for()


def test_answers_in_arrears_belong_to_their_task_alone(tab: Visit, served: Served) -> None:
    served.fake.pause_s = 1
    tab.sign_in(served.tokens["trained"])
    tab.page.get_by_role("textbox", name="Text").fill("anything")
    tab.page.get_by_role("button", name="Ask both").click()
    tab.page.get_by_role("button", name="Stop").wait_for()
    tab.page.get_by_label("Task").select_option("git-commit")
    until(tab, lambda: served.fake.stopped == 2)
    assert not tab.page.locator("#answers").is_visible()
    assert not tab.page.get_by_role("button", name="Stop").is_visible()


def test_the_files_hold_nothing_that_a_strict_policy_forbids() -> None:
    html = (PAGE / "index.html").read_text("utf8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", html)
    for file in sorted(PAGE.iterdir()):
        text = file.read_text("utf8")
        addresses = set(re.findall(r"https?://[^\s\"')]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not addresses, file.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|@import", text
        )
        assert len(text.splitlines()) <= 400, file.name
