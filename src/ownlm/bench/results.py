"""Results of a benchmark: scores with intervals, differences to the baseline, costs; kept as results.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ownlm.bench.metrics import metric, metrics_of
from ownlm.bench.statistics import Difference, Estimate, Resampling
from ownlm.durable import write_whole
from ownlm.errors import DataError, OwnlmError
from ownlm.filesystem import DOCUMENT_BYTES, read_regular
from ownlm.history.task import Task

FILE: Final = "results.json"
BUCKETS: Final = (0, 20, 50, 100, 200)  # most records of each bucket of users but the last


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Costs(_Model):
    """Costs of a method on a set. None where a cost does not apply.

    Attributes:
        train_seconds: Seconds of training, summed over the users.
        train_tokens: Tokens of training, summed over the users.
        assemble_seconds: Seconds of assembly, summed over the users.
        ms_per_answer: Milliseconds of an answer, the mean over the queries.
        bytes_per_user: Bytes kept for a user, the mean over the users.
    """

    train_seconds: float | None = None
    train_tokens: float | None = None
    assemble_seconds: float | None = None
    ms_per_answer: float | None = None
    bytes_per_user: float | None = None

    @staticmethod
    def mean(costs: "Sequence[Costs]") -> "Costs":
        """Averages each cost over the seeds that have it.

        >>> Costs.mean([Costs(train_seconds=1), Costs(train_seconds=2)]).train_seconds
        1.5
        """
        known = {name: [x for one in costs if (x := getattr(one, name)) is not None] for name in Costs.model_fields}
        return Costs(**{name: fmean(values) for name, values in known.items() if values})


class Bucket(_Model):
    """Scores of the users whose number of records lies in one range.

    Attributes:
        label: Range of records, such as "1-20 records".
        scores: Score of each metric.
    """

    label: str
    users: int
    queries: int
    scores: dict[str, Estimate]


class MethodResult(_Model):
    """Scores and costs of a method on a set.

    Attributes:
        scores: Score of each metric.
        differences: Difference to the baseline in each metric; empty for the baseline itself.
    """

    name: str
    method: str
    settings: dict[str, Any]
    scores: dict[str, Estimate]
    differences: dict[str, Difference]
    buckets: tuple[Bucket, ...] = ()
    costs: Costs = Costs()


class SharedCost(_Model):
    """Cost of a stage that runs once for all users of a set, under the first seed.

    Attributes:
        people: Number of users that the stage learns from.
    """

    name: str
    seconds: float | None
    tokens: float | None
    people: int


class SetResult(_Model):
    """Results of all methods on one set, in the plan's order.

    Attributes:
        users: Number of users who are asked.
        outsiders: Number of users for stage 1.
        sharers: Number of users who may share adapters.
        left_out: Names of methods that do not apply to the task.
        unlabelled: Number of queries without a known answer, which are not asked.
        shared: Costs that are in no method's row.
        warnings: Sentences about answers and training that look wrong.
        people: Number of users of the data in each role; the numbers add up to all users.
        outsiders_found: Number of users of the outsiders' file in each role.
    """

    name: str
    task: str
    users: int
    queries: int
    outsiders: int
    sharers: int
    metrics: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    left_out: tuple[str, ...] = ()
    unlabelled: int = 0
    shared: tuple[SharedCost, ...] = ()
    warnings: tuple[str, ...] = ()
    people: dict[str, int] = Field(default_factory=dict)
    outsiders_found: dict[str, int] = Field(default_factory=dict)


class Results(_Model):
    """Results of a plan, with the machine and the versions that produced them.

    Attributes:
        size: Size of the plan; None for a plan without sizes.
        date: Day of the run, in ISO 8601.
        versions: Version of each package.
        baseline: Name of the method that the others are compared to.
        earlier: Other versions of the code, or machines, that ran in the same folder before.
        to_come: Names of sets that are not measured yet.
        resolved: The plan, with the settings of its size.
    """

    plan: str
    size: str | None
    date: str
    hardware: str
    versions: dict[str, str]
    commit: str | None
    seeds: tuple[int, ...]
    baseline: str
    sets: tuple[SetResult, ...]
    earlier: tuple[str, ...] = ()
    to_come: tuple[str, ...] = ()
    resolved: dict[str, Any] = Field(default_factory=dict)


class Answered(_Model):
    """A method's answers to all queries of a set, and their costs: one entry per seed in both."""

    name: str
    method: str
    settings: dict[str, Any]
    outputs: tuple[tuple[str, ...], ...]
    costs: tuple[Costs, ...]


