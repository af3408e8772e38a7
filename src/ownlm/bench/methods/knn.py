"""Method `knn`: answers of the user's nearest records (BM25), without a model."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ownlm.bench.case import Case
from ownlm.bench.methods.method import Count, Made, Method
from ownlm.bench.results import Costs
from ownlm.errors import ConfigError
from ownlm.history.record import Query
from ownlm.history.task import Task
from ownlm.prompt.example import query_prompt


def knn(case: Case, *, k: Count = 1) -> Made:
    """Answers with the nearest record's answer; for k > 1, with the majority label of the k nearest records.

    Nearest is by BM25, as in retrieval for prompts. Of labels that are equally frequent, the nearest record's is taken.

    Raises:
        ConfigError: Answers of records are no answers to a query, or the task has no labels and k is above 1.
        DataError: A user has no record with an answer.

    Source: ours.
    """
    check({"k": k}, case.task)
    known = {user: case.labelled(user) for user in case.users}

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        for query in queries:
            history = known[query.user_id]
            said = {record.id: record.fields[case.task.answer_field].strip() for record in history.records}
            votes = Counter(said[near] for near in query_prompt(case.task, query.fields, history, rag=k)[1])
            yield max(votes, key=votes.__getitem__)  # of equals the first that was counted: the nearest

    return Made(answers, Costs())


def check(given: Mapping[str, Any], task: Task | None) -> None:
    """Raises a ConfigError if the task shows options in its queries, or if k > 1 and the task has no labels."""
    if task is not None and task.options:
        what, hint = "hold no answers that `knn` could give to a query", "leave `knn` out of the plan"
        raise ConfigError(f"Records of task {task.name!r} {what}", hint=hint)
    if task is not None and given.get("k", 1) > 1 and not task.labels:
        got = f"k = {given['k']}"
        raise ConfigError(f"Task {task.name!r} has no labels to vote for", got=got, expected="k = 1")


METHOD = Method("knn", knn, check, options=False, model=False, stage_1=False)
