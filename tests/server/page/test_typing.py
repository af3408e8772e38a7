"""What was typed is not lost, nor seen by anybody else; what is missing is said; the focus is never lost."""

from typing import Any

from tests.server.page.browser import Visit, until
from tests.server.page.conftest import Served

REFUSED = "Failed to load resource: the server responded with a status of"
ASKED = "From the club: who is in on Friday? مرحبا"


def question(tab: Visit) -> Any:
    return tab.page.get_by_role("textbox", name="Text")


def test_a_question_survives_other_tasks_failures_and_reloads(tab: Visit, served: Served) -> None:
    tab.allowed = (REFUSED,)
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    question(tab).fill(ASKED)
    page.get_by_label("Task").select_option("git-commit")
    page.get_by_role("textbox", name="Files").fill("a.py")
    page.get_by_label("Task").select_option("triage")
    assert question(tab).input_value() == ASKED
    page.get_by_label("Task").select_option("git-commit")
    assert page.get_by_role("textbox", name="Files").input_value() == "a.py"
    page.get_by_label("Task").select_option("triage")
    tab.go("History")
    tab.go("Ask")
    assert question(tab).input_value() == ASKED
    served.fake.refuse["/v1/chat/completions"] = 503
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("alert").first.wait_for()
    assert question(tab).input_value() == ASKED
    page.reload()
    page.get_by_role("heading", name="Ask").wait_for()
    assert question(tab).input_value() == ASKED


def test_a_question_comes_along_where_the_fields_are_the_same(tab: Visit, served: Served) -> None:
    tab.page.route("**/v1/tasks", lambda route: route.fulfill(json={"tasks": [
        {"name": name, "instruction": name, "input_fields": [field], "required": [field], "answer_field": "a",
         "labels": None} for name, field in (("one", "text"), ("two", "text"), ("three", "mail"))
    ]}))  # fmt: skip
    tab.sign_in(served.tokens["newcomer"])
    question(tab).fill(ASKED)
    tab.page.get_by_label("Task").select_option("two")
    assert question(tab).input_value() == ASKED
    question(tab).fill("another")
    tab.page.get_by_label("Task").select_option("three")
    assert tab.page.get_by_role("textbox", name="Mail").input_value() == "another"
    tab.page.get_by_label("Task").select_option("one")
    assert question(tab).input_value() == ASKED  # each task keeps its own


def test_an_ended_key_keeps_what_was_typed_for_its_user_alone(tab: Visit, served: Served) -> None:
    tab.allowed = (f"{REFUSED} 401",)
    people, ada, fay = served.fake.people, served.tokens["trained"], served.tokens["failing"]
    page = tab.page

    def ended() -> None:
        """Ada types, and her key ends."""
        tab.sign_in(ada, "history")
        page.locator("#add > summary").click()
        page.locator("#one-text").fill("half a record")
        tab.go("Ask")
        question(tab).fill(ASKED)
        someone = people.pop(ada)
        page.get_by_role("button", name="Ask both").click()
        page.get_by_text("Your access key is no longer valid").wait_for()
        assert page.evaluate("sessionStorage.getItem('ownlm.token')") is None
        people[ada] = someone

    ended()
    people["tok-new"] = people[ada]
    tab.sign_in("tok-new")
    assert question(tab).input_value() == ASKED
    assert page.locator("#one-text").input_value() == "half a record"
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    assert page.evaluate("sessionStorage.length") == 0  # who signs out leaves nothing
    ended()
    tab.sign_in(fay)
    assert question(tab).input_value() == "" and page.locator("#one-text").input_value() == ""
    assert ASKED not in page.evaluate("JSON.stringify(sessionStorage)")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    tab.sign_in(ada)
    assert question(tab).input_value() == ""


def test_a_record_that_was_added_is_not_there_to_be_added_again(tab: Visit, served: Served) -> None:
    tab.allowed = (f"{REFUSED} 400",)
    tab.sign_in(served.tokens["trained"], "history")
    page = tab.page
    page.locator("#add > summary").click()
    page.locator("#one-text").fill("refuse me")
    page.locator("#one-folder").select_option("bin")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_role("alert").filter(has_text="Record 1 is wrong.").wait_for()
    page.get_by_label("Task").select_option("git-commit")
    page.get_by_label("Task").select_option("triage")
    assert page.locator("#one-text").input_value() == "refuse me" and page.locator("#one-text").is_visible()
    page.locator("#one-text").fill("take me")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_text("1 record added.").wait_for()
    page.reload()
    page.locator(".record").first.wait_for()
    assert page.locator("#one-text").input_value() == "" and page.locator("#one-folder").input_value() == ""


