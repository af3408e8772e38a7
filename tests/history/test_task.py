import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ownlm.errors import NotFoundError, TaskError
from ownlm.history.task import Task, load_task, parse_query, shipped_tasks, with_instruction
from tests.history.files import NEWS, SECRET

NAMES = [
    *(f"LaMP_{n}" for n in ("1", "2M", "2N", "3", "4", "5", "7")),
    *(f"LongLaMP_{n}" for n in ("abstract", "review", "topic")),
    *("free-text", "git-commit", "mail-subject"),
]


def test_shipped_tasks_load_under_their_names() -> None:
    assert shipped_tasks() == NAMES
    for name in NAMES:
        task = load_task(name)
        assert task.name == name and task.metrics and "{" not in task.instruction_text
        assert Task.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(("name", "count"), [("LaMP_1", 2), ("LaMP_2M", 15), ("LaMP_2N", 15), ("LaMP_3", 5)])
def test_labels_stand_in_the_instruction(name: str, count: int) -> None:
    task = load_task(name)
    assert task.labels is not None and len(task.labels) == count
    assert ", ".join(task.labels) in task.instruction_text


def test_names_of_fields() -> None:
    assert NEWS.input_fields == ("title", "text")
    assert NEWS.required_inputs == ("text",)
    assert (NEWS.answer_field, NEWS.cue) == ("category", "category:")
    assert NEWS.record_fields == ("title", "text", "category")
    assert NEWS.required_in_records == ("text", "category")
    citation = load_task("LaMP_1")
    assert citation.record_fields == ("title", "citation", "other")
    assert citation.required_in_records == ("title",)


def test_tasks_do_not_change() -> None:
    with pytest.raises(ValidationError):
        NEWS.name = "other"  # type: ignore[misc]


