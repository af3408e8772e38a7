"""Reader of LaMP's JSON: users with a `profile` of records, their queries, and a label file.

Two shapes are supported, as a JSON array or as JSON Lines: LaMP's `*_questions.json` with one question an item, and
`*_outputs.json`; and OPPU's and Per-Pcs' shape with several queries a user, and `*_label.json`. A question belongs to
the user in its `user_id`; in a file without `user_id`, each question is a user. Several questions of a user share one
history, without the records that hold the answer to one of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from ownlm.errors import DataError
from ownlm.history.files import Kind, parse_line, read_golds_array, read_rows
from ownlm.history.record import Query, Record
from ownlm.history.row import Rows, as_object, gold_of, time_of, to_record
from ownlm.history.task import Task, parse_query, with_instruction
from ownlm.history.values import as_id, as_text, as_user, column

_LOOKED_AT: Final = 16  # items examined to detect the shape: the first ones may be bad
_PACKED: Final = re.compile(r"\.json\.\w+$")
_PACKING: Final = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".zip")


@dataclass(frozen=True, slots=True)
class Item:
    """An unparsed item of a LaMP file: one user's records and queries, each with its place for messages."""

    user: str
    profile: list[tuple[str, object]]
    queries: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class Labels:
    """A label file: right answers and users, both by query id."""

    golds: dict[str, str]
    users: dict[str, str]


def lamp_items(path: Path, kind: Kind) -> Iterator[tuple[str, object]] | None:
    """Returns an iterator over a LaMP file's items, each with its place; None for a file of plain rows.

    Raises:
        DataError: the file cannot be read.
    """
    if kind not in ("array", "lines"):
        return None
    items, first = read_rows(path, kind, (), ()), list[tuple[str, object]]()
    for place, item in items:
        first.append((place, item))
        if _has_profile(item) or len(first) == _LOOKED_AT:
            break
    return chain(first, items) if any(_has_profile(item) for _, item in first) else None


def _has_profile(item: object) -> bool:
    """Whether an item is a LaMP user or question; a plain row may have a text `profile`."""
    if isinstance(item, bytes):
        try:
            item = parse_line(item)
        except ValueError:
            return False
    if not isinstance(item, dict) or "profile" not in item:
        return False
    return isinstance(item["profile"], list) or "query" in item or not isinstance(item["profile"], str)


def read_lamp_users(path: Path, items: Iterable[tuple[str, object]], labels: Labels, rows: Rows) -> Iterator[Item]:
    """Yields a LaMP file's users one at a time; malformed ones are errors, or left out with `skip_bad`.

    Raises:
        DataError: a row is bad; or the first question differs from most others in whether it names a user.
    """
    named, first = dict[bool, list[str]](), True  # places of questions with a user, and without one
    for place, item in items:
        read = []
        with rows.row(place):
            content = as_object(item)
            if "query" not in content:
                user = _asking_user(content, labels)
                rows.see_user(content)
                first = next(iter(named), user is not None)
                named.setdefault(user is not None, []).append(place)
                if first != (user is not None):
                    raise ValueError(
                        "some questions of the file have a `user_id`, and some have none: this has "
                        f"{'one' if user else 'none'}, and {named[first][0]} has {'one' if first else 'none'}"
                    )
            else:
                user = column(content, "user_id", as_user)
            read.append(_item(path, content, user))
        yield from read
    if len(named) > 1 and len(named[first]) < len(named[not first]):
        raise DataError(
            f"The first question of the file {path} {'names a user' if first else 'names no user'}, unlike most others",
            got=f"{named[first][0]} against {named[not first][0]}",
            hint="name the user of each question as `user_id`, or of none",
        )


def _asking_user(question: Mapping[str, Any], labels: Labels) -> str | None:
    """The user named by a question, or by its answer in the label file."""
    key, given = column(question, "id", as_id), question.get("user_id")
    blank = given is None or (isinstance(given, str) and not given.strip())
    user, labelled = None if blank else column(question, "user_id", as_user), labels.users.get(key)
    if user is not None and labelled is not None and user != labelled:
        raise ValueError(f"query {key!r}: the label file names another user")
    return user if user is not None else labelled


