import json
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task
from tests.history.files import SECRET, write_json

TASK = load_task("LaMP_2N")
ASK = "Which category does this article relate to? categories: [arts, u.s. news] article: "
TOLD = "Which category does this article relate to? categories: [arts, u.s. news]"


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "text": f"text {number}", "title": "t", "category": "arts", **more}


def people() -> list[dict[str, Any]]:
    return [
        {
            "user_id": "u1",
            "profile": [item(1, date="2021-01-02"), item(2, date="2021-01-01")],
            "query": [{"id": "q1", "input": ASK + "rain"}, {"id": "q2", "input": ASK + "sun", "date": "2022"}],
        },
        {"user_id": 2, "profile": [item(1)], "query": [{"id": "q3", "input": ASK + "snow"}]},
    ]


def golds(*ids: str) -> dict[str, Any]:
    return {"task": "LaMP_2N", "golds": [{"id": key, "output": f" gold of {key}"} for key in ids]}


def test_people_with_several_queries(tmp_path: Path) -> None:
    file = write_json(tmp_path / "top.json", people())
    write_json(tmp_path / "top_label.json", golds("q1", "q3", "q9"))
    dataset = read_dataset(file, TASK)
    assert [[record.id for record in history.records] for history in dataset.histories] == [["2", "1"], ["1"]]
    assert dict(dataset.histories[1].records[0].fields) == {"text": "text 1", "category": "arts"}
    assert [(query.user_id, query.id, query.fields["text"], query.gold, query.time) for query in dataset.queries] == [
        ("u1", "q1", "rain", "gold of q1", None),
        ("u1", "q2", "sun", None, "2022"),
        ("2", "q3", "snow", "gold of q3", None),
    ]
    assert (dataset.instruction, dataset.labels) == (TOLD, ("arts", "u.s. news"))
    assert read_queries(file, TASK) == dataset.queries


def test_questions_that_are_people(tmp_path: Path) -> None:
    questions = [
        {"id": "110", "input": ASK + "rain", "profile": [item(1), item(2)]},
        {"id": 111, "input": ASK + "sun", "profile": []},
    ]
    file = write_json(tmp_path / "dev_questions.json", questions)
    write_json(tmp_path / "dev_outputs.json", golds("110", "111"))
    dataset = read_dataset(file, TASK)
    assert [(history.user_id, len(history)) for history in dataset.histories] == [("110", 2)]
    assert [(query.user_id, query.id, query.gold) for query in dataset.queries] == [
        ("110", "110", "gold of 110"),
        ("111", "111", "gold of 111"),
    ]


def test_where_the_right_answers_come_from(tmp_path: Path) -> None:
    file = write_json(tmp_path / "top.json", people())
    assert [query.gold for query in read_queries(file, TASK)] == [None] * 3
    elsewhere = write_json(tmp_path / "elsewhere.json", golds("q2"))
    assert [query.gold for query in read_queries(file, TASK, labels=elsewhere)] == [None, "gold of q2", None]
    for labels in (tmp_path / "none.json", write_json(tmp_path / "wrong.json", golds("q7"))):
        with pytest.raises(DataError, match=r"none\.json|wrong\.json"):
            read_dataset(file, TASK, labels=labels)


@pytest.mark.parametrize(
    "content",
    [
        golds("q1", "q1"),
        {"golds": [{"id": "q1"}]},
        {"golds": [{"id": "q1", "output": [SECRET]}]},
        {"golds": [{"output": SECRET}]},
        {"golds": [SECRET]},
        {"golds": SECRET},
        [SECRET],
        SECRET,
    ],
    ids=range(8),  # not the text: the folder that the error names is called by it
)
def test_a_bad_label_file(tmp_path: Path, content: Any) -> None:
    file = write_json(tmp_path / "top.json", people())
    write_json(tmp_path / "top_label.json", content)
    with pytest.raises(DataError, match=r"top_label\.json") as caught:
        read_dataset(file, TASK)
    assert SECRET not in str(caught.value)
    (tmp_path / "top_label.json").write_text(json.dumps(golds("q1"))[:-3])
    with pytest.raises(DataError, match=r"top_label\.json"):
        read_dataset(file, TASK)