def measure(
    task: Task, users: Sequence[str], golds: Sequence[str], records: Mapping[str, int], answered: Sequence[Answered],
    baseline: str,
) -> tuple[MethodResult, ...]:  # fmt: skip
    """Scores methods on a set, over all users and by the users' number of records.

    Args:
        users: User of each query.
        golds: Right answer of each query.
        records: Number of records of each user.
        answered: Answers of each method.
        baseline: Name of the baseline. Without it among `answered`, there are no differences.

    Raises:
        ConfigError, DataError: The task's metrics do not fit its labels or the right answers, or there are no queries.
    """
    metrics = [metric(one) for one in metrics_of(task)]
    terms = {
        one.name: {how: [how.terms(outputs, golds, task.labels or ()) for outputs in one.outputs] for how in metrics}
        for one in answered
    }
    resampled, parts = Resampling.of(users), buckets([records[user] for user in users])
    compared = {name: of for name, of in terms.items() if name != baseline} if baseline in terms else {}
    differences = {
        name: {how.name: resampled.difference(how, of[how], terms[baseline][how]) for how in metrics}
        for name, of in compared.items()
    }
    by_bucket = {name: list[Bucket]() for name in terms}
    for label, rows in parts.items():
        users_Q = [users[row] for row in rows]
        resampling = Resampling.of(users_Q)
        for name, of in terms.items():
            scores = {how.name: resampling.estimate(how, [term_QS[rows] for term_QS in of[how]]) for how in metrics}
            by_bucket[name].append(Bucket(label=label, users=len(set(users_Q)), queries=len(rows), scores=scores))
    return tuple(
        MethodResult(
            name=one.name, method=one.method, settings=one.settings,
            scores={how.name: resampled.estimate(how, terms[one.name][how]) for how in metrics},
            differences=differences.get(one.name, {}), buckets=tuple(by_bucket[one.name]), costs=Costs.mean(one.costs),
        )
        for one in answered
    )  # fmt: skip


def bucket_of(records: int) -> str:
    """Returns the bucket label for a number of records.

    >>> bucket_of(0), bucket_of(20), bucket_of(21), bucket_of(201)
    ('0 records', '1-20 records', '21-50 records', '201+ records')
    """
    least = 0
    for most in BUCKETS:
        if records <= most:
            return f"{least}-{most} records" if most > least else f"{most} records"
        least = most + 1
    return f"{least}+ records"


def buckets(records_Q: Sequence[int]) -> dict[str, list[int]]:
    """Groups query indices by the bucket of their user's number of records, fewest records first.

    Args:
        records_Q: Number of records of each query's user.
    """
    parts: dict[str, list[int]] = {}
    for place in sorted(range(len(records_Q)), key=records_Q.__getitem__):
        parts.setdefault(bucket_of(records_Q[place]), []).append(place)
    return {label: sorted(places) for label, places in parts.items()}


def as_json(results: Results) -> str:
    """Serialises results as the text of results.json, deterministically."""
    return json.dumps(results.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_results(results: Results, folder: Path) -> Path:
    """Writes FOLDER/results.json, and replaces what was there.

    Raises:
        DataError: The file cannot be written.
    """
    path = folder / FILE
    try:
        write_whole(path, as_json(results).encode())
    except OSError as error:
        raise DataError(f"The results cannot be written to {path}", got=error.strerror or error) from None
    return path


def read_results(folder: Path) -> Results:
    """Reads FOLDER/results.json.

    Raises:
        DataError: The file is missing or damaged.
    """
    path, again = folder / FILE, "run the plan again: what it has done already is kept"
    try:
        data = read_regular(path, DOCUMENT_BYTES)
    except FileNotFoundError:
        raise DataError(f"There are no results in {folder}", expected=f"a file {FILE}", hint=again) from None
    except OSError as error:
        raise DataError(f"The results {path} cannot be read", got=error.strerror or error) from None
    try:
        results = Results.model_validate_json(data)
        _check(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        got = f"at {place!r}: {first['msg']}" if place else first["msg"]
        raise DataError(f"The results {path} are damaged", got=got, hint=again) from None
    except (ValueError, RecursionError, OwnlmError) as error:
        got = error.what if isinstance(error, OwnlmError) else str(error)
        raise DataError(f"The results {path} are damaged", got=got, hint=again) from None
    return results


def _check(results: Results) -> None:
    """Raises a ValueError where a score that tables look up is missing."""
    for one in results.sets:
        wanted = {metric(name).name for name in one.metrics}
        labels = [bucket.label for bucket in one.methods[0].buckets] if one.methods else []
        for method in one.methods:
            known = [method.scores, *(bucket.scores for bucket in method.buckets)]
            if any(set(scores) != wanted for scores in known) or set(method.differences) not in (wanted, set()):
                raise ValueError(f"the scores of {method.name!r} on {one.name!r} are not of its metrics")
            if [bucket.label for bucket in method.buckets] != labels:
                raise ValueError(f"{method.name!r} has other buckets than the other methods on {one.name!r}")
