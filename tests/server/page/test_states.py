"""What the page says is true in every state, each offer works, and all of it is in plain words."""

import re
from collections.abc import Callable

import pytest

from tests.server.page.browser import Visit
from tests.server.page.conftest import Served
from tests.server.page.fake_people import adapter

JARGON = re.compile(
    r"\b(adapters?|lora|peft|vllm|tokens?|loss|recipes?|pools?|ranks?|epochs?|batch|steps?|weights?|gpus?|base|bases|"
    r"layers?|modules?|parameters?|operators?|sharers?|profiles?|assembl\w*|fine-tun\w*|embedding\w*|inference|api)\b",
    re.IGNORECASE,
)
WORDS = """() => {
  const copy = document.body.cloneNode(true);
  for (const one of copy.querySelectorAll('code, .technical, #task, .text, #ask-intro, noscript, script')) one.remove();
  const said = [...copy.querySelectorAll('*')].flatMap((one) =>
    ['aria-label', 'title', 'placeholder', 'alt', 'data-missing'].map((name) => one.getAttribute(name) ?? ''));
  return copy.textContent + ' ' + said.join(' ');
}"""
LEARN, PIECES = "Learn from my records", "Put together from shared pieces"


@pytest.mark.parametrize("who", ["newcomer", "trained", "assembled", "failing", "hostile"])
def test_nothing_is_said_in_the_words_of_the_trade(tab: Visit, served: Served, who: str) -> None:
    tab.page.goto(served.url)
    tab.page.get_by_label("Your access key").wait_for()
    assert not JARGON.findall(tab.page.evaluate(WORDS))
    tab.sign_in(served.tokens[who])
    page = tab.page
    page.get_by_role("textbox", name="Text").fill("From the club")
    page.keyboard.press("Control+Enter")
    page.locator(".meta").first.wait_for()
    for section, ready in (
        ("History", ".record, #history-count button"),
        ("My model", "#train-help"),
        ("You", ".facts"),
    ):
        tab.go(section)
        page.locator(f"section:not([hidden]) :is({ready})").filter(has_text=re.compile(r"\S")).first.wait_for()
    words = page.evaluate(WORDS)
    assert len(words) > 2000 and not JARGON.findall(words)


