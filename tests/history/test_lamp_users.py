"""Whose LaMP's questions are, and where their right answers stand."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task
from ownlm.importers.lamp import import_lamp
from tests.history.files import write_json, write_lines

TASK = load_task("LaMP_4")


def item(key: object, text: str | None = None) -> dict[str, Any]:
    return {"id": key, "text": text or f"text {key}", "title": f"title {key}"}


def question(key: object, *profile: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": key,
        "input": f"Generate a headline for the following article: asked {key}",
        "profile": list(profile),
    } | more


def histories(file: Path, **how: Any) -> dict[str, list[str]]:
    dataset = read_dataset(file, TASK, **how)
    return {history.user_id: [record.id for record in history.records] for history in dataset.histories}


USERS: list[tuple[str, list[dict[str, Any]], dict[str, list[str]]]] = [
    ("none named", [question(1, item("a")), question(2, item("a"))], {"1": ["a"], "2": ["a"]}),
    ("one of two", [question(1, item("a"), user_id="u"), question(2, item("a"), user_id="u")], {"u": ["a"]}),
    ("profiles differ", [question(1, item("a"), user_id="u"), question(2, item("b"), user_id="u")], {"u": ["a", "b"]}),
    ("apart", [question(1, item("a"), user_id="u"), question(2, item("b"), user_id="v"),
               question(3, item("c"), user_id="u")], {"u": ["a", "c"], "v": ["b"]}),
    ("numbers", [question(1, item("a"), user_id=7), question(2, item("b"), user_id="7")], {"7": ["a", "b"]}),
    ("blank", [question(1, item("a"), user_id=" "), question(2, item("b"), user_id=None)], {"1": ["a"], "2": ["b"]}),
    ("an id is another's user", [question("u", item("a"), user_id="v"), question("v", item("b"), user_id="u")],
     {"v": ["a"], "u": ["b"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "questions", "expected"), USERS, ids=[name for name, *_ in USERS])
def test_questions_are_of_their_users(
    tmp_path: Path, name: str, questions: list[dict[str, Any]], expected: dict[str, list[str]]
) -> None:
    file = write_json(tmp_path / "dev_questions.json", questions)
    assert histories(file) == expected
    queries = {query.id: query.user_id for query in read_queries(file, TASK)}
    assert len(queries) == len(questions) and set(queries.values()) == set(expected)
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_4")
    assert imported.records == {user: len(ids) for user, ids in expected.items()}
    assert {query.id: query.user_id for query in read_queries(imported.files[1], TASK)} == queries


def test_train_and_dev_are_the_same_users(tmp_path: Path) -> None:
    for part in ("train", "dev"):
        write_json(tmp_path / f"{part}_questions.json", [question(part, item("a"), item(part), user_id="u")])
    assert histories(tmp_path / "train_questions.json") == {"u": ["a", "train"]}
    assert histories(tmp_path / "dev_questions.json") == {"u": ["a", "dev"]}


def test_the_label_file_may_name_the_users(tmp_path: Path) -> None:
    file = write_json(tmp_path / "dev_questions.json", [question(1, item("a")), question(2, item("b"))])
    golds = [{"id": key, "output": "x", "user_id": "u"} for key in (1, 2)]
    write_json(tmp_path / "dev_outputs.json", {"golds": golds})
    assert histories(file) == {"u": ["a", "b"]}
    write_json(tmp_path / "dev_questions.json", [question(1, item("a"), user_id="other"), question(2, item("b"))])
    with pytest.raises(DataError, match="item 1: query '1': the label file names another user"):
        histories(file)


BAD: list[tuple[list[dict[str, Any]], str]] = [
    ([question(1, item("a"), user_id="u"), question(2, item("a", "other"), user_id="u")],
     "question '2', profile item 1: user 'u': the record 'a' is repeated with different content"),
    ([question(1, item("a"), user_id="u"), question(2, item("b"))], "item 2: some questions of the file have"),
    ([question(1, item("a")), question(2, item("b"), user_id="u")], "item 2: some questions of the file have"),
    ([question(1, item("a"), user_id="u"), question(2, item("b"), user_id=["u"])], "item 2: the field 'user_id' is a"),
    ([question(1, item("a"), user_id="u"), question(1, item("b"), user_id="u")], "the query id '1' is repeated"),
]  # fmt: skip


@pytest.mark.parametrize(("questions", "said"), BAD)
def test_what_does_not_go_together_is_named_or_left_out(
    tmp_path: Path, questions: list[dict[str, Any]], said: str
) -> None:
    file = write_json(tmp_path / "dev_questions.json", questions)
    with pytest.raises(DataError, match="dev_questions") as caught:
        histories(file)
    assert said in str(caught.value)
    assert len(read_dataset(file, TASK, skip_bad=True).bad) == 1


def test_no_history_holds_what_its_user_is_asked(tmp_path: Path) -> None:
    """The profile of one question holds the other's document: one history of both must not."""
    documents = [item(n, f"asked {n}") for n in range(4)]
    questions = [question(n, *(one for one in documents if one["id"] != n), user_id="u") for n in range(2)]
    file = write_json(tmp_path / "dev_questions.json", questions)
    assert histories(file) == {"u": ["2", "3"]}
    assert read_dataset(file, TASK).given_away == 2
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_4")
    assert imported.left_out == {"records that are the answer to a query of the same user": 2}
    for one in questions:
        del one["user_id"]
    write_json(file, questions)  # each a user: its own profile is as it was published
    assert histories(file) == {"0": ["1", "2", "3"], "1": ["0", "2", "3"]}


