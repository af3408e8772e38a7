"""Records, queries, and the histories and datasets made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ownlm.history.times import time_key


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a user: the values of the task's input fields, and of its answer field where known."""

    user_id: str
    id: str
    fields: Mapping[str, str]
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A new input of a user; `gold` is the right answer where it is known."""

    user_id: str
    id: str
    fields: Mapping[str, str]
    gold: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A user's records, oldest first."""

    user_id: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(slots=True)
class Dataset:
    """The content of a data file, or of a question file with its label file.

    Attributes:
        histories: one per user, in the file's order.
        queries: new inputs, in the file's order.
        instruction: the instruction in the file's queries; None where they carry none.
        labels: the labels listed in that instruction; None where it lists none.
        repeated: number of rows left out because they repeat another row of the file.
        bad: "file:line: what is wrong" for each row left out by `skip_bad`.
        notes: hints about unread columns that may hold the time or the user.
        given_away: number of records left out because they hold the answer to a query of the same user.
    """

    histories: list[History] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    instruction: str | None = None
    labels: tuple[str, ...] | None = None
    bad: list[str] = field(default_factory=list)
    given_away: int = 0
    repeated: int = 0
    notes: list[str] = field(default_factory=list)


def in_order(user_id: str, records: list[Record]) -> History:
    """A history of `records`, sorted by time; a record without a time keeps its place after the record before it."""
    return History(user_id, tuple(records[place] for place in order_of([record.time for record in records])))


def order_of(times: Sequence[str | None]) -> list[int]:
    """Indices of records sorted by time; a record without a time keeps its place after the record before it.

    >>> order_of(["2024", None, "2023"])
    [2, 0, 1]
    """
    latest, keys = float("-inf"), list[float]()
    for time in times:
        latest = latest if time is None else time_key(time)
        keys.append(latest)
    return sorted(range(len(keys)), key=keys.__getitem__)
