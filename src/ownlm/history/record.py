"""What people did: records, in order, and what is asked of them next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ownlm.history.times import time_key


@dataclass(frozen=True, slots=True)
class Record:
    """One thing one person did: the fields of the task's input, and of its answer where it is known."""

    user_id: str
    id: str
    fields: Mapping[str, str]
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A new input of one person; `gold` is the right answer where it is known."""

    user_id: str
    id: str
    fields: Mapping[str, str]
    gold: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """One person's records, oldest first."""

    user_id: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(slots=True)
class Dataset:
    """What one file, or one set of files, says.

    Attributes:
        histories: one per person, in the file's order.
        queries: new inputs, in the file's order.
        instruction: the instruction that the file's own queries carry, if they do.
        labels: the labels that this instruction lists, if it does.
        repeated: number of rows that repeat another row of the file, and are there once.
        bad: "file:line: what is wrong", one for each row left out (only where leaving out was asked for).
        notes: columns of the file that were not read though they may be a time or a user, and how to rename them.
        given_away: how many records were left out because they are the answer to a query of the same user.
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
    """A history of `records`, oldest first by time; one without a time stays behind the one it was given after."""
    return History(user_id, tuple(records[place] for place in order_of([record.time for record in records])))


def order_of(times: Sequence[str | None]) -> list[int]:
    """Places of records, oldest first, by their times; one without a time stays behind the one it was given after.

    >>> order_of(["2024", None, "2023"])
    [2, 0, 1]
    """
    latest, keys = float("-inf"), list[float]()
    for time in times:
        latest = latest if time is None else time_key(time)
        keys.append(latest)
    return sorted(range(len(keys)), key=keys.__getitem__)
