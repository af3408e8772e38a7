"""The page, driven in a real browser: everything that a person can do there."""

import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

from tests.server.page.browser import Visit, until
from tests.server.page.conftest import Served
from tests.server.page.fake_people import ANSWERS, KINDS, SHARERS, pieces

REFUSED = "Failed to load resource: the server responded with a status of"


def test_signs_in_with_the_right_token_only_and_out_again(tab: Visit, served: Served) -> None:
    tab.allowed = (f"{REFUSED} 401",)
    page = tab.page
    page.goto(served.url)
    for wrong, told in (
        ("two words", "not known."),
        ("", "Paste your access key here."),
        ("tok-unknown", "not known."),
    ):
        page.get_by_label("Your access key").fill(wrong)
        page.keyboard.press("Enter")
        page.locator("#token-wrong", has_text=told).wait_for()
        assert page.evaluate("sessionStorage.length") == 0
    tab.sign_in(served.tokens["trained"])
    page.get_by_text("ada", exact=True).wait_for()
    assert page.evaluate("sessionStorage.getItem('ownlm.token')") == served.tokens["trained"]
    assert page.evaluate("localStorage.length") == 0 and page.context.cookies() == []
    page.reload()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    assert page.evaluate("sessionStorage.length") == 0
    assert page.locator("#user").text_content() == ""


def test_streams_both_answers_side_by_side(tab: Visit, served: Served) -> None:
    served.fake.gate = gate = threading.Event()
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    page.get_by_label("Choose one of the 11 set answers").uncheck()
    page.get_by_label("Show similar records").select_option("2")
    page.get_by_role("textbox", name="Text").fill("From the club: who is in on Friday?")
    page.keyboard.press("Control+Enter")
    own, base = page.get_by_role("article", name="Your own model"), page.get_by_role("article", name="Shared model")
    base_says, own_says = ANSWERS["triage", False]
    base.get_by_text("folder: bin", exact=False).wait_for()
    assert base_says not in base.inner_text() and page.get_by_role("button", name="Stop").is_visible()
    gate.set()
    base.get_by_text(base_says).wait_for()
    own.get_by_text(own_says, exact=True).wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    page.locator("#said", has_text=f"Your own model: {own_says}. Shared model: {base_says}").wait_for(state="attached")
    assert own.get_by_text("version 20c4e1a7").is_visible() and not base.get_by_text("version 20c").is_visible()
    own.get_by_text("2 records of yours shown to the model").click()
    first = served.fake.people[served.tokens["trained"]].records["triage"][0]
    own.get_by_text(f"{first['fields']['text']} → {first['fields']['folder']}").wait_for()
    asked, other = sorted(served.fake.chats, key=lambda chat: chat.get("base_only", False))
    assert other == asked | {"base_only": True}
    assert asked == {
        "model": "triage", "rag": 2, "stream": True,
        "messages": [{"role": "user", "content": "From the club: who is in on Friday?"}],
    }  # fmt: skip


