"""Finished adapters are stored in the background: many at once, each with its own outcome, none lost by an error."""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ownlm.errors import NotFoundError, StoreError
from ownlm.history.record import History, Record
from ownlm.store.blobs import blob_name
from ownlm.store.forget import forget_user
from ownlm.store.rows import AdapterInfo, BaseInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.writer import BackgroundWriter
from tests.store.rows import TASK, adapter

Made = tuple[AdapterInfo, bytes]

PEOPLE = [f"user{n}" for n in range(8)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    store.put_task(TASK)
    store.add_base(BaseInfo("base", "/b", "f" * 64, 10, "folder"))
    records = [Record(user, "1", {"text": f"{user} wrote it", "title": "t"}) for user in PEOPLE]
    store.add_records(TASK.name, [History(record.user_id, (record,)) for record in records])
    return store


def made(store: Store, user: str) -> Made:
    learnt, numbers = store.numbered_history(TASK.name, user)
    weights = f"the weights of {user}".encode()
    info = adapter(
        PEOPLE.index(user), user, history=history_digest(learnt), upto=max(numbers.values()), blob=blob_name(weights)
    )
    return info, weights


class Told:
    def __init__(self) -> None:
        self.stored, self.lost = list[str](), dict[str, str]()

    def __call__(self, adapter: AdapterInfo, error: NotFoundError | None) -> None:
        if error:
            self.lost[adapter.user] = str(error)
        else:
            self.stored.append(adapter.user)


def waiting_for(event: threading.Event, done: Made) -> Callable[[], Made]:
    def make() -> Made:
        assert event.wait(30)
        return done

    return make


def test_what_gathers_is_stored_in_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, genuine, told, go = list[int](), store.add_adapters, Told(), threading.Event()
    monkeypatch.setattr(store, "add_adapters", lambda made: batches.append(len(made)) or genuine(made))
    with BackgroundWriter(store.add_adapters, 5, told) as writer:
        writer.put(waiting_for(go, made(store, PEOPLE[0])))
        while not writer._waiting.empty():  # the first is in the thread's hands
            pass
        for user in PEOPLE[1:6]:
            writer.put(partial(made, store, user))
        go.set()
        for user in PEOPLE[6:]:
            writer.put(partial(made, store, user))
    assert batches[:2] == [1, 5] and sum(batches) == 8
    assert told.stored == PEOPLE == [a.user for a in store.adapters()]
    assert all(store.blobs.get(a.blob) == f"the weights of {a.user}".encode() for a in store.adapters())


def test_who_is_forgotten_while_queued_spoils_nobody_elses(store: Store) -> None:
    told, go = Told(), threading.Event()
    with BackgroundWriter(store.add_adapters, 8, told) as writer:
        for user in PEOPLE:
            writer.put(waiting_for(go, made(store, user)))
        forget_user(store, PEOPLE[3])
        go.set()
    rest = [user for user in PEOPLE if user != PEOPLE[3]]
    assert told.stored == rest == [a.user for a in store.adapters()] and list(told.lost) == [PEOPLE[3]]
    assert "forgotten" in told.lost[PEOPLE[3]] and len(store.blobs.files()) == len(rest)


def test_ctrl_c_stores_what_was_put_before(store: Store) -> None:
    told, go = Told(), threading.Event()
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(store.add_adapters, 8, told) as writer:
        for user in PEOPLE[:4]:
            writer.put(waiting_for(go, made(store, user)))
        threading.Timer(0.1, go.set).start()
        raise KeyboardInterrupt
    assert told.stored == PEOPLE[:4] == [a.user for a in store.adapters()]


def test_a_full_disk_keeps_what_fits_and_is_told_to_who_puts_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, told, go = os.fsync, Told(), threading.Event()

    def full(handle: int) -> None:
        if threading.current_thread().name == "writer" and len(store.blobs.files()) > 3:
            raise OSError(28, "No space left on device")
        genuine(handle)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="room"), BackgroundWriter(store.add_adapters, 8, told) as writer:
        for user in PEOPLE:
            writer.put(waiting_for(go, made(store, user)))
        go.set()
        while True:  # whoever puts more is told, and never left waiting
            writer.put(lambda: made(store, PEOPLE[7]))
    assert told.stored == PEOPLE[:3] == [a.user for a in store.adapters()]
    assert len(store.blobs.files()) == 3


def test_an_error_after_the_last_is_told_on_leaving(store: Store) -> None:
    told = Told()
    with pytest.raises(StoreError), BackgroundWriter(store.add_adapters, 8, told) as writer:
        writer.put(lambda: made(store, PEOPLE[0]))
        writer.put(lambda: made(store, PEOPLE[0]))  # an id is never used twice
    assert told.stored == PEOPLE[:1]
