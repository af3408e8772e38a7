"""LaMP's own JSON: people with a `profile` of records and with queries, and the right answers in a file beside it.

Two shapes are read as they are: LaMP's `*_questions.json`, where each question is a person, with `*_outputs.json`; and
the shape of OPPU and Per-Pcs, where a person has several queries, with `*_label.json`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownlm.errors import DataError
from ownlm.history.files import read_document
from ownlm.history.record import Query, Record
from ownlm.history.row import Rows, as_object, time_of, to_record
from ownlm.history.task import Task, parse_query
from ownlm.history.values import as_id, as_text, column


@dataclass(frozen=True, slots=True)
class Person:
    """One person of such a file: raw records and queries, each with the place where it stands."""

    user: str
    profile: list[tuple[str, object]]
    queries: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, and the instruction and labels that they all carry, if they carry any."""

    queries: list[Query]
    instruction: str | None = None
    labels: tuple[str, ...] | None = None


def is_lamp(items: Iterable[object]) -> bool:
    """Whether these are people with profiles, rather than plain rows."""
    return any(isinstance(item, dict) and "profile" in item for item in items)


def read_people(path: Path, items: Iterable[object], rows: Rows) -> Iterator[Person]:
    """The people of a file; a person whose outline is wrong is a bad row."""
    for number, item in enumerate(items, 1):
        people = []
        with rows.row(f"{path}, item {number}"):
            people.append(_person(path, as_object(item)))
        yield from people


def _person(path: Path, item: Mapping[str, Any]) -> Person:
    if "query" in item:
        user, queries = column(item, "user_id", as_id), item["query"]
    else:  # LaMP: the question is the person
        user, queries = column(item, "id", as_id), [item]
    profile = item.get("profile")
    if not isinstance(profile, list) or not isinstance(queries, list):
        raise ValueError(f"user {user!r}: profile and query are not both lists")
    return Person(
        user,
        [(f"{path}, user {user!r}, profile item {number}", row) for number, row in enumerate(profile, 1)],
        [(f"{path}, user {user!r}, query {number}", row) for number, row in enumerate(queries, 1)],
    )


def lamp_records(path: Path, people: Iterable[Person], task: Task, rows: Rows) -> Iterator[tuple[str, Record]]:
    """The records in people's profiles, each with its place. A record may lack its answer; all of them may not.

    Raises:
        DataError: a row is bad, or no record has the task's answer.
    """
    read = labelled = 0
    for person in people:
        for place, row in person.profile:
            records = []
            with rows.row(place):
                records.append(to_record(row, task, unlabelled=True, user=person.user))
            for record in records:
                read, labelled = read + 1, labelled + (task.answer_field in record.fields)
                yield place, record
    if read and not labelled and task.options is None:  # for options LaMP itself has titles only
        raise DataError(
            f"No record in {path} has the field {task.answer_field!r}",
            expected=f"records of task {task.name!r}",
            hint="check that --task is the task of these data",
        )


def lamp_queries(path: Path, people: Iterable[Person], task: Task, labels: Path | None, rows: Rows) -> Asked:
    """The queries, with the right answers from `labels`, or from the file beside `path` where there is one.

    Raises:
        DataError: a query or label is bad, an id stands twice, or the queries do not carry one instruction.
    """
    beside = label_file(path)
    golds = read_golds(labels or beside) if labels or beside.is_file() else {}
    queries: dict[str, Query] = {}
    carried: dict[tuple[str | None, tuple[str, ...] | None], str] = {}
    for person in people:
        for place, row in person.queries:
            with rows.row(place):
                content = as_object(row)
                key, text = column(content, "id", as_id), column(content, "input", as_text)
                if key in queries:
                    raise ValueError(f"the query id {key!r} stands twice in the file")
                fields, instruction, listed = parse_query(task, text or "")
                queries[key] = Query(person.user, key, fields, golds.get(key), time_of(content))
                carried.setdefault((instruction, listed), key)
    if len(carried) > 1:
        one, other, *_ = carried.values()
        raise DataError(
            f"The queries {one!r} and {other!r} in {path} carry different instructions or labels",
            expected="one instruction a file",
            hint="split the file; or the pattern `query` of the task does not fit all of its queries",
        )
    if golds and queries and not golds.keys() & queries.keys():
        raise DataError(
            f"The label file {labels or beside} has no answer to any query in {path}",
            hint="name the right label file with --labels",
        )
    return Asked(list(queries.values()), *next(iter(carried), (None, None)))


def label_file(path: Path) -> Path:
    """Where the right answers lie by custom.

    >>> label_file(Path("dev_questions.json")).name, label_file(Path("user_others.json")).name
    ('dev_outputs.json', 'user_others_label.json')
    """
    if "questions" in path.stem:
        return path.with_stem(path.stem.replace("questions", "outputs"))
    return path.with_stem(f"{path.stem}_label")


def read_golds(path: Path) -> dict[str, str]:
    """Right answers by query id.

    Raises:
        DataError: the file is no label file, or a query stands in it twice.
    """
    document = read_document(path)
    items = document.get("golds") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise DataError(f"{path} is no label file", expected='{"golds": [{"id": ..., "output": ...}]}')
    golds: dict[str, str] = {}
    rows = Rows(skip_bad=False)
    for number, item in enumerate(items, 1):
        with rows.row(f"{path}, gold {number}"):
            content = as_object(item)
            key, output = column(content, "id", as_id), column(content, "output", as_text)
            if key in golds:
                raise ValueError(f"the query id {key!r} stands twice in the file")
            if output is None:
                raise ValueError(f"query {key!r}: the field 'output' is missing or blank")
            golds[key] = output
    return golds
