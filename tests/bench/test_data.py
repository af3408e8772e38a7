import json
from pathlib import Path

import pytest

from ownlm.bench.data import read_set
from ownlm.bench.plan import SetPlan
from ownlm.errors import DataError
from tests.community import rows, write_rows, write_task

PEOPLE = [f"u{number}" for number in range(6)]


@pytest.fixture
def spec(tmp_path: Path) -> SetPlan:
    """Six people, the n-th with 4 + n records and two queries; two outsiders."""
    write_rows(tmp_path / "people.jsonl", *(rows(user, 4 + number) for number, user in enumerate(PEOPLE)))
    asked = [
        {"user_id": user, "id": f"{user}-q{n}", "text": f"asked {n}", "gold": "bin"} for user in PEOPLE for n in (1, 2)
    ]
    write_rows(tmp_path / "queries.jsonl", asked)
    write_rows(tmp_path / "others.jsonl", rows("x", 3), rows("y", 5))
    return SetPlan(
        name="notes", task=str(write_task(tmp_path)), data=tmp_path / "people.jsonl",
        queries=tmp_path / "queries.jsonl", outsiders=tmp_path / "others.jsonl",
    )  # fmt: skip


def change(spec: SetPlan, **changes: object) -> SetPlan:
    return SetPlan.model_validate({**spec.model_dump(), **changes})


def test_every_third_person_shares_and_is_not_asked(spec: SetPlan) -> None:
    data = read_set(spec)
    assert list(data.targets) == ["u1", "u2", "u4", "u5"]
    assert set(data.sharers) == {"u0", "u3", "x", "y"}
    assert set(data.outsiders) == {"x", "y"}
    assert {query.user_id for query in data.queries} == set(data.targets)


def test_nobody_of_the_set_shares(spec: SetPlan) -> None:
    data = read_set(change(spec, sharing=0))
    assert (list(data.targets), set(data.sharers)) == (PEOPLE, {"x", "y"})


def test_fewer_people_and_queries(spec: SetPlan) -> None:
    data = read_set(change(spec, people=2, queries_each=1))
    assert list(data.targets) == ["u1", "u4"]
    assert [query.id for query in data.queries] == ["u1-q1", "u4-q1"]
    assert list(read_set(change(spec, people=2, who="active")).targets) == ["u4", "u5"]


def test_fewer_outsiders(spec: SetPlan) -> None:
    assert set(read_set(change(spec, outsiders_people=1)).outsiders) == {"x"}


def test_labelled_queries_of_outsiders_are_their_latest_records(spec: SetPlan, tmp_path: Path) -> None:
    person = {
        "user_id": "z", "profile": [{"id": "1", "text": "once", "folder": "home"}],
        "query": [{"id": "q", "input": "again", "gold": ""}, {"id": "r", "input": "unknown"}],
    }  # fmt: skip
    (tmp_path / "z.json").write_text(json.dumps([person]), "utf8")
    labels = {"task": "sorting", "golds": [{"id": "q", "output": "work"}]}
    (tmp_path / "z_label.json").write_text(json.dumps(labels), "utf8")
    history = read_set(change(spec, outsiders=tmp_path / "z.json")).outsiders["z"]
    assert [(one.fields["text"], one.fields["folder"]) for one in history.records] == [
        ("once", "home"),
        ("again", "work"),
    ]


def test_who_is_asked_is_no_outsider(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "others.jsonl", rows("u1", 3))
    with pytest.raises(DataError, match="outsiders too"):
        read_set(spec)


def test_no_right_answers(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "queries.jsonl", [{"user_id": "u1", "id": "1", "text": "asked"}])
    with pytest.raises(DataError, match="right answer"):
        read_set(spec)
