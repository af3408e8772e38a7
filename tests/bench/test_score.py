"""Scoring files, in every shape that people and queries come in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ownlm.bench.metrics import metric
from ownlm.bench.predictions import write_lamp
from ownlm.bench.score import Score, score
from ownlm.bench.statistics import Resampling
from ownlm.errors import ConfigError, DataError
from ownlm.history.task import Task, load_task
from tests.history.files import NEWS, SECRET, row, write_json, write_lines

ASK = "Which category does this article relate to? categories: [arts, politics, sport] article: rain"
RECORDS = {"ada": 3, "bela": 3, "ciro": 60}
GOLD = {f"{user}-{n}": ("arts", "politics")[n % 2] for user in RECORDS for n in range(4)}
SAID = {key: gold if place % 3 else "arts" for place, (key, gold) in enumerate(GOLD.items())}
TASK = NEWS.model_copy(update={"metrics": ("accuracy", "f1_macro")})


def files(folder: Path, said: dict[str, str] = SAID, task: str = "LaMP_2N") -> tuple[Path, Path]:
    """A label file and one of predictions, whose order is another."""
    write_lamp(folder / "golds.json", "LaMP_2N", GOLD)
    write_lamp(folder / "said.json", task, dict(sorted(said.items(), reverse=True)))
    return folder / "golds.json", folder / "said.json"


def item(number: int) -> dict[str, Any]:
    return {"id": number, "text": f"text {number}", "title": "t", "category": "arts"}


def people(folder: Path) -> Path:
    """OPPU's shape, with queries that have no label."""
    rows = [
        {
            "user_id": user,
            "profile": [item(n) for n in range(count)],
            "query": [{"id": f"{user}-{n}", "input": ASK} for n in range(5)],
        }
        for user, count in RECORDS.items()
    ]
    return write_json(folder / "people.json", rows)


def plain(folder: Path) -> Path:
    """Plain rows: histories, and queries beside them."""
    asked = [row(user, id=f"{user}-{n}") for user in RECORDS for n in range(4)]
    write_lines(folder / "mine.queries.jsonl", asked)
    return write_lines(
        folder / "mine.jsonl", [row(user, id=n) for user, count in RECORDS.items() for n in range(count)]
    )


def expected_accuracy() -> float:
    return float(np.mean([SAID[key] == gold for key, gold in GOLD.items()]))


def test_without_data_each_query_counts_by_itself(tmp_path: Path) -> None:
    scored = score(*files(tmp_path), TASK)
    assert (scored.task, scored.queries, scored.users, scored.by, scored.buckets) == ("news", 12, None, "query", ())
    accuracy = scored.scores["accuracy"]
    assert list(scored.scores) == ["accuracy", "f1_macro"]
    assert accuracy.value == pytest.approx(expected_accuracy()) and accuracy.low < accuracy.value < accuracy.high


@pytest.mark.parametrize("shape", [people, plain])
def test_with_data_people_are_resampled_and_parted(tmp_path: Path, shape: Any) -> None:
    scored = score(*files(tmp_path), load_task("LaMP_2N").model_copy(update={"labels": TASK.labels}), shape(tmp_path))
    assert (scored.queries, scored.users, scored.by) == (12, 3, "user")
    term_QS = np.array([[SAID[key] == gold] for key, gold in GOLD.items()], np.float64)
    users = [key.split("-")[0] for key in GOLD]
    assert scored.scores["accuracy"] == Resampling.of(users).estimate(metric("accuracy"), [term_QS])
    few, many = scored.buckets
    assert (few.label, few.users, few.queries) == ("1-20 records", 2, 8)
    assert (many.label, many.users, many.queries) == ("51-100 records", 1, 4)
    assert few.scores["accuracy"] == Resampling.of(users[:8]).estimate(metric("accuracy"), [term_QS[:8]])
    assert many.scores["accuracy"] == Resampling.of(users[8:]).estimate(metric("accuracy"), [term_QS[8:]])


