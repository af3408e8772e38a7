"""Scores of a file of predictions against a label file."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ownlm.bench.metrics import Array, Metric, metric, metrics_of, unreadable
from ownlm.bench.predictions import official_name, read_lamp
from ownlm.bench.results import Bucket, buckets
from ownlm.bench.statistics import Estimate, Resampling
from ownlm.errors import DataError
from ownlm.history.lamp import read_golds
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import Task, with_instruction


class Score(BaseModel):
    """Scores of a file of predictions.

    Attributes:
        task: The task's name.
        users: Number of users; None without `data`.
        unreadable: Number of predictions that are no label; for labels that are numbers, that are no number.
        by: What the intervals resample: whole users, or single queries.
        scores: Score of each metric, in the task's order.
        buckets: Scores of users by their number of records; empty without `data`.
    """

    model_config = ConfigDict(frozen=True)

    task: str
    queries: int
    users: int | None
    unreadable: int
    by: Literal["user", "query"]
    scores: dict[str, Estimate]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class _Users:
    """User of each query, number of records of each user, and labels that the data carry."""

    user: Mapping[str, str]
    records: Mapping[str, int]
    labels: tuple[str, ...] | None


def score(golds: Path, predictions: Path, task: Task, data: Path | None = None) -> Score:
    """Scores a file in LaMP's output format.

    Args:
        golds: The label file.
        predictions: One answer for each query of the label file, and no other.
        task: Task with metrics and labels. Labels that `data` carry replace its own.
        data: Users of the queries, and their histories: LaMP's questions, the user/profile/query JSON, or plain rows
            of histories with NAME.queries.jsonl beside NAME.jsonl. Without it intervals resample single queries, and
            there are no buckets.

    Raises:
        DataError: A file is bad, or the files do not go together.
        ConfigError: The task's metrics do not go with its labels.

    Source: ours; the metrics are LaMP's.
    """
    gold, said = read_golds(golds), read_lamp(predictions)
    _check_task(golds, predictions, read_lamp(golds).task, said.task)
    if not gold:
        raise DataError(f"The label file {golds} has no answers")
    _check_none(gold, said.outputs, f"{{}} of the queries in {golds} have no prediction")
    _check_none(said.outputs, gold, f"{{}} of the predictions in {predictions} have no label")
    users = _users(data, task, golds, gold) if data else None
    if users is not None:
        task = with_instruction(task, None, users.labels)
    users_Q = [users.user[key] for key in gold] if users else list(gold)
    term_of = {
        one: one.terms([said.outputs[key] for key in gold], list(gold.values()), task.labels or ())
        for one in map(metric, metrics_of(task))
    }
    resampled, parts = Resampling.of(users_Q), list[Bucket]()
    if users is not None:
        for label, places in buckets([users.records.get(user, 0) for user in users_Q]).items():
            part_Q = [users_Q[place] for place in places]
            scores = _estimates(Resampling.of(part_Q), {one: term_QS[places] for one, term_QS in term_of.items()})
            parts.append(Bucket(label=label, users=len(set(part_Q)), queries=len(part_Q), scores=scores))
    return Score(
        task=task.name, queries=len(gold), users=None if users is None else len(set(users_Q)),
        unreadable=unreadable(list(said.outputs.values()), task.labels or ()),
        by=resampled.by if users else "query", scores=_estimates(resampled, term_of), buckets=tuple(parts),
    )  # fmt: skip


def _estimates(resampling: Resampling, term_of: Mapping[Metric, Array]) -> dict[str, Estimate]:
    return {one.name: resampling.estimate(one, [term_QS]) for one, term_QS in term_of.items()}


def _users(data: Path, task: Task, golds: Path, ids: Collection[str]) -> _Users:
    dataset = read_dataset(data, task, all_rows=True)
    queries, source = dataset.queries, data
    if not queries:
        source = data.parent / f"{data.stem}.queries.jsonl"
        if not source.is_file():
            raise DataError(
                f"The file {data} holds no queries, and there is no {source.name} beside it",
                expected="LaMP's questions, the user/profile/query JSON, or histories and queries as two files",
                hint="leave the data out: the intervals then take each query by itself",
            )
        queries = read_queries(source, task)
    user: dict[str, str] = {}
    for query in queries:
        if query.id in ids and user.setdefault(query.id, query.user_id) != query.user_id:
            raise DataError(f"The query id {query.id!r} in {source} belongs to two users", hint="give them ids apart")
    _check_none(ids, user, f"{{}} of the queries in {golds} are not in {source}")
    return _Users(user, {one.user_id: len(one) for one in dataset.histories}, dataset.labels)


def _check_task(golds: Path, predictions: Path, asked: str | None, answered: str | None) -> None:
    if not asked or not answered or asked == answered:
        return
    if asked != official_name(answered) and official_name(asked) != answered:  # LaMP's files say LaMP_2 for two tasks
        what = f"The predictions in {predictions} are of another task than the labels in {golds}"
        raise DataError(what, got=answered, expected=asked)


def _check_none(ids: Iterable[str], known: Collection[str], what: str) -> None:
    if odd := [key for key in ids if key not in known]:
        expected = "one prediction for each query of the label file, and no other"
        raise DataError(what.format(f"{len(odd):,}"), got=f"first {odd[0]!r}", expected=expected)
