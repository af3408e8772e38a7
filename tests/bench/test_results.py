"""What a benchmark came to: measured, written, and read again."""

import functools
import json
import operator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.bench.metrics import metric
from ownlm.bench.results import (
    FILE,
    Answered,
    Costs,
    MethodResult,
    as_json,
    bucket_of,
    buckets,
    measure,
    read_results,
    write_results,
)
from ownlm.bench.statistics import Difference, Resampling
from ownlm.errors import DataError
from ownlm.history.task import Task, load_task
from tests.bench.made import results

USERS = ["ada", "ada", "bela", "bela", "ciro"]
GOLDS = ["a", "b", "a", "b", "a"]
RECORDS = {"ada": 20, "bela": 21, "ciro": 3, "nobody": 500}
ANSWERS = {"first": [["a", "a", "a", "a", "a"]], "right": [GOLDS, ["b", "b", "b", "b", "b"]]}


@pytest.fixture
def task() -> Task:
    return load_task("LaMP_2N").model_copy(update={"labels": ("a", "b")})


def measured(task: Task, baseline: str = "first") -> tuple[MethodResult, ...]:
    costs = (Costs(train_seconds=1.0, ms_per_answer=2.0), Costs(train_seconds=2.0))
    answered = [
        Answered(name=name, method="own", settings={"k": 1}, outputs=tuple(map(tuple, outputs)), costs=tuple(costs))
        for name, outputs in ANSWERS.items()
    ]
    return measure(task, USERS, GOLDS, RECORDS, answered, baseline)


def test_what_is_measured_is_what_metrics_and_resampling_say(task: Task) -> None:
    first, right = measured(task)
    assert list(first.scores) == ["accuracy", "f1_macro"] and [first.name, right.name] == ["first", "right"]
    assert first.scores["accuracy"].value == pytest.approx(0.6)
    assert right.scores["accuracy"].value == pytest.approx((1.0 + 0.4) / 2)
    assert first.differences == {}
    for name in first.scores:
        how, everybody = metric(name), Resampling.of(USERS)
        terms = {who: [how.terms(said, GOLDS, ("a", "b")) for said in seeds] for who, seeds in ANSWERS.items()}
        assert right.differences[name] == everybody.difference(how, terms["right"], terms["first"])
        assert right.scores[name] == everybody.estimate(how, terms["right"])


def test_buckets_hold_whole_people_the_least_active_first(task: Task) -> None:
    few, more = measured(task)[0].buckets
    assert (few.label, few.users, few.queries) == ("1-20 records", 2, 3)
    assert (more.label, more.users, more.queries) == ("21-50 records", 1, 2)
    assert few.scores["accuracy"].value == pytest.approx(2 / 3) and more.scores["accuracy"].value == 0.5


def test_costs_are_the_mean_of_the_seeds_they_apply_to(task: Task) -> None:
    assert measured(task)[0].costs == Costs(train_seconds=1.5, ms_per_answer=2.0)


def test_without_its_baseline_a_set_has_no_differences(task: Task) -> None:
    assert [method.differences for method in measured(task, "another")] == [{}, {}]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("an older one")
    path = write_results(results(), tmp_path)
    assert read_results(tmp_path) == results()
    assert path.read_text("utf8") == as_json(results()) and [one.name for one in tmp_path.iterdir()] == [FILE]
    with pytest.raises(DataError, match="cannot be written"):
        write_results(results(), tmp_path / "nowhere")


NONE = object()
DAMAGES = {  # a part of the first set, and what stands there instead
    "no low": ("methods.0.scores.accuracy.low", NONE),
    "text for number": ("methods.0.scores.accuracy.low", "0.1"),
    "not finite": ("methods.0.scores.accuracy.low", float("nan")),
    "another field": ("mood", "good"),
    "unknown metric": ("metrics.0", "applause"),
    "a score is missing": ("methods.1.scores.accuracy", NONE),
    "a difference is missing": ("methods.1.differences.accuracy", NONE),
    "a bucket is missing": ("methods.1.buckets.0", NONE),
}


@pytest.mark.parametrize(("part", "value"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_results_are_told_from_whole_ones(tmp_path: Path, part: str, value: object) -> None:
    content = json.loads(as_json(results()))
    place, *parts, last = (int(name) if name.isdigit() else name for name in ("sets", "0", *part.split(".")))
    within = functools.reduce(operator.getitem, parts, content[place])
    if value is NONE:
        within.pop(last)
    else:
        within[last] = value
    (tmp_path / FILE).write_text(json.dumps(content), "utf8")
    with pytest.raises(DataError, match="are damaged") as caught:
        read_results(tmp_path)
    assert caught.value.got and "run the plan again" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{" * 100_000], ids=["empty", "list", "bytes", "deep"])
def test_what_is_no_results_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match="are damaged"):
        read_results(tmp_path)


def test_a_torn_file_is_damaged_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = as_json(results()).encode()
    for cut in range(1, len(whole) - 1, 997):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with pytest.raises(DataError, match="are damaged"):
            read_results(tmp_path)


def test_no_results_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There are no results"):
        read_results(tmp_path)


def test_a_difference_keeps_its_digits(tmp_path: Path) -> None:
    third = Difference(1 / 3, 0.1 + 0.2, 2 / 3, 1e-17)
    content = json.loads(as_json(results()))
    content["sets"][0]["methods"][1]["differences"]["accuracy"] = {
        "value": third.value, "low": third.low, "high": third.high, "detectable": third.detectable,
    }  # fmt: skip
    (tmp_path / FILE).write_text(json.dumps(content), "utf8")
    write_results(read_results(tmp_path), tmp_path)
    assert read_results(tmp_path).sets[0].methods[1].differences["accuracy"] == third


def test_where_buckets_begin() -> None:
    begins = [0, 1, 21, 51, 101, 201]
    labels = [bucket_of(records) for records in begins]
    assert labels == [
        "0 records", "1-20 records", "21-50 records", "51-100 records", "101-200 records", "201+ records"
    ]  # fmt: skip
    assert [bucket_of(records - 1) for records in begins[1:]] == labels[:-1]


@given(st.lists(st.integers(0, 300)))
def test_every_query_is_in_one_bucket(records: list[int]) -> None:
    parts = buckets(records)
    assert sorted(place for places in parts.values() for place in places) == list(range(len(records)))
    assert all(bucket_of(records[place]) == label for label, places in parts.items() for place in places)
    assert all(places == sorted(places) and places for places in parts.values())
    assert [min(records[place] for place in places) for places in parts.values()] == sorted(
        min(records[place] for place in places) for places in parts.values()
    )