def _item(path: Path, item: Mapping[str, Any], user: str | None) -> Item:
    queries = item.get("query", [item])
    user = column(item, "id", as_user) if user is None else user
    profile = item.get("profile")
    if not isinstance(profile, list) or not isinstance(queries, list):
        raise ValueError(f"user {user!r}: profile and query are not both lists")
    mine = f"{path}, user {user!r}" + ("" if "query" in item else f", question {column(item, 'id', as_id)!r}")
    return Item(
        user,
        [(f"{mine}, profile item {number}", row) for number, row in enumerate(profile, 1)],
        [(f"{mine}, query {number}", row) for number, row in enumerate(queries, 1)],
    )


@dataclass(slots=True)
class Queries:
    """The queries of a file, with their common instruction and labels.

    Attributes:
        queries: the queries by id, in the file's order.
        carried: the first query id for each distinct instruction and labels.
        items: the number of items of each user.
    """

    queries: dict[str, Query] = field(default_factory=dict)
    carried: dict[tuple[str | None, tuple[str, ...] | None], str] = field(default_factory=dict)
    items: Counter[str] = field(default_factory=Counter)

    def add(self, item: Item, task: Task, labels: Labels, rows: Rows) -> None:
        """Adds the queries of an item; invalid ones are errors, or left out with `skip_bad`.

        The right answer is in the label file or in the query; where in both, they must be equal.
        """
        self.items[item.user] += 1
        for place, row in item.queries:
            with rows.row(place):
                content = as_object(row)
                key, text = column(content, "id", as_id), column(content, "input", as_text)
                if key in self.queries:
                    raise ValueError(f"the query id {key!r} is repeated in the file")
                fields, instruction, listed = parse_query(task, text or "")
                gold, labelled = gold_of(content, task), labels.golds.get(key)
                if gold is not None and labelled is not None and gold != labelled:
                    raise ValueError(f"query {key!r}: its own right answer differs from the one in the label file")
                time = time_of(content)
                rows.query_times.check(time, place)
                self.queries[key] = Query(item.user, key, fields, labelled if gold is None else gold, time)
                self.carried.setdefault((instruction, listed), key)

    def check(self, path: Path, label_path: Path | None, labels: Labels) -> None:
        """Raises a DataError if queries differ in their instruction, or the label file answers none of them."""
        if len(self.carried) > 1:
            one, other, *_ = self.carried.values()
            raise DataError(
                f"The queries {one!r} and {other!r} in {path} have different instructions or labels",
                expected="one instruction a file",
                hint="split the file; or the pattern `query` of the task does not fit all of its queries",
            )
        if labels.golds and self.queries and not labels.golds.keys() & self.queries.keys():
            raise DataError(
                f"The label file {label_path} has no answer to any query in {path}",
                hint="give the label file of these questions",
            )

    def answers(self, task: Task) -> "Answers":
        """Returns an index that finds records which contain the answer to one of their user's queries."""
        return Answers(self, task)


class Answers:
    """Index of a file's queries that finds records with the answer to one of them.

    It covers users with several items: their profiles become one history, and the profile of one question may hold
    the answer to another.
    """

    def __init__(self, asked: Queries, task: Task) -> None:
        self._names: dict[str, set[tuple[str, ...]]] = {}
        self._asked: set[tuple[str, tuple[str, ...], tuple[str, ...]]] = set()
        for query in asked.queries.values():
            names = tuple(name for name in query.fields if name in task.record_fields)
            if asked.items[query.user_id] > 1 and names:
                self._names.setdefault(query.user_id, set()).add(names)
                self._asked.add((query.user_id, names, tuple(query.fields[name] for name in names)))

    def __contains__(self, record: Record) -> bool:
        return any(
            (record.user_id, names, tuple(record.fields.get(name, "") for name in names)) in self._asked
            for names in self._names.get(record.user_id, ())
        )


