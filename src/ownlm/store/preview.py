"""A home as it would be with more records: for dry runs, which write nothing."""

from collections.abc import Collection, Iterable

from ownlm.history.record import History, Record, in_order
from ownlm.store.records import new_rows, tombstones, without_forgotten
from ownlm.store.rows import Person, digest_of, record_digest
from ownlm.store.store import Store


class Preview(Store):
    """A store whose records include those of one task that are not added: reading only.

    Args:
        store: of the home.
        again: include records that were forgotten before; else they stay out.

    Attributes:
        new, known, forgotten: numbers of records, as `Store.add_records` returns them.

    Raises:
        DataError: a record's id is in the home with another text.
    """

    def __init__(self, store: Store, task: str, histories: Iterable[History], again: bool = False) -> None:
        self.folder, self.blobs, self.database = store.folder, store.blobs, store.database
        self._task, self._added = task, dict[str, list[Record]]()
        self.new = self.known = self.forgotten = 0
        with self.database.reading() as db:
            keys = set() if again else tombstones(db)
            for history in histories:
                user = history.user_id
                wanted = without_forgotten(keys, task, history)
                self.forgotten += len(history) - len(wanted)
                there = self._digests(db, task, user)
                there.update((one.id, record_digest(one)) for one in self._added.get(user, ()))
                rows = new_rows(task, wanted, there)
                added = [Record(user, row["id"], row["fields"], row["time"]) for row in rows]
                self.new, self.known = self.new + len(added), self.known + len(wanted) - len(added)
                if added:
                    self._added.setdefault(user, []).extend(added)

    def numbered_history(self, task: str, user: str) -> tuple[History, dict[str, int]]:
        """As of the store; the records that are not added come last."""
        history, numbers = super().numbered_history(task, user)
        if not (added := self._records(task, user)):
            return history, numbers
        first = max(numbers.values(), default=0) + 1
        in_order_of_arrival = sorted(history.records, key=lambda one: numbers[one.id])
        numbers |= {one.id: number for number, one in enumerate(added, first)}
        return in_order(user, [*in_order_of_arrival, *added]), numbers

    def knows(self, task: str, user: str) -> bool:
        """As of the store."""
        return bool(self._records(task, user)) or super().knows(task, user)

    def names(self, task: str, after: str | None, count: int) -> list[str]:
        """As of the store."""
        mine = self._added if task == self._task else {}
        added = (user for user in mine if after is None or user > after)
        return sorted({*super().names(task, after, count), *added})[:count]

    def people(self, task: str | None = None, users: Collection[str] | None = None) -> list[Person]:
        """As of the store; users with new records alone come last."""
        found = {(one.task, one.user): one for one in super().people(task, users)}
        wanted = self._added if users is None else [user for user in users if user in self._added]
        for user in wanted if task in (None, self._task) else ():
            there = self.digests(self._task, user)
            there.update((one.id, record_digest(one)) for one in self._added[user])
            found[self._task, user] = Person(user, self._task, len(there), digest_of(there.items()))
        return list(found.values())

    def _records(self, task: str, user: str) -> list[Record]:
        return self._added.get(user, []) if task == self._task else []
