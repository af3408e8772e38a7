"""Checks of answers against their task's labels."""

import re
import unicodedata
from collections.abc import Sequence

from ownlm.errors import DataError, many, nearest
from ownlm.history.record import History, Query
from ownlm.history.task import Task

_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?", re.ASCII)
LISTED = 30  # most labels listed in an error


def nearest_label(labels: Sequence[str], answer: str) -> str | None:
    """The label nearest to an answer; None where none is near.

    >>> [nearest_label(["sports", "healthy living"], answer) for answer in ("Sports.", " sport", "healty living", "x")]
    ['sports', 'sports', 'healthy living', None]
    >>> nearest_label(["1", "2", "4", "40"], "4.0"), nearest_label(["1", "40"], "4.0"), nearest_label(["4"], "-4")
    ('4', None, None)
    """
    plain = unicodedata.normalize("NFKC", answer).strip()
    if _NUMBER.fullmatch(plain):  # numbers are compared by value: 4.0 is 4 and never 40
        same = (label for label in labels if _NUMBER.fullmatch(label.strip()) and float(label) == float(plain))
        if (number := next(same, None)) is not None or not plain.isdigit():
            return number
    return nearest(plain, labels)


def check_answer(labels: Sequence[str] | None, field: str, answer: str | None) -> None:
    """Raises a DataError if the task has labels and an answer is not one of them. The error does not repeat the answer.

    Args:
        labels: the task's labels; None for free text.
        field: name of the field with the answer.
        answer: the answer; None, for an unknown one, is accepted.
    """
    if answer is None or not labels or answer in labels:
        return
    near = nearest_label(labels, answer)
    meant = "" if near is None else f"; did you mean {near!r}?"
    raise DataError(f"the value of {field!r} is not a label of the task{meant}", expected=listed_labels(labels))


def check_history(task: Task, history: History) -> None:
    """Raises a DataError if answers in a history are not labels of the task, with their number and the first one."""
    if not task.labels or task.options is not None:  # records with options hold both options and no label
        return
    answers = ((record, record.fields.get(task.answer_field)) for record in history.records)
    wrong = [(record.id, answer) for record, answer in answers if answer is not None and answer not in task.labels]
    if not wrong:
        return
    record_id, answer = wrong[0]
    near = nearest_label(task.labels, answer)
    more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    count = many(len(wrong), "record")
    raise DataError(
        f"{count} of user {history.user_id!r} in task {task.name!r} "
        f"{'has' if len(wrong) == 1 else 'have'} an answer that is not one of the task's labels",
        got=f"record {record_id!r}{'' if near is None else f' (nearest label: {near!r})'}{more}",
        expected=listed_labels(task.labels),
        hint="remove it, add its label to the task file, or give each a label",
        command=f"ownlm history edit --task {task.name} --set {task.answer_field}=LABEL USER ID",
    )


def check_gold(task: Task, query: Query) -> None:
    """Raises a DataError if the right answer of a query is not one of the task's labels."""
    try:
        check_answer(task.labels, "gold", query.gold)
    except DataError as error:
        what = f"The query {query.id!r} of user {query.user_id!r} cannot be learnt from: {error.what}"
        raise DataError(what, expected=error.expected, hint="correct its right answer in the file") from None


def listed_labels(labels: Sequence[str]) -> str:
    """The labels in words, at most LISTED of them."""
    more = f", and {len(labels) - LISTED:,} more" if len(labels) > LISTED else ""
    return f"one of: {', '.join(labels[:LISTED])}{more}"