ANSWERS: list[tuple[dict[str, Any], str | None, str | None]] = [  # in the query, in the label file, what counts
    ({"gold": "yes"}, None, "yes"),
    ({"output": "yes"}, None, "yes"),
    ({"title": "yes"}, None, "yes"),  # the task's own answer field
    ({"gold": " yes "}, "yes", "yes"),
    ({"gold": "", "output": None}, "yes", "yes"),
    ({"gold": "yes", "output": "yes"}, None, "yes"),
    ({"gold": 4.0}, "4", "4"),
    ({}, "yes", "yes"),
    ({"gold": " "}, None, None),
    ({"gold": "yes"}, "no", "error"),
    ({"output": "yes", "gold": "no"}, None, "error"),
]


@pytest.mark.parametrize(("own", "labelled", "expected"), ANSWERS)
@pytest.mark.parametrize("shape", ["question", "people", "lines", "csv"])
def test_right_answers(
    tmp_path: Path, own: dict[str, Any], labelled: str | None, expected: str | None, shape: str
) -> None:
    if labelled is not None and shape in ("lines", "csv"):
        return  # label files go with LaMP's shapes
    if labelled is not None:
        for name in ("dev_outputs.json", "top_label.json"):
            write_json(tmp_path / name, {"golds": [{"id": "q", "output": labelled}]})
    if shape == "question":
        file = write_json(tmp_path / "dev_questions.json", [question("q", item("a"), **own)])
    elif shape == "people":
        person = {"user_id": "u", "profile": [item("a")], "query": [{"id": "q", "input": "asked", **own}]}
        file = write_json(tmp_path / "top.json", [person])
    elif shape == "lines":
        file = write_lines(tmp_path / "q.jsonl", [{"user_id": "u", "id": "q", "input": "asked", **own}])
    else:
        file = tmp_path / "q.csv"
        row = {"user_id": "u", "id": "q", "input": "asked", **own}
        cells = ("" if value is None else json.dumps(value).strip('"') for value in row.values())
        file.write_text(f"{','.join(row)}\n{','.join(cells)}\n", "utf8")
    if expected == "error":
        with pytest.raises(DataError, match=r"quer(y|ies) 'q'.*differ"):
            read_queries(file, TASK)
        return
    (query,) = read_queries(file, TASK)
    assert query.gold == (expected if shape != "csv" or own.get("gold") != 4.0 else "4.0")
    if shape in ("question", "people"):
        assert read_dataset(file, TASK).queries == [query]
        imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_4")
        assert [one.gold for one in read_queries(imported.files[1], TASK)] == [expected]


TWICE: list[tuple[list[str | None], list[str] | None]] = [  # right answers of one query, and what each then has
    (["yes", "no"], None),
    ([None, "yes", "no"], None),
    (["yes", "yes"], ["yes", "yes"]),
    ([None, "yes"], ["yes", "yes"]),
    (["yes", None, None], ["yes", "yes", "yes"]),
]


