import json
from pathlib import Path

import pytest

from ownlm.bench.data import SetData, least_like, read_set
from ownlm.bench.plan import SetPlan
from ownlm.errors import DataError
from ownlm.history.record import History, Query, Record
from ownlm.history.task import load_task
from tests.bench.made import citations
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


def test_a_choice_that_outsiders_made_is_learnt_from(tmp_path: Path) -> None:
    spec = citations(tmp_path)
    data = read_set(spec)
    asked = next(one for one in data.outsiders["train0"].records if one.id == "query-train0")
    assert asked.fields == {"title": "T0", "citation": "wanted 0", "other": "unwanted 0"}  # its gold is [1]
    asked = next(one for one in data.outsiders["train1"].records if one.id == "query-train1")
    assert asked.fields == {"title": "T1", "citation": "wanted 1", "other": "unwanted 1"}  # [2]
    assert not data.learnable  # LaMP's records have titles and abstracts alone


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


def test_nobody_of_the_data_is_an_outsider(spec: SetPlan, tmp_path: Path) -> None:
    for user in ("u0", "u1"):  # who shares, and who is asked
        write_rows(tmp_path / "others.jsonl", rows(user, 3))
        with pytest.raises(DataError, match="outsiders too"):
            read_set(spec)


def test_nothing_to_ask(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "queries.jsonl", [{"user_id": "u1", "id": "1", "text": "asked"}])
    with pytest.raises(DataError, match="1 queries, none of them with its right answer"):
        read_set(spec)
    write_rows(tmp_path / "queries.jsonl", [{"user_id": "nobody", "id": "1", "text": "asked", "gold": "bin"}])
    with pytest.raises(DataError, match="all of users without records"):
        read_set(spec)
    with pytest.raises(DataError, match="no queries in"):
        read_set(change(spec, queries=None))


def test_queries_without_a_right_answer_are_counted(spec: SetPlan, tmp_path: Path) -> None:
    with (tmp_path / "queries.jsonl").open("a") as file:
        file.write('{"user_id": "u1", "id": "more", "text": "unknown"}\n')
    data = read_set(spec)
    assert data.unlabelled == 1 and "more" not in {query.id for query in data.queries}


def test_a_right_answer_that_is_no_label_is_told_at_once(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "queries.jsonl", [{"user_id": "u1", "id": "1", "text": "asked", "gold": "attic"}])
    with pytest.raises(DataError, match="In the set 'notes' 1 of 1 right answers"):
        read_set(change(spec, sharing=0))
    with pytest.raises(DataError, match="no users are left to ask"):
        read_set(spec)


def asked_as_lamp(folder: Path, documents: int, asked: int) -> Path:
    """One author's documents, of which some are asked: a person each, whose profile is all the other documents."""
    items = [{"id": f"d{n}", "text": f"document {n}", "folder": "work" if n % 2 else "bin"} for n in range(documents)]
    questions = [
        {"id": str(n), "input": items[n]["text"], "profile": [one for one in items if one["id"] != f"d{n}"]}
        for n in range(asked)
    ]
    (folder / "dev_questions.json").write_text(json.dumps(questions), "utf8")
    golds = [{"id": str(n), "output": items[n]["folder"]} for n in range(asked)]
    (folder / "dev_outputs.json").write_text(json.dumps({"task": "sorting", "golds": golds}), "utf8")
    return folder / "dev_questions.json"


def test_who_is_asked_shares_under_no_other_id(spec: SetPlan, tmp_path: Path) -> None:
    data = read_set(change(spec, data=asked_as_lamp(tmp_path, 6, 4), queries=None))
    assert (list(data.targets), set(data.sharers)) == (["1", "2"], {"x", "y"})


def test_nobody_else_has_the_answer_to_a_query(spec: SetPlan, tmp_path: Path) -> None:
    gone = {"user_id": "x", "id": "known", "text": "asked 1", "folder": "bin"}
    other = {"user_id": "x", "id": "other", "text": "asked 1", "folder": "work"}
    write_rows(tmp_path / "others.jsonl", [*rows("x", 3), gone, other])
    data = read_set(spec)
    assert [one.id for one in data.outsiders["x"].records] == ["x-0", "x-1", "x-2", "other"]
    assert data.sharers["x"] == data.outsiders["x"]