def lamp_records(
    path: Path, items: Iterable[Item], task: Task, labels: Labels, asked: Queries, rows: Rows
) -> Iterator[tuple[str, Record]]:
    """Yields the records of users' profiles, each with its place; their queries are added to `asked`.

    Some records may lack their answer, but not all. Labels in the first queries replace the task's.

    Raises:
        DataError: a row is bad, or no record has the task's answer.
    """
    read = labelled = 0
    for item in _asked_first(items, task, labels, asked, rows):
        if (listed := next(iter(asked.carried), (None, None))[1]) and listed != task.labels:
            task = with_instruction(task, None, listed)
        for place, row in item.profile:
            records = []
            with rows.row(place):
                records.append(to_record(row, task, unlabelled=True, user=item.user))
            for record in records:
                read, labelled = read + 1, labelled + (task.answer_field in record.fields)
                yield place, record
    if read and not labelled and task.options is None:  # for options LaMP itself has titles only
        raise no_answers(path, task)


def no_answers(path: Path, task: Task) -> DataError:
    """The error for a file in which no record has the task's answer."""
    return DataError(
        f"No record in {path} has the field {task.answer_field!r}",
        expected=f"records of task {task.name!r}",
        hint="check that the task is the task of these data",
    )


def _asked_first(items: Iterable[Item], task: Task, labels: Labels, asked: Queries, rows: Rows) -> Iterator[Item]:
    """Adds the users' queries; the first users are held back until a query lists the labels."""
    waiting: list[Item] = []
    for item in items:
        asked.add(item, task, labels, rows)
        waiting.append(item)
        if asked.carried or len(waiting) == _LOOKED_AT:
            yield from waiting
            waiting.clear()
    yield from waiting


def label_file(path: Path) -> Path:
    """The usual path of a data file's label file.

    >>> label_file(Path("dev_questions.json")).name, label_file(Path("user_others.json")).name
    ('dev_outputs.json', 'user_others_label.json')
    >>> label_file(Path("dev_questions.json.gz")).name, label_file(Path("user_others.json.gz")).name
    ('dev_outputs.json.gz', 'user_others_label.json.gz')
    """
    if "questions" in path.stem:
        return path.with_stem(path.stem.replace("questions", "outputs"))
    packed = _PACKED.search(path.name)
    if packed:
        return path.with_name(f"{path.name[: packed.start()]}_label{packed.group()}")
    return path.with_stem(f"{path.stem}_label")


def label_files(path: Path) -> list[Path]:
    """Possible paths of a data file's label file, packed or not, the likeliest first.

    >>> [file.name for file in label_files(Path("dev_questions.json.gz"))][:3]
    ['dev_outputs.json.gz', 'dev_outputs.json', 'dev_outputs.json.bz2']
    """
    usual = label_file(path)
    bare = usual.with_suffix("") if usual.suffix in _PACKING else usual
    return list(dict.fromkeys([usual, bare, *(bare.with_name(bare.name + end) for end in _PACKING)]))


def read_golds(path: Path) -> dict[str, str]:
    """Reads right answers by query id.

    Raises:
        DataError: the file is not a label file, or repeats a query.
    """
    return read_labels(path).golds


def read_labels(path: Path) -> Labels:
    """Reads a label file; only `id`, `output` and `user_id` of its items are used.

    Raises:
        DataError: the file is not a label file, or repeats a query.
    """
    labels, rows, numbers = Labels({}, {}), Rows(skip_bad=False), count(1)

    def take(item: object) -> None:
        with rows.row(f"{path}, gold {next(numbers)}"):
            content = as_object(item)
            key, output = column(content, "id", as_id), column(content, "output", as_text)
            if key in labels.golds:
                raise ValueError(f"the query id {key!r} is repeated in the file")
            if output is None:
                raise ValueError(f"query {key!r}: the field 'output' is missing or blank")
            labels.golds[key] = output
            if column(content, "user_id", as_text) is not None:
                labels.users[key] = column(content, "user_id", as_user)

    if read_golds_array(path, take) is None:
        raise DataError(f"{path} is not a label file", expected='{"golds": [{"id": ..., "output": ...}]}')
    return labels