@pytest.mark.parametrize(("golds", "expected"), TWICE)
def test_a_query_that_stands_twice(tmp_path: Path, golds: list[str | None], expected: list[str] | None) -> None:
    rows = [{"user_id": "u", "id": "q", "input": "asked", "gold": gold} for gold in golds]
    file = write_lines(tmp_path / "q.jsonl", rows)
    if expected is None:
        with pytest.raises(DataError, match=rf"q\.jsonl:{len(golds)}: .*'q' is repeated"):
            read_queries(file, TASK)
    else:
        assert [query.gold for query in read_queries(file, TASK)] == expected


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("questions", "labels"),
    [
        ("dev_questions.json.gz", "dev_outputs.json"),
        ("dev_questions.json", "dev_outputs.json.gz"),
        ("dev_questions.json.xz", "dev_outputs.json.bz2"),
        ("top.json.gz", "top_label.json"),
        ("top.json", "top_label.json.zst"),
    ],
)
def test_labels_beside_packed_questions(tmp_path: Path, questions: str, labels: str, packed: str) -> None:
    """Files are read by their content, so each is written with and without packing under the same name."""
    golds = {"golds": [{"id": "q", "output": "yes", "user_id": "ada"}]}
    for name, document in ((questions, [question("q", item("a"))]), (labels, golds)):
        content = json.dumps(document).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    (query,) = read_queries(tmp_path / questions, TASK)
    assert (query.user_id, query.gold) == ("ada", "yes")


def test_json_lines_of_questions(tmp_path: Path) -> None:
    questions = [question(1, item("a"), user_id="u"), question(2, item("b"), user_id="u")]
    write_json(tmp_path / "dev_outputs.json", {"golds": [{"id": "2", "output": "yes"}]})
    expected = read_dataset(write_json(tmp_path / "dev_questions.json", questions), TASK)
    file = write_lines(tmp_path / "dev_questions.jsonl", questions)
    assert read_dataset(file, TASK, labels=tmp_path / "dev_outputs.json") == expected
    assert read_queries(file, TASK, labels=tmp_path / "dev_outputs.json") == expected.queries
    assert import_lamp(file, tmp_path / "out.jsonl", task="LaMP_4").files
    with file.open("ab") as more:
        more.write(b'{"id": 3\n')
    with pytest.raises(DataError, match=r"dev_questions\.jsonl:3: "):
        read_dataset(file, TASK)
    assert len(read_dataset(file, TASK, skip_bad=True).bad) == 1


@pytest.mark.parametrize("lines", [False, True])
def test_a_column_called_profile_is_no_history(tmp_path: Path, lines: bool) -> None:
    rows = [{"user_id": "u", "text": "rain", "title": "T", "profile": "likes rain"}]
    file = write_lines(tmp_path / "d", rows) if lines else write_json(tmp_path / "d", rows)
    (history,) = read_dataset(file, TASK).histories
    assert [dict(record.fields) for record in history.records] == [{"text": "rain", "title": "T"}]


def test_ids_that_begin_again_in_each_question(tmp_path: Path) -> None:
    questions = [question(1, item(0, "a"), user_id="u"), question(2, item(0, "b"), user_id="u")]
    with pytest.raises(DataError, match=r"'0' is repeated .* leave `id` out of its records"):
        read_dataset(write_json(tmp_path / "dev_questions.json", questions), TASK)
    for one in questions:
        del one["profile"][0]["id"]
    (history,) = read_dataset(write_json(tmp_path / "dev_questions.json", questions), TASK).histories
    assert sorted(record.fields["text"] for record in history.records) == ["a", "b"]


@pytest.mark.parametrize("name", ["userid", "author", "user", "userId"])
def test_a_user_under_another_name_is_noted(tmp_path: Path, name: str) -> None:
    questions = [question(1, item("a"), **{name: "u"}), question(2, item("b"), **{name: "u"})]
    (note,) = read_dataset(write_json(tmp_path / "dev_questions.json", questions), TASK).notes
    assert f"{name!r} is not read; rename it to 'user_id'" in note


@pytest.mark.parametrize("blank", [True, False])
def test_a_first_question_that_is_the_odd_one(tmp_path: Path, blank: bool) -> None:
    users = ["", "u", "u", "v"] if blank else ["u", "", "", None]
    questions = [question(key, item(key), user_id=user) for key, user in enumerate(users)]
    file = write_json(tmp_path / "dev_questions.json", questions)
    with pytest.raises(DataError, match=r"item 1.*item 2"):
        read_dataset(file, TASK, skip_bad=True)
    write_json(file, [questions[1], questions[0], *questions[2:]][:3])
    assert len(read_dataset(file, TASK, skip_bad=True).bad) == 1
