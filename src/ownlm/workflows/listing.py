"""Lists of a home's users: filtered, sorted, cut, and how far each adapter is behind."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ownlm.errors import ConfigError
from ownlm.store.pools import consents
from ownlm.store.rows import AdapterInfo, Person
from ownlm.store.store import Store
from ownlm.workflows.histories import find_task
from ownlm.workflows.standing import behind

Sort = Literal["added", "name", "records", "adapter"]


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Which users are listed, in which order, and how many.

    Attributes:
        task: of this task only.
        shares: only users who share pieces of their adapters; False for those who do not.
        adapter: only users with an adapter; False for those without.
        behind: only users whose adapter is behind their history, stale, or waits; False for those up to date.
        min_records, max_records: only users with so many records of the task.
        starts_with, contains: only users whose name does, in any case of letters.
        sort: as they were added; by name; most records first; newest adapter first, those without last.
        limit: at most so many; None for all.
    """

    task: str | None = None
    shares: bool | None = None
    adapter: bool | None = None
    behind: bool | None = None
    min_records: int | None = None
    max_records: int | None = None
    starts_with: str = ""
    contains: str = ""
    sort: Sort = "added"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError("A list has no users", got=f"limit {self.limit}", expected="1 or more")


@dataclass(frozen=True, slots=True)
class ListedPerson:
    """A user in one task.

    Attributes:
        adapter: the newest; None where there is none.
        standing: how far the adapter is behind, or why it is stale; empty where it is neither, or there is none.
        shares: whether they share pieces of their adapters.
    """

    person: Person
    adapter: AdapterInfo | None
    standing: str
    shares: bool


def list_people(store: Store, wanted: ListOptions) -> tuple[list[ListedPerson], int]:
    """The users of a home that options describe, at most `limit` of them; and how many there are without the limit."""
    task = None if wanted.task is None else find_task(store, wanted.task).name
    latest, sharing = store.latest_adapters(task), consents(store)
    found = [
        person
        for person in store.people(task)
        if _fits(wanted, person, latest.get((person.task, person.user)), person.user in sharing)
    ]
    if wanted.behind is not None:  # it takes a look at each adapter: what else was asked for is sorted out before
        found = [
            person
            for person in found
            if (adapter := latest.get((person.task, person.user))) is not None
            and bool(standing_of(store, person, adapter)) == wanted.behind
        ]
    ordered = _sorted(found, latest, wanted.sort)
    listed = []
    for person in ordered[: wanted.limit]:
        adapter = latest.get((person.task, person.user))
        standing = standing_of(store, person, adapter)
        listed.append(ListedPerson(person, adapter, standing, person.user in sharing))
    return listed, len(ordered)


def standing_of(store: Store, person: Person | None, adapter: AdapterInfo | None) -> str:
    """How far a user's adapter is behind their history, or why it is stale, in words; empty where it is neither."""
    if adapter is None:
        return ""
    history = person.history if person else None
    known = history is not None and adapter.knows(history)
    new = 0 if known else store.arrived_after(adapter.task, adapter.user, adapter.upto)
    return behind(adapter, history, new)


def _fits(wanted: ListOptions, person: Person, adapter: AdapterInfo | None, shares: bool) -> bool:
    name = person.user.casefold()
    return (
        wanted.shares in (None, shares)
        and wanted.adapter in (None, adapter is not None)
        and (wanted.min_records is None or person.records >= wanted.min_records)
        and (wanted.max_records is None or person.records <= wanted.max_records)
        and name.startswith(wanted.starts_with.casefold())
        and wanted.contains.casefold() in name
    )


def _sorted(people: Iterable[Person], latest: dict[tuple[str, str], AdapterInfo], by: Sort) -> list[Person]:
    if by == "name":
        return sorted(people, key=lambda one: (one.user.casefold(), one.user, one.task))
    if by == "records":
        return sorted(people, key=lambda one: -one.records)
    if by == "adapter":
        made = {key: adapter.created for key, adapter in latest.items()}
        return sorted(people, key=lambda one: made.get((one.task, one.user), ""), reverse=True)
    return list(people)
