"""Whom to train: page by page, whoever comes or goes meanwhile."""

from pathlib import Path

import pytest

from ownlm.errors import ConfigError, NotFoundError
from ownlm.home import Home
from ownlm.workflows.options import TrainOptions
from ownlm.workflows.plan import TrainPlan, train_plan
from ownlm.workflows.selection import FORGOTTEN, UP_TO_DATE, Candidate, candidates
from tests.community import rows, small_home, write_rows

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
PEOPLE = ["Zoe", "ada", "bela", "ciro", "émile", "日本"]  # in the database's order: that of their UTF-8 bytes


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr("ownlm.workflows.selection.PAGE", 2)
    return small_home(tmp_path, tiny_base, *(rows(user, 3) for user in reversed(PEOPLE)))


def plan_of(home: Home, **asked: object) -> TrainPlan:
    return train_plan(home.store, home.task("sorting"), TrainOptions(task="sorting", **asked))


def found(home: Home, **asked: object) -> list[Candidate]:
    return list(candidates(plan_of(home, **asked, **FAST)))


@pytest.mark.parametrize("page", [1, 2, 3, 5, 6, 7])
def test_pages_of_any_size_hold_everybody_once(home: Home, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr("ownlm.workflows.selection.PAGE", page)
    assert [one.user for one in found(home)] == PEOPLE and {one.records for one in found(home)} == {3}
    named = ["ciro", "Zoe", "ciro", "日本"]
    assert [one.user for one in found(home, users=named)] == ["ciro", "Zoe", "日本"]


@pytest.mark.parametrize(
    ("asked", "selected"),
    [
        ({"top": 2}, ["bela", "ciro"]),
        ({"top": 3}, ["Zoe", "bela", "ciro"]),  # of equal users, the first by name
        ({"top": 99}, PEOPLE),
        ({"min_records": 1}, PEOPLE),
        ({"min_records": 4}, ["bela", "ciro"]),
        ({"min_records": 5}, ["bela"]),
        ({"min_records": 6}, []),
        ({"top": 1, "min_records": 4}, ["bela"]),
        ({"top": 4, "min_records": 4}, ["bela", "ciro"]),
        ({"top": 1, "users": ["ada", "ciro", "ada"]}, ["ciro"]),
        ({"top": 1, "users": ["Zoe", "日本"]}, ["Zoe"]),
        ({"min_records": 4, "users": ["ada", "ciro"]}, ["ciro"]),
    ],
)
def test_users_are_selected_by_how_many_records_they_have(
    home: Home, asked: dict[str, object], selected: list[str]
) -> None:
    home.add_history(write_rows(home.store.folder.parent / "m.jsonl", rows("bela", 5), rows("ciro", 4)), "sorting")
    seen = found(home, **asked)
    assert [one.user for one in seen if one.selected] == selected
    assert all((one.skipped is None) == one.selected for one in seen)
    assert {one.user for one in seen} == set(asked.get("users", PEOPLE))  # type: ignore[call-overload]
    report = home.estimate("sorting", **asked, **FAST)
    assert report.people == len(selected) and report.not_chosen.total() == len(seen) - len(selected)
    assert not report.skipped


def test_the_same_top_again_trains_nobody_else(home: Home) -> None:
    home.add_history(write_rows(home.store.folder.parent / "m.jsonl", rows("bela", 5)), "sorting")
    out = {"not among the top 2 by number of records": len(PEOPLE) - 2}
    assert [one.user for one in home.train("sorting", top=2, **FAST).trained] == ["Zoe", "bela"]
    again = home.train("sorting", top=2, **FAST)
    assert not again.trained and ("bela", UP_TO_DATE) in again.skipped and again.not_chosen == out


def test_a_dry_run_counts_the_records_of_its_file(home: Home) -> None:
    file = write_rows(home.store.folder.parent / "m.jsonl", rows("bela", 5), rows("dora", 4))
    found = home.estimate("sorting", data=file, top=2, **FAST)
    assert found.examples == 9 and found.skipped == [] and found.not_chosen.total() == len(PEOPLE) - 1
    assert home.estimate("sorting", data=file, min_records=5, **FAST).examples == 5


def test_outsiders_take_no_place_among_the_top(home: Home) -> None:
    home.add_history(write_rows(home.store.folder.parent / "m.jsonl", rows("bela", 5)), "sorting")
    home.adapt("adapted", "sorting", users=["bela", "Zoe"], **FAST)
    assert [one.user for one in found(home, top=1) if one.skipped is None] == ["ada"]
    assert [one.user for one in found(home, top=1, users=["bela", "ada"]) if one.skipped is None] == ["bela"]


@pytest.mark.parametrize("asked", [{"top": 0}, {"top": -1}, {"min_records": 0}])
def test_a_selection_of_less_than_one_is_refused(home: Home, asked: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"'{next(iter(asked))}' is wrong"):
        found(home, **asked)


def test_a_page_has_its_own_peoples_adapters_and_profiles(home: Home) -> None:
    home.profile("sorting", counted=True)
    home.train("sorting", users=PEOPLE[1:5], profile=True, **FAST)
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", rows("bela", 5)), "sorting")
    seen = {one.user: one for one in found(home, profile=True)}
    assert [seen[user].skipped for user in PEOPLE] == [None, UP_TO_DATE, None, UP_TO_DATE, UP_TO_DATE, None]
    last = seen["bela"].last
    assert last is not None and last.user == "bela" and seen["Zoe"].last is None
    assert {one.restarted for one in found(home, profile=True, seed=1) if one.user in PEOPLE[1:5]} == {True}


def test_who_comes_and_goes_between_two_pages(home: Home) -> None:
    stream = candidates(plan_of(home, **FAST))
    assert next(stream).user == "Zoe"
    home.forget("ciro")  # rewrites the database: no reader may stand in its way
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", rows("dora", 1), rows("Abe", 1)), "sorting")
    assert [one.user for one in stream] == ["ada", "bela", "dora", "émile", "日本"]
    named = candidates(plan_of(home, users=["bela", "ada", "émile"]))
    next(named)
    home.forget("émile")
    assert [(one.user, one.skipped) for one in named] == [("ada", None), ("émile", FORGOTTEN)]


def test_nobody_is_an_error_before_anything_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Home, "load", lambda *_: pytest.fail("the base was loaded"))
    plan = plan_of(home, users=["ada", "bela", "nobody"])
    with pytest.raises(NotFoundError, match="nobody"):
        list(candidates(plan, check=True))
    with pytest.raises(NotFoundError, match="nobody"):
        home.train("sorting", users=["ada", "bela", "nobody"], **FAST)
    for user in PEOPLE:
        home.forget(user)
    with pytest.raises(NotFoundError, match="No user in the home"):
        home.train("sorting", **FAST)