def test_what_is_missing_is_said_beside_its_field_in_every_form(tab: Visit, served: Served) -> None:
    page = tab.page

    def refused(button: str, field: str, words: str) -> None:
        page.get_by_role("button", name=button, exact=True).click()
        wrong = page.locator(f"#{field}-wrong")
        wrong.wait_for()
        assert words in wrong.inner_text(), wrong.inner_text()
        input_ = page.locator(f"#{field}")
        assert tab.focus() == field and input_.get_attribute("aria-invalid") == "true"
        assert f"{field}-wrong" in input_.get_attribute("aria-describedby").split()
        page.locator("#said", has_text=words).wait_for(state="attached")

    page.goto(served.url)
    refused("Sign in", "token", "Paste your access key here.")
    tab.sign_in(served.tokens["failing"])
    refused("Ask", "ask-text", "Text is empty: write something here.")
    page.locator("#ask-text").fill("x")
    assert page.locator("#ask-text-wrong").count() == 0 and page.locator("#ask-text[aria-invalid]").count() == 0
    assert served.fake.chats == []
    tab.go("History")
    page.locator("#add > summary").click()
    refused("Add record", "one-text", "Text is empty")
    assert "Folder is empty: choose something here." in page.locator("#one-folder-wrong").inner_text()
    page.locator("#one-text").fill("x")
    refused("Add record", "one-folder", "choose something")
    page.get_by_role("button", name="Several at once").click()
    refused("Add records", "many-text", "Paste records here, or choose a file below.")
    tab.go("You")
    page.get_by_label("Licence").fill(" ")
    refused("I agree to share", "licence", "Name a licence")
    refused("Forget me", "forget-name", "Type your name here to confirm")
    page.locator("#forget-name").fill("somebody")
    refused("Forget me", "forget-name", "That is not your name.")


def test_the_focus_is_where_one_goes_on(tab: Visit, served: Served) -> None:
    tab.allowed = (REFUSED,)
    page = tab.page
    tab.sign_in(served.tokens["trained"])
    until(tab, lambda: tab.focus() == "h-ask")
    tab.go("History")
    page.locator(".record").first.wait_for()
    assert tab.focus() == "h-history"
    page.go_back()
    until(tab, lambda: tab.focus() == "h-ask")
    page.go_forward()
    page.locator("#older:visible").click()
    page.locator(".record").nth(39).wait_for()
    assert tab.focus() == page.locator(".record").nth(20).get_attribute("data-id")
    served.fake.refuse["/v1/users/me/history"] = 503
    page.locator("#older").click()
    page.get_by_role("alert").filter(has_text="503").wait_for()
    assert tab.focus() == "older"
    page.get_by_role("button", name="Try again").click()
    page.locator(".record").nth(42).wait_for()
    assert tab.focus() != "BODY"  # though the button, and the one that was pressed, are gone
    for _ in range(2):
        page.get_by_role("button", name="Delete record r-0000").or_(
            page.get_by_role("button", name="Delete record r-0001")
        ).last.click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        until(tab, lambda: tab.page.locator("dialog[open]").count() == 0 and tab.focus().startswith("r-"))
    tab.go("Ask")
    served.fake.pause_s = 1
    page.locator("#ask-text").fill("x")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").nth(1).wait_for()
    until(tab, lambda: tab.focus() == "Ask both")
    tab.go("My model")
    page.get_by_role("button", name="Learn from my records").click()
    page.locator("#job-train", has_text="is done").wait_for()
    assert tab.focus() != "BODY"
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    until(tab, lambda: tab.focus() == "token")


def test_a_double_click_asks_once(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    page.locator("#ask-text").fill("x")
    page.get_by_role("button", name="Ask both").dblclick()
    page.locator(".meta").nth(1).wait_for()
    assert len(served.fake.chats) == 2  # one of each model
    tab.go("History")
    page.locator("#add > summary").click()
    page.locator("#one-text").fill("once")
    page.locator("#one-folder").select_option("bin")
    page.get_by_role("button", name="Add record", exact=True).dblclick()
    page.get_by_text("1 record added.").wait_for()
    tab.go("My model")
    page.get_by_role("button", name="Learn from my records").dblclick()
    page.locator("#job-train", has_text="is done").wait_for()
    someone = served.fake.people[served.tokens["trained"]]
    assert len(someone.jobs) == 1 and len(someone.records["triage"]) == 44


def test_signing_out_in_one_tab_leaves_the_other(open_tab: Any, served: Served) -> None:
    one, other = open_tab(), open_tab()
    one.sign_in(served.tokens["trained"])
    other.sign_in(served.tokens["trained"], "history")
    one.go("History")
    one.page.get_by_role("button", name="Sign out").click()
    one.page.get_by_text("You are signed out.").wait_for()
    one.page.go_back()
    one.page.get_by_label("Your access key").wait_for()
    assert one.page.locator("#user").text_content() == "" and not one.page.locator("#signed-in").is_visible()
    other.page.get_by_label("Search").fill("boiler")
    other.page.get_by_text("found").wait_for()
