"""Answers without a model, against plain loops."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.bench.case import Case
from ownlm.bench.methods import METHODS
from ownlm.errors import ConfigError, DataError
from ownlm.history.record import History, Query, Record
from ownlm.history.task import load_task
from ownlm.prompt.example import retrieval_document
from ownlm.prompt.retrieval import retrieve
from tests.bench.methods.cases import ask, with_task
from tests.community import FOLDERS

RECORDS = st.lists(st.tuples(st.sampled_from(["rain", "sun", "bus", "rain bus"]), st.sampled_from(FOLDERS)), min_size=1)


def of(case: Case, records: list[tuple[str, str]]) -> Case:
    """Kara has these records."""
    history = History(
        "kara", tuple(Record("kara", str(n), {"text": t, "folder": f}) for n, (t, f) in enumerate(records))
    )
    return replace(case, data=replace(case.data, targets={"kara": history}))


def most_frequent_of(labels: list[str]) -> str:
    best = max(labels.count(label) for label in labels)
    return next(label for label in reversed(labels) if labels.count(label) == best)


@given(records=RECORDS)
def test_the_most_frequent_label_and_of_equals_the_latest(case: Case, records: list[tuple[str, str]]) -> None:
    asked = [Query("kara", "q", {"text": "rain"})]
    assert ask(of(case, records), "most_frequent", asked) == [most_frequent_of([folder for _, folder in records])]


@given(records=RECORDS, k=st.integers(1, 5), text=st.sampled_from(["rain", "bus", "snow"]))
def test_the_nearest_records_vote(case: Case, records: list[tuple[str, str]], k: int, text: str) -> None:
    own = of(case, records)
    documents = [retrieval_document(case.task, record) for record in own.histories["kara"].records]
    near = [records[place][1] for place in retrieve(text, documents, k)]
    best = max(near.count(label) for label in near)
    expected = next(label for label in near if near.count(label) == best)
    assert ask(own, "knn", [Query("kara", "q", {"text": text})], k=k) == [expected]


def test_records_without_an_answer_do_not_count(case: Case) -> None:
    own = of(case, [("rain", "work"), ("rain", "attic"), ("rain rain", " "), ("rain", "attic")])
    asked = [Query("kara", "q", {"text": "rain"})]
    assert ask(own, "most_frequent", asked) == ask(own, "knn", asked) == ["work"]
    with pytest.raises(DataError, match="'kara' has no record with an answer"):
        ask(of(case, [("rain", "attic")]), "knn", asked)


def test_text_of_the_nearest_record_is_its_answer(case: Case) -> None:
    free = with_task(of(case, [("rain", "under the bed"), ("sun", "attic")]), labels=None, instruction="Say where.")
    assert ask(free, "knn", [Query("kara", "q", {"text": "rain"})]) == ["under the bed"]


def test_tasks_without_labels_are_refused(case: Case) -> None:
    free = with_task(case, labels=None, instruction="Say where.")
    with pytest.raises(ConfigError, match="no labels that could be counted"):
        METHODS["most_frequent"].make(free)
    with pytest.raises(ConfigError, match="no labels to vote for"):
        METHODS["knn"].make(free, k=2)
    choice = replace(case, data=replace(case.data, task=load_task("LaMP_1")))
    for method in ("most_frequent", "knn"):
        with pytest.raises(ConfigError):
            METHODS[method].make(choice)