GOOD: dict[str, Any] = {"name": "t", "instruction": "Do.", "input": "a: {a}", "answer": "b: {b}"}
CHOICE = GOOD | {
    "input": "{a}\n1: {option_1}\n2: {option_2}",
    "labels": ["1", "2"],
    "options": {"right": "r", "wrong": "w"},
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "a/b"}, "name"),
        ({"instruction": " "}, "instruction"),
        ({"instruction": "One of {labels}."}, "the task has no labels"),
        ({"input": "a"}, "no field"),
        ({"input": "{a} {"}, "input and answer"),
        ({"input": "{a!r}"}, "plain name"),
        ({"input": "{user_id}"}, "'user_id'"),
        ({"answer": "b"}, "exactly one field"),
        ({"answer": "{b}"}, "exactly one field"),
        ({"answer": "b: {b}."}, "exactly one field"),
        ({"answer": "b: {b} {b}"}, "exactly one field"),
        ({"answer": "b: {b} {c}"}, "exactly one field"),
        ({"answer": "a: {a}"}, "stands in the input"),
        ({"labels": ["x"]}, "labels"),
        ({"labels": ["x", "x"]}, "labels must differ"),
        ({"labels": ["x", " y"]}, "labels must differ"),
        ({"labels": [1, 2]}, "labels"),
        ({"metrics": ["bleu"]}, "metrics"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"optional": ["c"]}, "'c'"),
        ({"query": "(?P<a>"}, "regular expression"),
        ({"query": "(?P<a>.*)(?P<c>.*)"}, "'c'"),
        ({"query": "(?P<instruction>.*)"}, "lacks the groups 'a'"),
        ({"colour": "red"}, "colour"),
        ({"options": {"right": "r", "wrong": "w"}}, "option_1"),
        (CHOICE | {"labels": ["1", "2", "3"]}, "two labels"),
        (CHOICE | {"options": {"right": "r", "wrong": "r"}}, "differ"),
        (CHOICE | {"options": {"right": "a", "wrong": "w"}}, "stands in the input"),
        (CHOICE | {"options": {"right": "r"}}, "options.wrong"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    file = tmp_path / "t.toml"
    for good in (GOOD, CHOICE):
        _write_toml(file, good)
        load_task(file)
    _write_toml(file, GOOD | change)
    with pytest.raises(TaskError) as caught:
        load_task(str(file))
    assert expected in str(caught.value) and str(file) in str(caught.value)


def _write_toml(file: Path, spec: dict[str, Any]) -> None:
    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{" + ", ".join(f"{key} = {value(item)}" for key, item in of.items()) + "}"
        return json.dumps(of)

    file.write_text("\n".join(f"{key} = {value(item)}" for key, item in spec.items()), "utf8")


def test_a_file_that_is_no_toml_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    for content in (b"name = ", b"\xff\xfe", b""):
        file.write_bytes(content)
        with pytest.raises(TaskError):
            load_task(file)
    for name in ("LaMP_9", str(tmp_path / "none.toml"), str(tmp_path)):
        with pytest.raises(NotFoundError) as caught:
            load_task(name)
        assert all(shipped in str(caught.value) for shipped in NAMES)


def test_another_instruction_makes_a_copy() -> None:
    before = copy.deepcopy(NEWS)
    other = with_instruction(NEWS, "Which {one}? {labels}", ("x", "y", "z"))
    assert other.instruction_text == "Which {one}? x, y, z"
    assert other.model_copy(update={"instruction": NEWS.instruction, "labels": NEWS.labels}) == NEWS == before
    assert with_instruction(NEWS, "Go.", None).labels == NEWS.labels
    with pytest.raises(TaskError) as caught:
        with_instruction(NEWS, "Go.", (SECRET,))
    assert SECRET not in str(caught.value)


LAMP_QUERIES = [
    (
        "LaMP_1",
        'For an author who has written the paper with the title "On "Rain"", which reference is related? Just answer '
        'with [1] or [2] without explanation. [1]: "Clouds" [2]: "The "Sun""',
        {"title": 'On "Rain"', "option_1": "Clouds", "option_2": 'The "Sun"'},
        None,
        None,
    ),
    (
        "LaMP_2M",
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
        "explanation. tags: [sci-fi, true story] description: A film.\nIt rains: a lot.",
        {"description": "A film.\nIt rains: a lot."},
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
        "explanation. tags: [sci-fi, true story]",
        ("sci-fi", "true story"),
    ),
    (
        "LaMP_2N",
        "Which category does this article relate to among the following categories? Just answer with the category name "
        "without further explanation. categories: [style & beauty, u.s. news] article: On [the] article: rain",
        {"text": "On [the] article: rain"},
        "Which category does this article relate to among the following categories? Just answer with the category name "
        "without further explanation. categories: [style & beauty, u.s. news]",
        ("style & beauty", "u.s. news"),
    ),
    (
        "LaMP_3",
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: Good review: yes",
        {"text": "Good review: yes"},
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation.",
        None,
    ),
    (
        "LaMP_4",
        "Generate a headline for the following article: Rain: again",
        {"text": "Rain: again"},
        "Generate a headline for the following article",
        None,
    ),
    (
        "LaMP_5",
        "Generate a title for the following abstract of a paper: We show: rain.",
        {"abstract": "We show: rain."},
        "Generate a title for the following abstract of a paper",
        None,
    ),
    (
        "LaMP_7",
        "Paraphrase the following tweet without any explanation before or after it: rain :(",
        {"source": "rain :("},
        "Paraphrase the following tweet without any explanation before or after it",
        None,
    ),
]


@pytest.mark.parametrize(("name", "text", "fields", "instruction", "labels"), LAMP_QUERIES)
def test_lamp_queries_come_apart(
    name: str, text: str, fields: dict[str, str], instruction: str | None, labels: tuple[str, ...] | None
) -> None:
    assert parse_query(load_task(name), text) == (fields, instruction, labels)


@pytest.mark.parametrize(
    "name", ["LaMP_2M", "LaMP_2N", "LaMP_3", "LaMP_4", "LaMP_5", "LaMP_7", "free-text", "git-commit"]
)
def test_a_bare_text_is_the_only_field(name: str) -> None:
    task = load_task(name)
    assert parse_query(task, " {a} bare text: [x] ") == ({task.input_fields[0]: "{a} bare text: [x]"}, None, None)


def test_several_fields_come_as_an_object() -> None:
    task = load_task("LaMP_1")
    text = '{"title": "T", "option_1": "A", "option_2": 2}'
    assert parse_query(task, text)[0] == {"title": "T", "option_1": "A", "option_2": "2"}


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f'["{SECRET}"]',
        f'{{"title": "{SECRET}", "option_1": "A"}}',
        f'{{"title": "{SECRET}", "option_1": "A", "option_2": " "}}',
        f'{{"title": "T", "option_1": "A", "option_2": "B", "{SECRET}": "C"}}',
        f'{{"title": "T", "option_1": "A", "option_2": ["{SECRET}"]}}',
        f'{{"title": "{SECRET}',
        "[" * 100_000,
    ],
)
def test_a_query_that_does_not_fit_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(TaskError) as caught:
        parse_query(load_task("LaMP_1"), text)
    assert SECRET not in str(caught.value)


def test_an_empty_query_is_refused_where_a_field_is_needed() -> None:
    for text in ("", " \n"):
        with pytest.raises(TaskError, match="'text' is missing or blank"):
            parse_query(load_task("LaMP_4"), text)
    assert parse_query(load_task("free-text"), " ") == ({}, None, None)


def test_optional_fields_may_come_in_an_object() -> None:
    task = load_task("git-commit")
    (needed,) = task.required_inputs
    (more,) = task.optional
    both = {needed: "src/a.py +1", more: "+x"}
    assert parse_query(task, json.dumps(both))[0] == both
    assert parse_query(task, json.dumps({needed: "a"}))[0] == {needed: "a"}
    for text in ('{"other": 1}', json.dumps({more: "x"}), "src/a.py +1", json.dumps(both | {"other": "x"})):
        assert parse_query(task, text)[0] == {needed: text}
