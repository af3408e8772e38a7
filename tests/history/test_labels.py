"""Answers that are no label of their task, wherever records come in."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ownlm.errors import DataError
from ownlm.history.labels import check_history, nearest_label
from ownlm.history.readers import read_dataset
from ownlm.history.record import History, Record
from ownlm.history.task import load_task
from tests.history.files import NEWS, SECRET, row, write_json, write_lines

ROWS = [row(), row("u2", category="Politics"), row("u3", category="politics")]


def lines(folder: Path) -> Path:
    return write_lines(folder / "d.jsonl", ROWS)


def array(folder: Path) -> Path:
    return write_json(folder / "d.json", ROWS)


def parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "d.parquet")
    return folder / "d.parquet"


def lamp(folder: Path) -> Path:
    people = [{"user_id": one["user_id"], "profile": [{"id": 1, **one}], "query": []} for one in ROWS]
    return write_json(folder / "d.json", people)


PLACES = [
    (lines, "d.jsonl:2: user 'u2'"),
    (array, "d.json, item 2: user 'u2'"),
    (parquet, "d.parquet, row 2: user 'u2'"),
    (lamp, "d.json, user 'u2', profile item 1: user 'u2'"),
]


@pytest.mark.parametrize(("written", "place"), PLACES)
def test_an_answer_that_is_no_label_is_a_bad_row(written: Any, place: str, tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(DataError) as caught:
        read_dataset(file, NEWS)
    what = f"{place}: the value of 'category' is not a label of the task; did you mean 'politics'?"
    assert caught.value.what.endswith(what), caught.value.what
    assert caught.value.expected == "one of: arts, politics" and "--skip-bad" in str(caught.value.command)
    dataset = read_dataset(file, NEWS, skip_bad=True)
    assert [history.user_id for history in dataset.histories] == ["u1", "u3"]
    assert len(dataset.bad) == 1 and dataset.bad[0].endswith(what)


def test_the_labels_of_a_lamp_file_are_those_that_its_questions_list(tmp_path: Path) -> None:
    task, ask = load_task("LaMP_2N"), "Which category does this article relate to? categories: [arts, misc] article: "

    def read(category: str) -> Any:
        person = {"user_id": "u", "query": [{"id": "q", "input": f"{ask} rain"}]}
        profile = [{"id": 1, "text": "rain", "category": category}]
        return read_dataset(write_json(tmp_path / "d.json", [person | {"profile": profile}]), task)

    assert len(read("misc").histories) == 1
    with pytest.raises(DataError, match=r"not a label of the task.* Expected: one of: arts, misc"):
        read("politics")  # a label of the shipped task alone


def test_records_without_a_label_of_their_own_pass() -> None:
    options = load_task("LaMP_1")
    record = Record("u", "1", {"title": "t", "citation": "a paper"})
    check_history(options, History("u", (record,)))
    check_history(NEWS, History("u", (Record("u", "1", {"text": "rain"}),)))  # LaMP's may lack their answer
    check_history(load_task("free-text"), History("u", (Record("u", "1", {"text": "rain", "answer": "any"}),)))


def test_a_history_with_answers_that_are_no_labels(tmp_path: Path) -> None:
    answers = ("arts", "Art", SECRET, "politics")
    records = tuple(Record("u", f"r{n}", {"text": SECRET, "category": one}) for n, one in enumerate(answers))
    with pytest.raises(DataError) as caught:
        check_history(NEWS, History("u", records))
    told = json.dumps(caught.value.as_dict())
    assert "2 records of user 'u' in task 'news' have an answer that is not one of the task's labels" in told
    assert "record 'r1' (nearest label: 'arts'), and 1 more" in told
    assert "ownlm history edit --task news --set category=LABEL USER ID" in told and SECRET not in told


@pytest.mark.parametrize(
    ("answer", "label"),
    [("idea", "ideas"), ("IDEAS", "ideas"), (" ideas. ", "ideas"), ("to do", "to-do"), ("\uff42\uff49\uff4e", "bin"),
     ("rain", None), ("", None), ("x" * 10_000, None), ("?", None)],
)  # fmt: skip
def test_the_nearest_label(answer: str, label: str | None) -> None:
    assert nearest_label(("ideas", "to-do", "bin"), answer) == label


@pytest.mark.parametrize(
    ("answer", "labels", "near"),
    [
        ("4.0", "1 2 3 4 5", "4"),
        ("4.00", "1 2 3 4 5", "4"),
        ("4", "1.0 2.0 4.0", "4.0"),
        ("+4", "1 4", "4"),
        ("4.0", "10 40", None),
        ("4.5", "1 45", None),
        ("-4", "1 4", None),
        ("ideas", "bug idea", "idea"),
    ],
)
def test_numbers_are_near_to_no_other_number(answer: str, labels: str, near: str | None) -> None:
    assert nearest_label(labels.split(), answer) == near
