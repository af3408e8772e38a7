"""Scoring a file of predictions against a label file."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ownlm.bench.activity import Bucket, buckets
from ownlm.bench.metrics import Array, Metric, metric, metrics_of, unreadable
from ownlm.bench.predictions import official_name, read_lamp
from ownlm.bench.statistics import Estimate, Resampling
from ownlm.errors import DataError
from ownlm.history.lamp import read_golds
from ownlm.history.readers import MEND, read_dataset, read_queries
from ownlm.history.task import Task, with_instruction


@dataclass(frozen=True, slots=True)
class Score:
    """What a file of predictions is worth.

    Attributes:
        task: its name.
        users: whose queries they are; None where nobody knows.
        unreadable: how many predictions are none of the task's labels; where these are numbers, none at all.
        by: what was resampled for the intervals: whole users, or queries one by one.
        scores: by metric, in the task's order.
        buckets: the same by how many records people have, the least active first; empty where nobody knows.
    """

    task: str
    queries: int
    users: int | None
    unreadable: int
    by: Literal["user", "query"]
    scores: dict[str, Estimate]
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class _People:
    """Whose each query is, how many records they have, and the labels that the data carry."""

    user: Mapping[str, str]
    records: Mapping[str, int]
    labels: tuple[str, ...] | None


def score(golds: Path, predictions: Path, task: Task, data: Path | None = None) -> Score:
    """Scores a file in LaMP's output format.

    Args:
        golds: the label file.
        predictions: an answer to each of its queries, and no other.
        task: whose metrics and labels; labels that `data` carry stand in their place.
        data: whose the queries are, and their histories: LaMP's questions, the user/profile/query JSON, or plain rows
            of histories beside whose NAME.jsonl lies NAME.queries.jsonl. Without them each query counts by itself in
            the intervals, and there are no buckets.

    Raises:
        DataError: a file is bad, or the files do not go together.
        ConfigError: the task's metrics do not go with its labels.

    Source: ours; the metrics are LaMP's.
    """
    gold, said = read_golds(golds), read_lamp(predictions)
    _check_task(golds, predictions, read_lamp(golds).task, said.task)
    _check_ids(golds, predictions, gold, said.outputs)
    people = _people(data, task, golds, gold) if data else None
    if people is not None:
        task = with_instruction(task, None, people.labels)
    users_Q = [people.user[key] for key in gold] if people else list(gold)
    term_of = {
        one: one.terms([said.outputs[key] for key in gold], list(gold.values()), task.labels or ())
        for one in map(metric, metrics_of(task))
    }
    everything = Resampling.of(users_Q)
    return Score(
        task.name,
        len(gold),
        None if people is None else len(set(users_Q)),
        unreadable(list(said.outputs.values()), task.labels or ()),
        everything.by if people else "query",
        _estimates(everything, term_of),
        () if people is None else _by_activity(users_Q, people.records, term_of),
    )


def _estimates(resampling: Resampling, term_of: Mapping[Metric, Array]) -> dict[str, Estimate]:
    return {one.name: resampling.estimate(one, [term_QS]) for one, term_QS in term_of.items()}


def _by_activity(users_Q: list[str], records: Mapping[str, int], term_of: Mapping[Metric, Array]) -> tuple[Bucket, ...]:
    parts = []
    for label, places in buckets([records.get(user, 0) for user in users_Q]).items():
        users = [users_Q[place] for place in places]
        estimates = _estimates(Resampling.of(users), {one: term_QS[places] for one, term_QS in term_of.items()})
        parts.append(Bucket(label, len(set(users)), len(users), estimates))
    return tuple(parts)


def _people(data: Path, task: Task, golds: Path, ids: Collection[str]) -> _People:
    dataset = read_dataset(data, task, hint=MEND)
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
    _check_none((key for key in ids if key not in user), f"{{}} of the queries in {golds} are not in {source}")
    return _People(user, {one.user_id: len(one) for one in dataset.histories}, dataset.labels)


def _check_task(golds: Path, predictions: Path, asked: str | None, answered: str | None) -> None:
    if not asked or not answered or asked == answered:
        return
    if asked != official_name(answered) and official_name(asked) != answered:  # LaMP's files say LaMP_2 for two tasks
        raise DataError(
            f"The predictions in {predictions} are of another task than the labels in {golds}",
            got=answered,
            expected=asked,
        )


def _check_ids(golds: Path, predictions: Path, gold: Collection[str], said: Collection[str]) -> None:
    if not gold:
        raise DataError(f"The label file {golds} has no answers")
    _check_none((key for key in gold if key not in said), f"{{}} of the queries in {golds} have no prediction")
    _check_none((key for key in said if key not in gold), f"{{}} of the predictions in {predictions} have no label")


def _check_none(ids: Iterable[str], what: str) -> None:
    if odd := list(ids):
        raise DataError(
            what.format(f"{len(odd):,}"),
            got=f"first {odd[0]!r}",
            expected="one prediction for each query of the label file, and no other",
        )
