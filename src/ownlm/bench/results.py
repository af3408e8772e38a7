"""What a benchmark came to: scores with intervals, differences to the baseline, costs; kept as results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ownlm.bench.activity import Bucket, buckets
from ownlm.bench.metrics import Metric, metric, metrics_of
from ownlm.bench.statistics import Difference, Estimate, Resampling
from ownlm.durable import write_whole
from ownlm.errors import DataError, OwnlmError
from ownlm.filesystem import DOCUMENT_BYTES, read_regular
from ownlm.history.task import Task

FILE = "results.json"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a method took; None where it does not apply.

    Attributes:
        train_seconds, train_tokens, assemble_seconds: of all people of the set together.
        ms_per_answer: the mean of the queries.
        bytes_per_user: the mean of what is kept of a person.
    """

    train_seconds: float | None = None
    train_tokens: float | None = None
    assemble_seconds: float | None = None
    ms_per_answer: float | None = None
    bytes_per_user: float | None = None

    @staticmethod
    def mean(costs: "Sequence[Costs]") -> "Costs":
        """The mean of several seeds; of those to which a cost applies.

        >>> Costs.mean([Costs(train_seconds=1), Costs(train_seconds=2)]).train_seconds
        1.5
        """
        known = {one.name: [x for each in costs if (x := getattr(each, one.name)) is not None] for one in fields(Costs)}
        return Costs(**{name: float(np.mean(values)) for name, values in known.items() if values})


@dataclass(frozen=True, slots=True)
class MethodResult:
    """How a method does on a set; `differences` are to the baseline, and the baseline's own are empty."""

    name: str
    method: str
    settings: dict[str, Any]
    scores: dict[str, Estimate]  # by metric
    differences: dict[str, Difference]
    buckets: tuple[Bucket, ...] = ()
    costs: Costs = Costs()


@dataclass(frozen=True, slots=True)
class SharedCost:
    """What is done once for all people of a set, whichever methods need it; under the first seed."""

    name: str
    seconds: float | None
    tokens: float | None
    people: int  # whose records it learns from


@dataclass(frozen=True, slots=True)
class SetResult:
    """How all methods do on one set, in the plan's order. Users, outsiders and sharers are numbers of people.

    Attributes:
        left_out: names of methods that do not apply to the task.
        unlabelled: how many queries are left out because their right answer is not known.
        shared: costs that are in no method's.
        warnings: what the reader should know before trusting the figures, a sentence each.
        people: what became of the people in the data, by what it is; the numbers add up to all of them.
        outsiders_found: the same of the people in the file of outsiders.
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
    people: dict[str, int] = field(default_factory=dict)
    outsiders_found: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Results:
    """What a plan came to, with what it was measured on.

    Attributes:
        size: of the plan; None where it names none.
        date: ISO 8601.
        hardware: a line for people.
        versions: by package.
        baseline: the name of the method that the others are compared to.
        earlier: other versions of the code, or machines, that have run in the same folder: some of it may be theirs.
        to_come: names of the sets that are still to be measured: the run goes on, or was stopped.
        resolved: the plan with all that its size says.
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
    resolved: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """A method's answers to all queries of a set, and what they took: one entry a seed in both."""

    name: str
    method: str
    settings: Mapping[str, Any]
    outputs: Sequence[Sequence[str]]
    costs: Sequence[Costs]


def measure(
    name: str,
    task: Task,
    users: Sequence[str],
    golds: Sequence[str],
    records: Mapping[str, int],
    answered: Sequence[Answered],
    baseline: str,
    *,
    outsiders: int = 0,
    sharers: int = 0,
    left_out: Sequence[str] = (),
    unlabelled: int = 0,
    shared: Sequence[SharedCost] = (),
) -> SetResult:
    """Scores all methods of a set, over all people and by how active they are.

    Args:
        name: of the set.
        users, golds: one each for a query.
        records: how many records each person has.
        baseline: a method's name; where it is not among these, there are no differences.
        outsiders, sharers: how many of them there were.
        left_out, unlabelled, shared: as `SetResult` has them.

    Raises:
        ConfigError, DataError: the task's metrics do not go with its labels, or right answers; or there are
            no queries.
    """
    metrics = tuple(metric(one) for one in metrics_of(task))
    terms = {
        (one.name, how.name): [how.terms(outputs, golds, task.labels or ()) for outputs in one.outputs]
        for one in answered
        for how in metrics
    }
    everybody = Resampling.of(users)
    names = [one.name for one in answered]
    differences: dict[str, dict[str, Difference]] = {
        one: {how.name: everybody.difference(how, terms[one, how.name], terms[baseline, how.name]) for how in metrics}
        for one in names
        if one != baseline and baseline in names
    }
    parts = _buckets(users, records, names, metrics, terms)
    methods = (
        MethodResult(
            one.name,
            one.method,
            dict(one.settings),
            {how.name: everybody.estimate(how, terms[one.name, how.name]) for how in metrics},
            differences.get(one.name, {}),
            parts[one.name],
            Costs.mean(one.costs),
        )
        for one in answered
    )
    return SetResult(
        name, task.name, len(set(users)), len(users), outsiders, sharers, tuple(how.name for how in metrics),
        tuple(methods), tuple(left_out), unlabelled, tuple(shared),
    )  # fmt: skip


