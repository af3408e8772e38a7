"""Drafts: kept while their people agree and nothing of them was forgotten; gone with their weights when that ends."""

from collections.abc import Callable

import pytest

from ownlm.errors import StoreError
from ownlm.history.record import History, Record
from ownlm.history.task import load_task
from ownlm.store.drafts import add_drafts, drafts, remove_drafts
from ownlm.store.forget import forget_record, forget_user
from ownlm.store.rows import DraftInfo
from ownlm.store.store import Store
from tests.store.rows import TASK, draft, give_consent, take_back_consent

PEOPLE = ("zora", "bela")
OTHER = load_task("LaMP_5")


def history(user: str, task: str = TASK.name) -> History:
    return History(user, tuple(Record(user, f"{user}-{n}", {"text": f"{user}'s {n}th in {task}"}) for n in range(3)))


HISTORIES = {user: history(user) for user in PEOPLE}


@pytest.fixture
def crowd(store: Store) -> Store:
    """Two people who agree to share, with records in two tasks."""
    store.put_task(OTHER)
    for task in (TASK, OTHER):
        store.add_records(task.name, [history(user, task.name) for user in PEOPLE])
    for user in PEOPLE:
        give_consent(store, user, "CC0")
    return store


@pytest.fixture
def drafted(crowd: Store) -> Store:
    """The same with drafts of both, of both kinds."""
    assert add_drafts(crowd, HISTORIES, [draft(user, kind) for user in PEOPLE for kind in ("adapter", "gates")]) == (
        [None] * 4
    )
    return crowd


def names(store: Store) -> list[tuple[str, str]]:
    """Whose drafts there are, of which kinds; no blob is without a name, none is missing."""
    found = drafts(store)
    assert {file.stem for file in store.blobs.files()} == {one.blob for one in found}
    return [(one.user, one.kind) for one in found]


ALL = [("bela", "adapter"), ("bela", "gates"), ("zora", "adapter"), ("zora", "gates")]


def test_drafts_are_kept_and_found(drafted: Store) -> None:
    assert names(drafted) == ALL and drafted.sweep() == 0
    assert [drafted.blobs.get(one.blob) for one in drafts(drafted, user="zora")] == [
        b"the adapter of zora", b"the gates of zora"]  # fmt: skip
    assert drafts(drafted, OTHER.name) == [] and len(drafts(drafted, TASK.name, "bela")) == 2
    assert add_drafts(drafted, HISTORIES, []) == []


def test_a_newer_one_takes_the_older_ones_place(drafted: Store) -> None:
    add_drafts(drafted, HISTORIES, [draft("zora", "gates", b"other gates", key="another")])
    assert names(drafted) == ALL and drafts(drafted, user="zora")[1].key == "another"
    add_drafts(drafted, HISTORIES, [draft("zora", "adapter", b"another adapter", key="another")])
    assert names(drafted) == ALL[:3]  # its gates were of use with the older adapter alone
    for elsewhere in ({"base_fingerprint": "e" * 64}, {"task": OTHER.name}):
        add_drafts(drafted, {"bela": History("bela", ())}, [draft("bela", "adapter", b"beside", **elsewhere)])
    assert sorted(name for name in names(drafted) if name[0] == "bela") == [("bela", "adapter")] * 3 + [
        ("bela", "gates")
    ]


def forget_all(store: Store) -> None:
    forget_user(store, "zora")


def forget_one(store: Store) -> None:
    forget_record(store, TASK.name, "zora", "zora-1")


def take_back(store: Store) -> None:
    take_back_consent(store, "zora")


def withdraw(store: Store) -> None:
    assert remove_drafts(store, "zora") in (0, 2)


GOES = [forget_all, forget_one, take_back, withdraw]


@pytest.mark.parametrize("change", GOES)
def test_it_goes_with_its_weights_and_nobody_elses_does(drafted: Store, change: Callable[[Store], None]) -> None:
    weights = [drafted.blobs.get(one.blob) for one in drafts(drafted, user="zora")]
    change(drafted)
    assert names(drafted) == ALL[:2]
    files = [path for path in drafted.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if any(one in path.read_bytes() for one in weights)]


@pytest.mark.parametrize("change", [take_back, withdraw])
def test_what_was_stopped_before_the_weights_were_gone_is_finished_by_the_same_call(
    drafted: Store, change: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "sweep", lambda store: 0)
        change(drafted)
    assert drafts(drafted, user="zora") == [] and len(drafted.blobs.files()) == 4
    change(drafted)
    assert names(drafted) == ALL[:2]


def test_weights_that_cannot_be_removed_are_told(drafted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **how: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", refused)
        with pytest.raises(StoreError, match=r"cannot be removed.*Permission denied.*same command"):
            take_back(drafted)
    take_back(drafted)
    assert names(drafted) == ALL[:2]


def test_a_record_forgotten_in_another_task_takes_nothing(drafted: Store) -> None:
    forget_record(drafted, OTHER.name, "zora", "zora-1")
    assert names(drafted) == ALL


@pytest.mark.parametrize("change", GOES[:3])
def test_none_is_kept_of_who_changed_their_mind_meanwhile(crowd: Store, change: Callable[[Store], None]) -> None:
    change(crowd)
    zora, bela = add_drafts(crowd, HISTORIES, [draft("zora"), draft("bela")])
    assert bela is None and "between selection and sharing: zora" in str(zora)
    assert names(crowd) == ALL[:1]


def test_records_that_came_meanwhile_do_no_harm(crowd: Store) -> None:
    crowd.add_records(TASK.name, [History("zora", (Record("zora", "late", {"text": "late"}),))])
    assert add_drafts(crowd, HISTORIES, [draft("zora")]) == [None]


def test_on_a_full_disk_none_is_kept_and_nothing_is_left(drafted: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    before: list[DraftInfo] = drafts(drafted)
    with monkeypatch.context() as patched:
        patched.setattr("ownlm.store.blobs.sync", full)
        with pytest.raises(StoreError, match="room"):
            add_drafts(drafted, HISTORIES, [draft("zora", "adapter", b"another")])
    assert drafts(drafted) == before and names(drafted) == ALL