def test_chooses_and_keeps_the_answer_as_a_record(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    page.get_by_role("button", name="Ask both").click()
    assert page.evaluate("document.activeElement.id") == "ask-text"  # nothing was asked yet
    page.get_by_role("textbox", name="Text").fill("From the club: dinner?")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("article", name="Your own model").get_by_text("later", exact=True).wait_for()
    page.get_by_role("button", name="Keep as a record").click()
    assert all(chat["choose"] for chat in served.fake.chats)
    page.get_by_label("Folder").select_option("family")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_text("1 record added.").wait_for()
    kept = served.fake.people[served.tokens["trained"]].records["triage"][0]
    assert kept["fields"] == {"text": "From the club: dinner?", "folder": "family"}


def test_stops_and_frees_the_server(tab: Visit, served: Served) -> None:
    served.fake.pause_s = 1
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    page.get_by_role("textbox", name="Text").fill("anything")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").nth(1).wait_for()
    until(tab, lambda: served.fake.stopped == 2)
    assert page.get_by_text("Stopped.").count() == len(served.fake.chats) == 2
    assert page.get_by_role("button", name="Ask both").is_enabled()


def test_tasks_of_several_fields_are_asked_in_json(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"])
    page = tab.page
    page.get_by_label("Task").select_option("git-commit")
    assert not page.get_by_text("Choose one of").is_visible()
    for fields, content in (
        ({"Files": "a.py"}, "a.py"),
        ({"Files": "a.py", "Diff": "+1"}, '{"files":"a.py","diff":"+1"}'),
    ):
        for name, text in fields.items():
            page.get_by_role("textbox", name=name).fill(text)
        page.get_by_role("button", name="Ask", exact=True).click()
        tab.main.get_by_text(ANSWERS["git-commit", False][0]).wait_for()
        assert served.fake.chats[-1]["messages"][0]["content"] == content
    assert len(served.fake.chats) == 2  # without an adapter only the base is asked
    page.get_by_role("article", name="Your own model").get_by_text(
        "You have no model of your own in this task yet"
    ).wait_for()
    page.get_by_label("Task").select_option("LaMP_1")
    tab.go("History")
    page.get_by_text("No records yet").wait_for()
    page.get_by_role("button", name="add one").click()
    assert page.locator("#one-fields textarea").evaluate_all("all => all.map(one => one.name)") == [
        "title", "citation", "other",
    ]  # fmt: skip


def test_history_is_searched_paged_added_to_and_deleted_from(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"], "history")
    page, rows = tab.page, tab.page.locator(".record")
    page.get_by_text("43 records, the newest 20 below").wait_for()
    page.get_by_role("button", name="Show older records").click()
    page.get_by_text("43 records, the newest 40 below").wait_for()
    assert rows.count() == 40 and len(set(rows.evaluate_all("all => all.map(one => one.dataset.id)"))) == 40
    page.get_by_label("Search my history").fill("boiler")
    page.get_by_text("found").wait_for()
    assert all("boiler" in text for text in rows.all_inner_texts())
    page.get_by_label("Search my history").fill("no such words")
    page.get_by_text("No record contains this text.").wait_for()
    page.get_by_label("Search my history").fill("")
    page.get_by_text("43 records").wait_for()

    page.locator("#add > summary").click()
    page.get_by_role("textbox", name="Text").fill("From the bank: hello")
    page.get_by_role("button", name="Add record", exact=True).click()
    assert page.evaluate("document.activeElement.id") == "one-folder"
    page.get_by_label("Folder").select_option("money")
    page.get_by_label("When").fill("2026-11-27")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_text("1 record added.").wait_for()
    newest = rows.first
    newest.get_by_text("From the bank: hello").wait_for()
    assert newest.locator("time").get_attribute("datetime") == "2026-11-27"

    newest.get_by_role("button", name="Delete").click()
    page.keyboard.press("Escape")
    assert len(served.fake.people[served.tokens["trained"]].records["triage"]) == 44
    newest.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_text("Your model had learnt from it.").wait_for()
    page.get_by_text("43 records, the newest").wait_for()
    assert len(served.fake.people[served.tokens["trained"]].records["triage"]) == 43


def test_adds_many_records_and_says_which_line_is_wrong(tab: Visit, served: Served, tmp_path: Path) -> None:
    tab.allowed = (f"{REFUSED} 400",)
    tab.sign_in(served.tokens["newcomer"], "history")
    page = tab.page
    page.locator("#add > summary").click()
    page.get_by_role("button", name="Several at once").click()
    good = '{"user_id": "newt", "id": "a", "text": "one", "folder": "bin"}'
    for lines, told in (
        (f"{good}\n\n{{oh", "Line 3 is not JSON."),
        (f'{good}\n{{"text": "two"}}', "Line 2 lacks folder."),
        ('{"user_id": "ada", "text": "two", "folder": "bin"}', "Line 1 is another user's record."),
        ('{"text": "refuse me", "folder": "bin"}', "Record 1 is wrong. Expected: another text."),
    ):
        page.get_by_label("JSON lines").fill(lines)
        page.get_by_role("button", name="Add records", exact=True).click()
        page.get_by_role("alert").filter(has_text=told).wait_for()
    page.get_by_role("alert").filter(has_text="Change it, and add it again.").wait_for()  # what to do next
    assert served.fake.people[served.tokens["newcomer"]].records == {}
    file = tmp_path / "mine.jsonl"
    rows = [json.loads(good), *({"text": f"number {n}", "folder": "read", "time": "2026"} for n in range(249))]
    file.write_text("\n".join(map(json.dumps, rows)), "utf8")
    page.get_by_label("or from a file").set_input_files(file)
    page.get_by_role("button", name="Add records", exact=True).click()
    page.get_by_text("250 records added.").wait_for()
    page.get_by_label("JSON lines").fill(good)
    page.get_by_role("button", name="Add records", exact=True).click()
    page.get_by_text("0 records added; 1 known already").wait_for()
    assert served.fake.people[served.tokens["newcomer"]].records["triage"][-1]["fields"] == {
        "text": "one",
        "folder": "bin",
    }


def test_trains_with_progress_until_done(tab: Visit, served: Served) -> None:
    served.fake.looks = 3
    tab.sign_in(served.tokens["newcomer"], "model")
    page = tab.page
    page.get_by_text("no records that one could be made from").wait_for()
    assert page.get_by_role("button", name="Learn from my records").is_disabled()
    page.get_by_role("link", name="add some first").click()
    page.get_by_role("button", name="add one").click()
    page.get_by_role("textbox", name="Text").fill("From the mum: call me")
    page.get_by_label("Folder").select_option("family")
    page.get_by_role("button", name="Add record", exact=True).click()
    page.get_by_role("link", name="See what can be made of them").click()
    page.get_by_role("button", name="Learn from my records").click()
    page.get_by_text("8 of 24").wait_for()
    assert page.get_by_role("progressbar", name="Learning from your records").get_attribute("value") == str(8 / 24)
    assert page.locator("#said").inner_text() in (
        "Learning from your records",
        "Learning from your records has begun.",
        "",
    )
    tab.go("Ask")
    tab.go("My model")  # it is found again
    tab.main.get_by_text("Learning from your records is done: your new model answers from now on.").wait_for()
    page.get_by_text("Learnt from your records").first.wait_for()


def test_a_job_that_fails_says_what_to_do(tab: Visit, served: Served) -> None:
    tab.allowed = (f"{REFUSED} 409",)
    tab.sign_in(served.tokens["failing"], "model")
    page = tab.page
    page.get_by_role("button", name="Put together from shared pieces").click()
    alert = page.get_by_role("alert")
    alert.filter(has_text="Putting your model together failed. Too few records for a training step.").wait_for()
    assert "Add 3 records more, then train again." in alert.inner_text()
    served.fake.refuse["/v1/users/me/train"] = 409
    page.get_by_role("button", name="Learn from my records").click()
    alert.filter(has_text="Refused with 409").wait_for()


def test_an_assembled_adapter_shows_whose_pieces_it_is_made_of(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["assembled"], "model")
    page, told = tab.page, pieces()
    page.get_by_text("Technical details").click()
    page.get_by_text("They come from 8 people").wait_for()
    for at, kind in enumerate(KINDS):
        used = sum(value != 0 for row in told["amount"][at] for value in row)
        assert page.get_by_role("img", name=f"{kind}: weights of 8 people in 30 layers").locator("rect").count() == used
    shares = page.get_by_role("table", name="Each person's part of the whole").get_by_role("row")
    assert shares.nth(1).inner_text().split() == [SHARERS[0][:6], f"{100 * told['share'][0]:.1f}%"]
    row = page.get_by_role("table", name="v_proj").get_by_role("row").nth(8)  # below the head: layer 7
    column = [(sharers[7], name[:6]) for sharers, name in zip(told["amount"][2], SHARERS, strict=True) if sharers[7]]
    wanted = ", ".join(f"{name} {value:.2f}" for value, name in sorted(column, reverse=True))
    assert row.inner_text().split(maxsplit=1) == ["7", wanted]
    heat = page.get_by_role("img", name="q_proj")
    box = heat.bounding_box()
    heat.hover(position={"x": box["width"] * 0.5 / 30, "y": box["height"] * 0.5 / 8})
    assert page.get_by_text(f"q_proj, layer 0, person {SHARERS[0][:6]}").is_visible()


def test_the_adapter_is_downloaded_whole(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["trained"], "model")
    with tab.page.expect_download() as waiting:
        tab.page.get_by_role("button", name="Download").click()
    download: Any = waiting.value
    assert download.suggested_filename == "ada-triage-20c4e1a7.zip"
    names = zipfile.ZipFile(io.BytesIO(Path(download.path()).read_bytes())).namelist()
    assert names == ["adapter_config.json", "adapter_model.safetensors"]


def test_consent_is_given_and_taken_back(tab: Visit, served: Served) -> None:
    tab.sign_in(served.tokens["newcomer"], "you")
    tab.page.get_by_text("You do not share. You can agree to when you have records.").wait_for()
    assert not tab.page.get_by_role("button", name="I agree to share").is_visible()
    tab.page.get_by_role("button", name="Sign out").click()
    tab.sign_in(served.tokens["failing"], "you")
    page, someone = tab.page, served.fake.people[served.tokens["failing"]]
    page.get_by_text("You do not share.").wait_for()
    page.get_by_label("Licence of what is shared").fill("CC0-1.0")
    page.get_by_role("button", name="I agree to share").click()
    page.get_by_text("Licence: CC0-1.0.").wait_for()
    assert someone.consent["shares"] and someone.consent["licence"] == "CC0-1.0"
    page.get_by_role("button", name="Take my consent back").click()
    page.get_by_role("dialog").get_by_role("button", name="Take it back").click()
    page.get_by_text("You do not share.").wait_for()
    assert not someone.consent["shares"]


def test_forgets_who_types_their_name(tab: Visit, served: Served) -> None:
    tab.allowed = (f"{REFUSED} 401",)
    tab.sign_in(served.tokens["trained"], "you")
    page = tab.page
    for name, told in (("", "Type your name here to confirm"), ("Ada", "That is not your name.")):
        page.get_by_label("Type your name, ada, to confirm").fill(name)
        page.get_by_role("button", name="Forget me").click()
        page.locator("#forget-name-wrong", has_text=told).wait_for()
    assert served.tokens["trained"] in served.fake.people
    page.get_by_label("Type your name, ada, to confirm").fill("ada")
    page.get_by_role("button", name="Forget me").click()
    page.get_by_text("You are forgotten: 43 records, 3 models removed, and your access key no longer works.").wait_for()
    assert "triage-base" in page.locator("#note").inner_text()
    assert served.tokens["trained"] not in served.fake.people
    page.get_by_label("Your access key").fill(served.tokens["trained"])
    page.get_by_role("button", name="Sign in").click()
    page.locator("#token-wrong", has_text="not known").wait_for()
