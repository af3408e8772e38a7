"""Whom to train: page by page, whoever comes or goes meanwhile."""

from pathlib import Path

import pytest

from ownlm.errors import NotFoundError
from ownlm.home import Home
from ownlm.verbs.students import FORGOTTEN, UP_TO_DATE, Student, checked, plan_for, students
from tests.community import rows, write_rows, write_task

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
PEOPLE = ["Zoe", "ada", "bela", "ciro", "émile", "日本"]  # in the database's order: that of their UTF-8 bytes


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("ownlm.verbs.students.PAGE", 2)
    home = Home(tmp_path / "home")
    home.add_base(str(tiny_base), "tiny")
    people = write_rows(tmp_path / "people.jsonl", *(rows(user, 3) for user in reversed(PEOPLE)))
    home.add_history(people, str(write_task(tmp_path)))
    return home


def found(home: Home, **asked: object) -> list[Student]:
    plan = plan_for(home.store, home.task("sorting"), **asked, **FAST)  # type: ignore[arg-type]
    return list(students(home.store, plan))


@pytest.mark.parametrize("page", [1, 2, 3, 5, 6, 7])
def test_pages_of_any_size_hold_everybody_once(home: Home, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr("ownlm.verbs.students.PAGE", page)
    assert [one.user for one in found(home)] == PEOPLE and {one.records for one in found(home)} == {3}
    named = ["ciro", "Zoe", "ciro", "日本"]
    assert [one.user for one in found(home, users=named)] == ["ciro", "Zoe", "日本"]


def test_a_page_has_its_own_peoples_adapters_and_profiles(home: Home) -> None:
    home.profile("sorting", counted=True)
    home.train("sorting", users=PEOPLE[1:5], profile=True, **FAST)
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", rows("bela", 5)), "sorting")
    seen = {one.user: one for one in found(home, profile=True)}
    assert [seen[user].skipped for user in PEOPLE] == [None, UP_TO_DATE, None, UP_TO_DATE, UP_TO_DATE, None]
    last = seen["bela"].last
    assert last is not None and last.user == "bela" and seen["Zoe"].last is None
    assert {one.anew for one in found(home, profile=True, seed=1) if one.user in PEOPLE[1:5]} == {True}


def test_who_comes_and_goes_between_two_pages(home: Home) -> None:
    plan = plan_for(home.store, home.task("sorting"), **FAST)
    stream = students(home.store, plan)
    assert next(stream).user == "Zoe"
    home.forget("ciro")  # rewrites the database: no reader may stand in its way
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", rows("dora", 1), rows("Abe", 1)), "sorting")
    assert [one.user for one in stream] == ["ada", "bela", "dora", "émile", "日本"]
    named = students(home.store, plan_for(home.store, home.task("sorting"), ["bela", "ada", "émile"]))
    next(named)
    home.forget("émile")
    assert [(one.user, one.skipped) for one in named] == [("ada", None), ("émile", FORGOTTEN)]


def test_nobody_is_an_error_before_anything_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "load", lambda *_: pytest.fail("the base was loaded"))
    plan = plan_for(home.store, home.task("sorting"), ["ada", "bela", "nobody"])
    with pytest.raises(NotFoundError, match="nobody"):
        list(checked(students(home.store, plan), plan))
    with pytest.raises(NotFoundError, match="nobody"):
        home.train("sorting", users=["ada", "bela", "nobody"], **FAST)
    for user in PEOPLE:
        home.forget(user)
    with pytest.raises(NotFoundError, match="Nobody in the home"):
        home.train("sorting", **FAST)
