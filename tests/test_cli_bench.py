"""`ownlm bench`, as it is typed."""

from pathlib import Path

import pytest

from ownlm.bench.predictions import read_lamp, write_lamp
from tests.community import rows, write_rows, write_task
from tests.shell import QuickShell, Shell

GOLDS = {f"{user}-q{n}": ("home", "work", "bin")[n] for user in ("ada", "bela") for n in range(3)}


@pytest.fixture
def quick(tmp_path: Path) -> QuickShell:
    """A folder with a task, two people's records and queries, right answers, and predictions that are half right."""
    write_task(tmp_path)
    write_rows(tmp_path / "people.jsonl", rows("ada", 7), rows("bela", 40))
    queries = [{"user_id": key.split("-")[0], "id": key, "text": "thing", "gold": gold} for key, gold in GOLDS.items()]
    write_rows(tmp_path / "people.queries.jsonl", queries)
    write_lamp(tmp_path / "golds.json", "sorting", GOLDS)
    write_lamp(tmp_path / "said.json", "sorting", {**dict.fromkeys(GOLDS, "home "), "ada-q1": "work"})
    return QuickShell(tmp_path)


SCORE = ("bench", "score", "golds.json", "said.json", "--task", "sorting.toml")


def test_a_score_in_json(quick: QuickShell) -> None:
    scored = quick.json(*SCORE, "--data", "people.jsonl")
    assert (scored["task"], scored["queries"], scored["users"], scored["by"]) == ("sorting", 6, 2, "user")
    assert list(scored["scores"]) == ["accuracy"] and list(scored["scores"]["accuracy"]) == ["value", "low", "high"]
    assert scored["scores"]["accuracy"]["value"] == 0.5
    few, more = scored["buckets"]
    assert sorted(few) == ["label", "queries", "scores", "users"]
    assert (few["label"], more["label"]) == ("1-20 records", "21-50 records")
    assert few["scores"]["accuracy"]["value"] == pytest.approx(2 / 3)
    alone = quick.json(*SCORE)
    assert (alone["users"], alone["by"], alone["buckets"]) == (None, "query", [])


def test_a_score_in_words(quick: QuickShell) -> None:
    told = quick.run(*SCORE, "--data", "people.jsonl")
    assert "sorting: 6 answers of 2 users" in told and "0.500" in told and "higher" in told
    assert "0.500 [" not in told and "fewer than 5 users" in told and "none of the task's labels" not in told
    assert "21-50 records" in told and "--data" not in told
    told = quick.run(*SCORE)
    assert "0.500 [0." in told and "fewer than" not in told  # of six queries
    assert " user" not in told and "--data" in told and "records" not in told


def test_answers_that_are_no_label_are_told(quick: QuickShell) -> None:
    said = read_lamp(quick.folder / "said.json").outputs
    write_lamp(quick.folder / "said.json", "sorting", {**said, next(iter(said)): "I think it is home"})
    assert "1 of 6 answers are none of the task's labels" in quick.run(*SCORE)


def test_clear_errors_and_wrong_usage(quick: QuickShell) -> None:
    write_lamp(quick.folder / "said.json", "sorting", {"ada-q0": "home"})
    assert "5 of the queries" in quick.run(*SCORE, code=1)
    assert quick.json(*SCORE, code=1)["error"]["error"] == "DataError"
    quick.run("bench", "score", "golds.json", "--task", "sorting.toml", code=2)
    quick.run("bench", "score", "golds.json", "said.json", code=2)


def test_as_a_process_of_its_own(quick: QuickShell) -> None:
    assert Shell(quick.folder).json(*SCORE)["queries"] == 6
