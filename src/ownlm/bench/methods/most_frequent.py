"""The user's most frequent label, without a model."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ownlm.bench.case import Case
from ownlm.bench.methods.method import Made, Method
from ownlm.bench.results import Costs
from ownlm.errors import ConfigError
from ownlm.history.task import Task


def most_frequent(case: Case) -> Made:
    """Answers with the user's most frequent label; of equally frequent ones, the latest.

    Raises:
        ConfigError: The task has no labels that records hold. DataError: A user has no record with a label.

    Source: ours.
    """
    check({}, case.task)
    label = dict[str, str]()
    for user in case.users:
        records = reversed(case.labelled(user).records)
        counts = Counter(record.fields[case.task.answer_field].strip() for record in records)
        label[user] = max(counts, key=counts.__getitem__)
    return Made(lambda queries: (label[query.user_id] for query in queries), Costs())


def check(given: Mapping[str, Any], task: Task | None) -> None:
    """Raises a ConfigError where the task has no labels to count."""
    if task is not None and (not task.labels or task.options):
        hint = "leave `most_frequent` out of its plan"
        raise ConfigError(f"Task {task.name!r} has no labels that could be counted", hint=hint)


METHOD = Method("most_frequent", most_frequent, check, labels=True, options=False, model=False, stage_1=False)