def test_the_labels_that_the_data_carry_count(tmp_path: Path) -> None:
    task = load_task("LaMP_2N").model_copy(update={"labels": TASK.labels})
    of_data, of_task = score(*files(tmp_path), task, people(tmp_path)), score(*files(tmp_path), task)
    assert of_data.scores["f1_macro"].value == pytest.approx(2 / 3 * of_task.scores["f1_macro"].value)
    with pytest.raises(DataError, match="6 of 12 right answers"):
        score(*files(tmp_path), TASK.model_copy(update={"labels": ("arts", "sport")}))


def test_lamps_questions_are_people_some_without_records(tmp_path: Path) -> None:
    questions = [{"id": key, "input": ASK, "profile": [item(1)] * (n % 2)} for n, key in enumerate(GOLD)]
    scored = score(*files(tmp_path), load_task("LaMP_2N"), write_json(tmp_path / "dev_questions.json", questions))
    assert (scored.users, scored.by) == (12, "user")
    assert [(part.label, part.users) for part in scored.buckets] == [("0 records", 6), ("1-20 records", 6)]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({key: said for key, said in SAID.items() if not key.startswith("bela")}, "4 of the queries .* 'bela-0'"),
        ({**SAID, "zoe-1": SECRET, "zoe-0": SECRET}, "2 of the predictions .* 'zoe-1'"),
        ({}, "12 of the queries"),
    ],
)
def test_predictions_for_other_queries_are_refused(tmp_path: Path, said: dict[str, str], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        score(*files(tmp_path, said), TASK)
    assert SECRET not in str(caught.value)


def test_answers_that_are_no_label_are_counted(tmp_path: Path) -> None:
    assert score(*files(tmp_path), TASK).unreadable == 0
    odd = {**SAID, "ada-0": "", "ada-1": "the arts", "ada-2": " arts"}
    assert score(*files(tmp_path, odd), TASK).unreadable == 2


def test_both_second_tasks_have_the_name_that_lamp_gives_them(tmp_path: Path) -> None:
    golds, said = files(tmp_path)
    document = json.loads(said.read_text())
    assert document["task"] == "LaMP_2"
    own = write_json(tmp_path / "own.json", {**document, "task": "LaMP_2N"})
    assert score(golds, own, TASK).scores == score(golds, said, TASK).scores
    films = write_json(tmp_path / "films.json", {**document, "task": "LaMP_2M"})
    with pytest.raises(DataError, match=r"Got: LaMP_2N\. Expected: LaMP_2M"):
        score(films, own, TASK)


def test_files_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"another task.* Got: LaMP_4\. Expected: LaMP_2\.?$"):
        score(*files(tmp_path, task="LaMP_4"), TASK)
    golds, said = files(tmp_path)
    twice = {"golds": [{"id": "ada-0", "output": SECRET}] * 2}
    with pytest.raises(DataError, match="is repeated"):
        score(golds, write_json(tmp_path / "twice.json", twice), TASK)
    empty = write_json(tmp_path / "empty.json", {"golds": []})
    with pytest.raises(DataError, match="no answers"):
        score(empty, empty, TASK)
    with pytest.raises(ConfigError, match="numbers"):
        score(golds, said, TASK.model_copy(update={"metrics": ("mae",)}))


def test_data_of_other_queries_are_refused(tmp_path: Path) -> None:
    golds, said = files(tmp_path)
    alone = write_lines(tmp_path / "alone.jsonl", [row("ada", id=1)])
    with pytest.raises(DataError, match=r"no alone\.queries\.jsonl beside it"):
        score(golds, said, TASK, alone)
    write_lines(tmp_path / "alone.queries.jsonl", [row("ada", id=f"ada-{n}") for n in range(4)])
    with pytest.raises(DataError, match=r"8 of the queries .* 'bela-0'"):
        score(golds, said, TASK, alone)
    both = [row(user, id=key) for key in GOLD for user in ("ada", "bela")]
    write_lines(tmp_path / "alone.queries.jsonl", both)
    with pytest.raises(DataError, match=r"'ada-0' .* two users"):
        score(golds, said, TASK, alone)


def test_a_task_without_metrics_is_judged_by_what_suits_it(tmp_path: Path) -> None:
    task = Task(name="free", instruction="Write.", input="note: {text}", answer="said: {answer}")
    scored: Score = score(*files(tmp_path), task)
    assert list(scored.scores) == ["rouge1", "rougeL"]
