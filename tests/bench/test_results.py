"""What a benchmark came to: measured, written, and read again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ownlm.bench.metrics import metric
from ownlm.bench.results import (
    FILE,
    Answered,
    Costs,
    SetResult,
    SharedCost,
    as_json,
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


def measured(task: Task, baseline: str = "first") -> SetResult:
    costs = [Costs(train_seconds=1.0, ms_per_answer=2.0), Costs(train_seconds=2.0)]
    answered = [Answered(name, "own", {"k": 1}, outputs, costs) for name, outputs in ANSWERS.items()]
    return measure("news", task, USERS, GOLDS, RECORDS, answered, baseline, outsiders=9, sharers=4)


def test_what_is_measured_is_what_metrics_and_resampling_say(task: Task) -> None:
    one = measured(task)
    assert (one.users, one.queries, one.outsiders, one.sharers) == (3, 5, 9, 4)
    assert one.metrics == ("accuracy", "f1_macro") and [method.name for method in one.methods] == ["first", "right"]
    first, right = one.methods
    assert first.scores["accuracy"].value == pytest.approx(0.6)
    assert right.scores["accuracy"].value == pytest.approx((1.0 + 0.4) / 2)
    assert first.differences == {}
    for name in one.metrics:
        how, everybody = metric(name), Resampling.of(USERS)
        terms = {who: [how.terms(said, GOLDS, ("a", "b")) for said in seeds] for who, seeds in ANSWERS.items()}
        assert right.differences[name] == everybody.difference(how, terms["right"], terms["first"])
        assert right.scores[name] == everybody.estimate(how, terms["right"])


def test_buckets_hold_whole_people_the_least_active_first(task: Task) -> None:
    few, more = measured(task).methods[0].buckets
    assert (few.label, few.users, few.queries) == ("1-20 records", 2, 3)
    assert (more.label, more.users, more.queries) == ("21-50 records", 1, 2)
    assert few.scores["accuracy"].value == pytest.approx(2 / 3) and more.scores["accuracy"].value == 0.5


def test_costs_are_the_mean_of_the_seeds_they_apply_to(task: Task) -> None:
    assert measured(task).methods[0].costs == Costs(train_seconds=1.5, ms_per_answer=2.0)


def test_what_is_left_out_and_shared_is_kept(task: Task) -> None:
    answered = [Answered("first", "own", {}, ANSWERS["first"], [Costs()])]
    shared = [SharedCost("the pool", 1.0, None, 4)]
    one = measure(
        "news", task, USERS, GOLDS, RECORDS, answered, "first", left_out=["kNN"], unlabelled=2, shared=shared
    )  # fmt: skip
    assert (one.left_out, one.unlabelled, one.shared) == (("kNN",), 2, tuple(shared))


def test_without_its_baseline_a_set_has_no_differences(task: Task) -> None:
    assert [method.differences for method in measured(task, "another").methods] == [{}, {}]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("an older one")
    path = write_results(results(), tmp_path)
    assert read_results(tmp_path) == results()
    assert path.read_text("utf8") == as_json(results()) and [one.name for one in tmp_path.iterdir()] == [FILE]
    with pytest.raises(DataError, match="cannot be written"):
        write_results(results(), tmp_path / "nowhere")


def _no_low(content: dict[str, Any]) -> None:
    del content["sets"][0]["methods"][0]["scores"]["accuracy"]["low"]


def _text_for_number(content: dict[str, Any]) -> None:
    content["sets"][0]["methods"][0]["scores"]["accuracy"]["low"] = "0.1"


def _not_finite(content: dict[str, Any]) -> None:
    content["sets"][0]["methods"][0]["scores"]["accuracy"]["low"] = float("nan")


def _another_field(content: dict[str, Any]) -> None:
    content["sets"][0]["mood"] = "good"


def _unknown_metric(content: dict[str, Any]) -> None:
    content["sets"][0]["metrics"][0] = "applause"


def _a_score_is_missing(content: dict[str, Any]) -> None:
    del content["sets"][0]["methods"][1]["scores"]["accuracy"]


def _a_difference_is_missing(content: dict[str, Any]) -> None:
    del content["sets"][0]["methods"][1]["differences"]["accuracy"]


def _a_bucket_is_missing(content: dict[str, Any]) -> None:
    del content["sets"][0]["methods"][1]["buckets"][0]


DAMAGES = (
    _no_low,
    _text_for_number,
    _not_finite,
    _another_field,
    _unknown_metric,
    _a_score_is_missing,
    _a_difference_is_missing,
    _a_bucket_is_missing,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_damaged_results_are_told_from_whole_ones(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(as_json(results()))
    damage(content)
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
