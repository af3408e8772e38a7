"""No model at all: a person's own answers, given again."""

from collections import Counter
from collections.abc import Iterator, Sequence

from ownlm.bench.case import Case, Made
from ownlm.bench.methods.values import Count
from ownlm.bench.results import Costs
from ownlm.errors import ConfigError, DataError
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.prompt.example import query_prompt


def most_frequent(case: Case) -> Made:
    """The label that the person chose most often; of those chosen equally often, the one chosen last.

    Raises:
        ConfigError: the task has no labels that records hold. DataError: somebody has no record with a label.

    Source: ours.
    """
    check_most_frequent(case.task)
    label = {user: _favourite(case.task, _labelled(case, user)) for user in case.people}
    return Made(lambda queries: (label[query.user_id] for query in queries), Costs())


def knn(case: Case, *, k: Count = 1) -> Made:
    """The answer of the person's nearest record; or the label that most of the k nearest have.

    Nearest by BM25, as retrieval for prompts finds them. Of labels that equally many have, the nearest one's is taken.

    Raises:
        ConfigError: answers of records are none of a query; or the task has no labels, and k is above 1. DataError: as
            above.

    Source: ours.
    """
    check_knn(case.task, k)
    known = {user: _labelled(case, user) for user in case.people}

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        for query in queries:
            history = known[query.user_id]
            said = {record.id: record.fields[case.task.answer_field].strip() for record in history.records}
            near = [said[record] for record in query_prompt(case.task, query.fields, history, rag=k)[1]]
            votes = Counter(near)
            yield max(votes, key=votes.__getitem__)  # of equals the first that was counted: the nearest

    return Made(answers, Costs())


def check_most_frequent(task: Task) -> None:
    """Raises a ConfigError where the task has no labels to count."""
    if not task.labels or task.options:
        raise ConfigError(
            f"Task {task.name!r} has no labels that could be counted", hint="leave `most_frequent` out of its plan"
        )


def check_knn(task: Task, k: int = 1) -> None:
    """Raises a ConfigError where records have no answers that a query could have, or nothing to vote with."""
    if task.options:
        raise ConfigError(
            f"Records of task {task.name!r} have no answer that another query could have",
            hint="leave `knn` out of its plan",
        )
    if k > 1 and not task.labels:
        raise ConfigError(f"Task {task.name!r} has no labels to vote for", got=f"k = {k}", expected="k = 1")


def _labelled(case: Case, user: str) -> History:
    """A person's records that have an answer; one of the labels, where there are any."""
    task = case.task
    given = [(record, record.fields.get(task.answer_field, "").strip()) for record in case.histories[user].records]
    records = tuple(record for record, said in given if (said in task.labels if task.labels else said))
    if not records:
        raise DataError(f"User {user!r} has no record with an answer", expected="at least one for each person asked")
    return History(user, tuple(records))


def _favourite(task: Task, history: History) -> str:
    latest_first = Counter(record.fields[task.answer_field].strip() for record in reversed(history.records))
    return max(latest_first, key=latest_first.__getitem__)
