"""Checkpoints: one for each user and task, gone with their blob when the adapter is there or a record goes."""

from collections.abc import Callable

import pytest
from sqlalchemy import update

from ownlm.errors import StoreError
from ownlm.history.record import History, Record
from ownlm.history.task import load_task
from ownlm.store import tables
from ownlm.store.blobs import blob_name
from ownlm.store.checkpoints import (
    CheckpointInfo,
    Source,
    add_checkpoints,
    find_checkpoint,
    remove_checkpoint,
    remove_old_checkpoints,
)
from ownlm.store.forget import forget_record, forget_user, replace_record
from ownlm.store.rows import history_digest
from ownlm.store.store import Store
from tests.store.rows import TASK, adapter, keep, recipe

OTHER = load_task("LaMP_5")
RUNS = [(TASK.name, "zora"), (TASK.name, "bela"), (OTHER.name, "zora"), (TASK.name, None)]  # the last: all users'


def source(store: Store, task: str, user: str) -> Source:
    history, numbers = store.numbered_history(task, user)
    return Source(user, history_digest(history), max(numbers.values()))


def made(store: Store, task: str, user: str | None, data: str = "") -> tuple[CheckpointInfo, bytes]:
    sources = tuple(source(store, task, one) for one in (("zora", "bela") if user is None else (user,)))
    return CheckpointInfo(task, "key", sources, user), (data or f"the state of {user} in {task}").encode()


@pytest.fixture
def crowd(store: Store) -> Store:
    """Two users with records in two tasks, and four runs under way."""
    store.put_task(OTHER)
    for task in (TASK, OTHER):
        for user in ("zora", "bela"):
            records = tuple(Record(user, f"{user}-{n}", {"text": f"{user}'s {n}th", "title": "t"}) for n in range(2))
            store.add_records(task.name, [History(user, records)])
    add_checkpoints(store, [made(store, *run) for run in RUNS])
    return store


def runs(store: Store) -> list[tuple[str, str | None]]:
    """What runs are checkpointed; no blob is without a name, none is missing."""
    with store.database.reading() as db:
        named = {row.owner: row.blob for row in db.execute(tables.checkpoints.select())}
    assert {*named.values(), *(one.blob for one in store.adapters())} - {None} == {f.stem for f in store.blobs.files()}
    owners = {CheckpointInfo(task, "", (), user).owner: (task, user) for task, user in RUNS}
    return [run for run in RUNS if run in {owners[owner] for owner in named}]


def test_checkpoints_are_found_and_a_later_one_takes_their_place(crowd: Store) -> None:
    assert runs(crowd) == RUNS and crowd.sweep() == 0
    info, data = made(crowd, TASK.name, "zora", "a later state")
    assert find_checkpoint(crowd, info) == ("key", blob_name(b"the state of zora in LaMP_4"))
    add_checkpoints(crowd, [(info, data)])
    assert find_checkpoint(crowd, info) == ("key", blob_name(data)) and runs(crowd) == RUNS
    remove_checkpoint(crowd, info)
    remove_checkpoint(crowd, info)
    assert find_checkpoint(crowd, info) is None and runs(crowd) == RUNS[1:]


def adapter_of_zora(store: Store) -> None:
    own, weights = source(store, TASK.name, "zora"), b"weights"
    info = adapter(1, "zora", history=own.history, upto=own.upto, blob=blob_name(weights))
    keep(store, info, weights)


def recipe_of_zora(store: Store) -> None:
    keep(store, recipe(store, 1, "zora", None), b"")


# What happens, and whose runs are still there.
ENDS: dict[str, tuple[Callable[[Store], object], list[int]]] = {
    "their adapter is stored": (adapter_of_zora, [1, 2, 3]),
    "they are assembled": (recipe_of_zora, [0, 1, 2, 3]),
    "a record is forgotten": (lambda store: forget_record(store, TASK.name, "zora", "zora-1"), [1, 2]),
    "a record is edited": (
        lambda store: replace_record(store, TASK.name, Record("zora", "zora-1", {"text": "other", "title": "t"})),
        [1, 2],
    ),
    "the user is forgotten": (lambda store: forget_user(store, "zora"), [1]),
    "a record is added": (
        lambda store: store.add_records(TASK.name, [History("zora", (Record("zora", "9", {"text": "t"}),))]),
        [0, 1, 2, 3],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_they_are_removed_with_what_they_learnt_from(crowd: Store, end: str) -> None:
    (happens, left), late = ENDS[end], [made(crowd, *run) for run in RUNS]
    happens(crowd)
    assert runs(crowd) == [RUNS[n] for n in left]
    if "forgotten" in end or "edited" in end:  # training goes on for a while, and must not bring them back
        add_checkpoints(crowd, late)
        assert runs(crowd) == [RUNS[n] for n in left]


def test_old_ones_are_removed(crowd: Store) -> None:
    info, _ = made(crowd, TASK.name, "bela")
    with crowd.database.writing() as db:
        mine = tables.checkpoints.c.owner == info.owner
        db.execute(update(tables.checkpoints).where(mine).values(created="2026-01-01T00:00:00+00:00"))
    remove_old_checkpoints(crowd)
    assert runs(crowd) == [RUNS[0], *RUNS[2:]]


def test_on_a_full_disk_the_one_before_stays(crowd: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(contents: object) -> list[str]:
        raise StoreError("An adapter cannot be written")

    info, data = made(crowd, TASK.name, "zora", "a later state")
    with monkeypatch.context() as patched:
        patched.setattr(crowd.blobs, "put", full)
        with pytest.raises(StoreError):
            add_checkpoints(crowd, [(info, data)])
    assert runs(crowd) == RUNS and find_checkpoint(crowd, info) != ("key", blob_name(data))


def test_no_name_and_no_task_stands_in_their_rows(crowd: Store) -> None:
    with crowd.database.reading() as db:
        rows = str(db.execute(tables.checkpoints.select()).all())
    assert "zora" not in rows and TASK.name not in rows