@pytest.mark.parametrize(
    "query",
    [
        {"id": "u1-2", "text": "u1 secret2 said"},  # a record of theirs
        {"id": "q", "text": "new", "time": "1003"},  # the latest record is of 1004
    ],
)
def test_histories_end_before_the_queries(spec: SetPlan, tmp_path: Path, query: dict[str, str]) -> None:
    write_rows(tmp_path / "queries.jsonl", [{"user_id": "u1", "gold": "bin", **query}])
    with pytest.raises(DataError, match="contain queries, or records later"):
        read_set(change(spec, sharing=0))


def test_the_latest_records_are_held_back_and_asked(spec: SetPlan) -> None:
    whole = {user: rows(user, 4 + number) for number, user in enumerate(PEOPLE)}
    data = read_set(change(spec, held_back=1, sharing=0))
    assert {query.user_id: query.id for query in data.queries} == {u: whole[u][-1]["id"] for u in PEOPLE[1:]}
    for query in data.queries:
        rest, last = whole[query.user_id][:-1], whole[query.user_id][-1]
        assert [record.id for record in data.targets[query.user_id].records] == [row["id"] for row in rest]
        assert (dict(query.fields), query.gold) == ({"text": last["text"]}, last["folder"])
    assert list(data.targets) == PEOPLE[1:], "of four records none can be spared"


def test_a_fifth_at_most_is_held_back(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "people.jsonl", rows("u", 11))
    data = read_set(change(spec, held_back=5, sharing=0, outsiders=None))
    assert (len(data.queries), len(data.targets["u"])) == (2, 9)


def test_nothing_can_be_held_back(spec: SetPlan, tmp_path: Path) -> None:
    write_rows(tmp_path / "people.jsonl", rows("u", 4))
    with pytest.raises(DataError, match="can be held back"):
        read_set(change(spec, held_back=5))
    papers = [{"user_id": "u", "id": str(n), "title": f"t{n}", "abstract": f"a{n}"} for n in range(6)]
    with pytest.raises(DataError, match="shows options"):
        read_set(change(spec, held_back=5, task="LaMP_1", data=write_rows(tmp_path / "papers.jsonl", papers)))


def test_a_record_without_an_input_is_no_query(spec: SetPlan, tmp_path: Path) -> None:
    written = [{"user_id": user, "id": str(n), "text": f"text {n}"} for user in "uvw" for n in range(10)]
    how = {"held_back": 2, "task": "free-text", "sharing": 0, "outsiders": None}
    with pytest.raises(DataError, match="without an input"):
        read_set(change(spec, **how, data=write_rows(tmp_path / "texts.jsonl", written)))
    written[9]["prompt"] = "what then?"
    data = read_set(change(spec, **how, data=write_rows(tmp_path / "texts.jsonl", written)))
    assert [(query.user_id, query.id) for query in data.queries] == [("u", "9")] and len(data.targets["u"]) == 8


def test_a_bad_row_of_a_plans_data_is_to_be_corrected_there(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"user_id": "ada", "article": "x", "category": "no such label"}\n')
    with pytest.raises(DataError, match="correct the file, or the task") as error:
        read_set(SetPlan(name="a", task="LaMP_2N", data=tmp_path / "d.jsonl"))
    assert error.value.command is None


def never() -> None:
    raise AssertionError("words need no base")


def test_the_share_is_of_all_queries_even_where_each_person_has_one() -> None:
    told = {"ada": "rain over the hills", "bela": "the price of bread", "ciro": "trains to the coast", "dana": "a cat"}
    asked = {
        "ada": "rain over the hills",
        "bela": "moons of jupiter",
        "ciro": "trains to the coast",
        "dana": "a violin",
    }
    histories = {user: History(user, (Record(user, "1", {"text": "so", "prompt": told[user]}),)) for user in told}
    queries = tuple(Query(user, f"q-{user}", {"prompt": asked[user]}, gold="so") for user in asked)
    task = load_task("free-text").model_copy(update={"name": "notes"})
    data = SetData("notes", task, histories, queries, {}, {})
    assert [one.user_id for one in least_like(data, "bm25", 0.5, never)] == ["bela", "dana"]  # type: ignore[arg-type]
    assert [one.user_id for one in least_like(data, "bm25", 0.01, never)] == ["bela"]  # type: ignore[arg-type]
    assert least_like(data, "bm25", 1.0, never) == queries  # type: ignore[arg-type]