def test_what_cannot_be_had_is_not_offered_and_the_reason_is_said(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"], "model")
    page = tab.page
    for reason, words in (
        ("no_records", "It needs records of yours"),
        ("at_work", "The server is "),
        ("no_base", "This server has no base model yet."),
        ("no_pieces", "There are no shared pieces in this task yet."),
        ("waits", "You can assemble again when that is done."),
        ("up_to_date", "there is nothing new."),
    ):
        served.fake.not_offered = {"train": reason, "assemble": reason}
        tab.go("Ask")
        tab.go("My model")
        for kind, name in (("train", LEARN), ("assemble", PIECES)):
            page.locator(f"#{kind}-help", has_text=words).wait_for()
            assert page.get_by_role("button", name=name).is_disabled(), reason
    served.fake.not_offered = {}
    tab.go("Ask")
    tab.go("My model")
    page.locator("#assemble-help", has_text="Chooses, to fit your records").wait_for()
    assert page.get_by_role("button", name=LEARN).is_enabled() and page.get_by_role("button", name=PIECES).is_enabled()


def test_a_model_is_praised_or_blamed_by_evidence_alone(tab: Visit, served: Served) -> None:
    someone = served.fake.people[served.tokens["trained"]]
    someone.versions["triage"][0] |= {"steps": 4, "loss_first": 0.95, "loss_last": 0.07, "behind": 0}
    tab.sign_in(served.tokens["trained"])
    for verdict, records, words in (
        (None, None, "How good it is has not been measured"),
        ("better", 6, "Tried on 6 records that it did not know yet, it did better than the shared model."),
        ("worse", 6, "it did worse than the shared model"),
        ("unclear", 6, "neither clearly better nor clearly worse"),
        ("little", None, "It has changed very little in learning"),
    ):
        someone.worth = {"verdict": verdict, "records": records, "words": ""}
        tab.go("My model")
        tab.page.locator("#standing", has_text=words).wait_for()
        assert "up to date with your records" in tab.page.locator("#standing").inner_text()
        assert ("little" in tab.page.locator("#standing").inner_text()) is (verdict == "little")
        tab.go("Ask")


def test_what_a_model_lacks_is_said(tab: Visit, served: Served) -> None:
    someone = served.fake.people[served.tokens["trained"]]
    tab.sign_in(served.tokens["trained"])
    for state, words in (
        ({"behind": 1}, "It does not know 1 newer record."),
        ({"forgotten": 2}, "It still remembers 2 records that you deleted"),
        ({"waits": True}, "Shared pieces in it are being withdrawn"),
        ({"stale": "too few"}, "Shared pieces in it are no longer available"),
        ({}, "It is up to date with your records."),
    ):
        someone.versions["triage"] = [adapter(20, "recipe", 40, **state)]
        tab.go("My model")
        tab.page.locator("#standing", has_text=words).wait_for()
        assert tab.page.get_by_role("button", name="Download").is_visible() is ("stale" not in state)
        tab.go("Ask")


def test_new_records_promise_nothing_that_is_not_so(tab: Visit, served: Served) -> None:
    served.fake.not_offered = {"train": "no_base", "assemble": "no_pieces"}
    tab.sign_in(served.tokens["newcomer"], "history")
    page = tab.page
    page.get_by_role("button", name="add one").click()
    page.get_by_role("textbox", name="Text").fill("From the mum: call me")
    page.get_by_label("Folder").select_option("family")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_role("link", name="See what can be made of them").click()
    page.get_by_text("This server has no base model yet.").wait_for()
    tab.go("Ask")
    assert page.get_by_role("button", name="Ask both").count() == 0  # there is one model to ask


def test_a_job_is_cancelled_and_can_be_asked_for_again(tab: Visit, served: Served) -> None:
    served.fake.looks = 10_000
    tab.sign_in(served.tokens["trained"], "model")
    page = tab.page
    page.get_by_role("button", name=LEARN).click()
    page.locator("#train-help", has_text="The server is learning from your records.").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#job-train", has_text="Learning from your records was cancelled.").wait_for()
    page.locator("#train:enabled").wait_for()
    assert tab.focus() != "BODY"


def test_a_job_takes_its_own_button_alone(tab: Visit, served: Served) -> None:
    served.fake.looks = 10_000
    tab.sign_in(served.tokens["failing"], "model")
    page = tab.page
    page.get_by_role("button", name=LEARN).click()
    page.locator("#train:disabled").wait_for()
    page.get_by_role("button", name=PIECES).click()
    page.locator("#assemble:disabled").wait_for()
    page.reload()  # both are found again
    page.locator("#job-train", has_text="Learning from your records").wait_for()
    page.locator("#job-assemble").get_by_role("button", name="Cancel").click()
    page.locator("#job-assemble", has_text="Putting your model together was cancelled.").wait_for()
    page.locator("#assemble:enabled").wait_for()
    assert page.locator("#train").is_disabled() and page.locator("#job-train progress").is_visible()


def test_the_former_address_of_a_section_leads_to_it(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"], "adapter")
    tab.page.get_by_role("heading", name="My model").wait_for()


def test_a_failure_that_a_newer_model_has_overtaken_is_not_told(tab: Visit, served: Served) -> None:
    someone = served.fake.people[served.tokens["failing"]]
    failed = {"id": "j", "kind": "train", "task": "triage", "state": "failed", "error": {"what": "Oh.", "hint": "x"}}
    someone.jobs = [failed | {"ended": "2026-11-10T00:00:00+00:00"}]
    tab.sign_in(served.tokens["failing"], "model")
    tab.page.get_by_role("alert").filter(has_text="Learning from your records failed. Oh.").wait_for()
    someone.versions["triage"] = [adapter(20, "lora", 5)]
    tab.page.reload()
    tab.page.locator("#standing", has_text="up to date").wait_for()
    assert tab.page.get_by_role("alert").count() == 0


def test_numbers_and_dates_are_written_as_in_the_viewers_country(
    open_tab: Callable[..., Visit], served: Served
) -> None:
    tab = open_tab(locale="de-DE", timezone_id="Europe/Berlin")
    someone = served.fake.people[served.tokens["assembled"]]
    someone.versions["triage"][0] |= {"records": 12_345, "bytes": 1_858_776}
    tab.sign_in(served.tokens["assembled"], "model")
    facts = tab.page.locator("#adapter-facts .facts")
    facts.get_by_text("12.345 records").wait_for()
    assert "1,9 MB" in facts.inner_text() and "21.11.2026, 15:03" in facts.inner_text()
    tab.page.locator(".shares").get_by_text(re.compile(r"\d,\d\s%")).first.wait_for()


def test_texts_from_right_to_left_and_long_names_stay_in_their_places(
    open_tab: Callable[..., Visit], served: Served
) -> None:
    tab = open_tab(viewport={"width": 360, "height": 740})
    someone = served.fake.people[served.tokens["trained"]]
    someone.user = "עדה\u202e" + "-ein-sehr-langer-Name" * 6  # it turns the direction of what follows
    someone.records["triage"][0]["fields"]["text"] = "مرحبا بالعالم! 123"
    tab.sign_in(served.tokens["trained"], "history")
    text = tab.page.locator(".record dd").first
    text.get_by_text("مرحبا").wait_for()
    assert text.evaluate("one => getComputedStyle(one).unicodeBidi") == "plaintext"
    assert tab.page.locator("#user").evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    assert tab.page.get_by_role("button", name="Sign out").is_visible()
    tab.go("You")
    tab.page.locator("#forget-who", has_text="עדה").wait_for()
    scroll, window = tab.width()
    assert scroll <= window == 360


def test_a_key_for_running_the_server_opens_nobodys_page(tab: Visit, served: Served) -> None:
    tab.page.route("**/v1/users/me", lambda route: route.fulfill(json={"user": None, "scope": "operator", "tasks": []}))
    tab.page.goto(served.url)
    tab.page.get_by_label("Your access key").fill(served.tokens["trained"])
    tab.page.get_by_role("button", name="Sign in").click()
    tab.page.locator("#token-wrong", has_text="This key is an operator").wait_for()
    assert tab.focus() == "token" and tab.page.evaluate("sessionStorage.length") == 0