def _buckets(
    users: Sequence[str],
    records: Mapping[str, int],
    names: Sequence[str],
    metrics: Sequence[Metric],
    terms: Mapping[tuple[str, str], Sequence[NDArray[Any]]],
) -> dict[str, tuple[Bucket, ...]]:
    """By method: the buckets that hold anybody, the least active first."""
    made: dict[str, list[Bucket]] = {name: [] for name in names}
    for label, rows in buckets([records[user] for user in users]).items():
        theirs = [users[row] for row in rows]
        people = Resampling.of(theirs)
        for name in names:
            scores = {
                how.name: people.estimate(how, [term_QS[rows] for term_QS in terms[name, how.name]]) for how in metrics
            }
            made[name].append(Bucket(label, len(set(theirs)), len(theirs), scores))
    return {name: tuple(parts) for name, parts in made.items()}


def as_json(results: Results) -> str:
    """The content of results.json: the same text for the same results."""
    return json.dumps(asdict(results), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def write_results(results: Results, folder: Path) -> Path:
    """Keeps results as FOLDER/results.json; what was there is replaced.

    Raises:
        DataError: it cannot be written.
    """
    path = folder / FILE
    try:
        write_whole(path, as_json(results).encode())
    except OSError as error:
        raise DataError(f"The results cannot be written to {path}", got=error.strerror or error) from None
    return path


def read_results(folder: Path) -> Results:
    """Reads what `write_results` wrote.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path, again = folder / FILE, "run the plan again: what it has done already is kept"
    try:
        data = read_regular(path, DOCUMENT_BYTES)
    except FileNotFoundError:
        raise DataError(f"There are no results in {folder}", expected=f"a file {FILE}", hint=again) from None
    except OSError as error:
        raise DataError(f"The results {path} cannot be read", got=error.strerror or error) from None
    try:
        results = TypeAdapter(Results).validate_json(data, strict=True)
        _check(results)
        if not _is_part_of(json.loads(data), json.loads(as_json(results))):
            raise ValueError("something that does not belong there")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        got = f"at {place!r}: {first['msg']}" if place else first["msg"]
        raise DataError(f"The results {path} are damaged", got=got, hint=again) from None
    except (ValueError, RecursionError) as error:
        got = error.what if isinstance(error, OwnlmError) else str(error)
        raise DataError(f"The results {path} are damaged", got=got, hint=again) from None
    return results


def _is_part_of(given: Any, whole: Any) -> bool:
    """Whether a document says nothing that the other does not; results of earlier versions lack what is newer."""
    if isinstance(given, dict) and isinstance(whole, dict):
        return all(name in whole and _is_part_of(value, whole[name]) for name, value in given.items())
    if isinstance(given, list) and isinstance(whole, list):
        return len(given) == len(whole) and all(map(_is_part_of, given, whole))
    return bool(given == whole)


def _check(results: Results) -> None:
    """Whether all that tables look up is there."""
    for one in results.sets:
        for name in one.metrics:
            metric(name)
        wanted = set(one.metrics)
        labels = [bucket.label for bucket in one.methods[0].buckets] if one.methods else []
        for method in one.methods:
            known = [method.scores, *(bucket.scores for bucket in method.buckets)]
            if any(set(scores) != wanted for scores in known) or set(method.differences) not in (wanted, set()):
                raise ValueError(f"the scores of {method.name!r} on {one.name!r} are not of its metrics")
            if [bucket.label for bucket in method.buckets] != labels:
                raise ValueError(f"{method.name!r} has other buckets than the other methods on {one.name!r}")