def test_a_record_may_lack_its_answer_but_not_all(tmp_path: Path) -> None:
    content = people()
    del content[0]["profile"][0]["category"]
    content[1]["profile"][0]["category"] = " "
    dataset = read_dataset(write_json(tmp_path / "top.json", content), TASK)
    assert [record.fields.get("category") for history in dataset.histories for record in history.records] == [
        "arts",
        None,
        None,
    ]
    del content[0]["profile"][1]["category"]
    with pytest.raises(DataError, match=r"No record in .* has the field 'category'.*the task of these data"):
        read_dataset(write_json(tmp_path / "top.json", content), TASK)


def test_a_record_with_nothing_in_it_is_none(tmp_path: Path) -> None:
    content = [{"user_id": "u", "profile": [{"id": "1", "text": "rain"}, {"id": "2"}], "query": []}]
    with pytest.raises(DataError, match="profile item 2: user 'u': the record has none of the fields"):
        read_dataset(write_json(tmp_path / "top.json", content), load_task("LaMP_7"))


def test_lamps_own_citation_data_have_titles_only(tmp_path: Path) -> None:
    question = (
        'For an author who has written the paper with the title "T", which reference is related? [1]: "A" [2]: "B"'
    )
    content = [{"id": "1", "input": question, "profile": [{"id": "9", "title": "P", "abstract": "A"}]}]
    dataset = read_dataset(write_json(tmp_path / "dev_questions.json", content), load_task("LaMP_1"))
    assert dict(dataset.histories[0].records[0].fields) == {"title": "P"}
    assert dict(dataset.queries[0].fields) == {"title": "T", "option_1": "A", "option_2": "B"}
    assert dataset.instruction is None


def broken(path: list[Any], value: Any) -> list[dict[str, Any]]:
    content: Any = people()
    at = content
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return content  # type: ignore[no-any-return]


BAD = [
    ([1], SECRET, "item 2"),
    ([1, "user_id"], None, "item 2"),
    ([1, "profile"], SECRET, "item 2"),
    ([1, "query"], None, "item 2"),
    ([0, "profile", 1], SECRET, "user 'u1', profile item 2"),
    ([0, "profile", 1, "text"], " ", "user 'u1', profile item 2"),
    ([0, "profile", 1, "text"], [SECRET], "user 'u1', profile item 2"),
    ([0, "profile", 1, "date"], SECRET, "user 'u1', profile item 2"),
    ([0, "profile", 1], item(1, text=SECRET), "user 'u1', profile item 2"),
    ([0, "query", 1], SECRET, "user 'u1', query 2"),
    ([0, "query", 1, "id"], None, "user 'u1', query 2"),
    ([0, "query", 1, "id"], "q1", "user 'u1', query 2"),
    ([0, "query", 1, "input"], " ", "user 'u1', query 2"),
    ([0, "query", 1, "date"], SECRET, "user 'u1', query 2"),
]


@pytest.mark.parametrize(("path", "value", "place"), BAD)
def test_what_is_bad_is_named_or_left_out(tmp_path: Path, path: list[Any], value: Any, place: str) -> None:
    file = write_json(tmp_path / "top.json", broken(path, value))
    with pytest.raises(DataError) as caught:
        read_dataset(file, TASK)
    assert f"top.json, {place}: " in str(caught.value) and SECRET not in str(caught.value)
    whole = read_dataset(write_json(tmp_path / "whole.json", people()), TASK)
    rest = read_dataset(file, TASK, skip_bad=True)
    assert len(rest.bad) == 1 and SECRET not in rest.bad[0]
    assert sum(map(len, rest.histories)) + len(rest.queries) < sum(map(len, whole.histories)) + len(whole.queries)


@pytest.mark.parametrize("other", ["rain", ASK.replace("arts", "sports") + "rain", ASK.replace("this", "an") + "rain"])
def test_queries_carry_one_instruction(tmp_path: Path, other: str) -> None:
    file = write_json(tmp_path / "top.json", broken([1, "query", 0, "input"], other))
    with pytest.raises(DataError, match=r"'q1' and 'q3' .* different instructions"):
        read_dataset(file, TASK, skip_bad=True)


def test_queries_may_carry_none(tmp_path: Path) -> None:
    content = people()
    for number, person in enumerate(content):
        person["query"] = [{"id": number, "input": "rain"}]
        person["profile"] = [item(1, category="politics")]
    dataset = read_dataset(write_json(tmp_path / "top.json", content), TASK)
    assert (dataset.instruction, dataset.labels) == (None, None)
    assert [dict(query.fields) for query in dataset.queries] == [{"text": "rain"}] * 2


def test_a_document_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    file = write_json(tmp_path / "top.json", people())
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError):
            read_dataset(file, TASK, skip_bad=True)
