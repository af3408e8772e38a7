"""The store: whole or not at all, versions kept, damage noticed."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from ownlm.errors import BaseModelError, DataError, NotFoundError, StoreError
from ownlm.history.record import History, Record
from ownlm.store.blobs import Blobs, blob_name
from ownlm.store.rows import AdapterInfo, BaseInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from tests.store.rows import TASK, adapter, keep


def history(user: str, *texts: str, time: str | None = None) -> History:
    return History(user, tuple(Record(user, f"r{n}", {"text": t, "title": "t"}, time) for n, t in enumerate(texts)))


def test_adding_is_idempotent_and_survives_opening_again(store: Store) -> None:
    assert store.add_records(TASK.name, [history("ada", "one", "two"), history("bela", "three")]) == (3, 0, 0)
    assert store.add_records(TASK.name, [history("ada", "one", "two", "four")]) == (1, 2, 0)
    again = Store(store.folder)
    assert [record.fields["text"] for record in again.history(TASK.name, "ada").records] == ["one", "two", "four"]
    assert [(p.user, p.records) for p in again.histories()] == [("ada", 3), ("bela", 1)]
    assert again.task(TASK.name) == TASK


def test_a_changed_record_is_refused_and_nothing_of_the_file_is_added(store: Store) -> None:
    store.add_records(TASK.name, [history("ada", "one")])
    with pytest.raises(DataError, match="'r0' of user 'ada'") as caught:
        store.add_records(TASK.name, [history("bela", "new"), history("ada", "changed")])
    assert "changed" not in str(caught.value).replace("the changed record", "")
    assert [p.user for p in store.histories()] == ["ada"]


def test_a_history_has_its_own_digest_whatever_others_do(store: Store) -> None:
    store.add_records(TASK.name, [history("ada", "one")])
    (before,) = store.histories()
    store.add_records(TASK.name, [history("bela", "two")])
    assert store.histories()[0].history == before.history
    store.add_records(TASK.name, [history("ada", "one", "three")])
    assert store.histories()[0].history != before.history


def test_records_are_read_in_order_of_time(store: Store) -> None:
    late, early = Record("ada", "late", {"text": "l"}, "2024"), Record("ada", "early", {"text": "e"}, "2023-05-01")
    store.add_records(TASK.name, [History("ada", (late,))])
    store.add_records(TASK.name, [History("ada", (early,))])
    assert [record.id for record in store.history(TASK.name, "ada").records] == ["early", "late"]


def test_versions_are_kept_and_the_newest_counts(store: Store) -> None:
    for number in range(3):
        keep(store, adapter(number), b"w")
    keep(store, adapter(7, "bela"), b"w")
    assert [a.id for a in store.adapters(user="ada")] == ["a0", "a1", "a2"]
    assert {user: a.id for (_, user), a in store.latest_adapters(TASK.name).items()} == {"ada": "a2", "bela": "a7"}
    with pytest.raises(StoreError):
        keep(store, adapter(2), b"w")  # an id is never used twice


def test_people_are_looked_up_by_page(store: Store) -> None:
    people = ["Zoe", "ada", "bela", "ciro", "émile"]
    store.add_records(TASK.name, [history(user, "one", "two") for user in reversed(people)])
    store.put_task(TASK.model_copy(update={"name": "other"}))
    store.add_records("other", [history("ada", "three"), history("dora", "four")])
    assert store.names(TASK.name, None, 9) == people and store.names(TASK.name, "ada", 2) == ["bela", "ciro"]
    assert store.names(TASK.name, "aaa", 1) == ["ada"] and store.names(TASK.name, "émile", 9) == []
    some = store.histories(TASK.name, ["bela", "Zoe", "nobody"])
    assert [person.user for person in some] == ["bela", "Zoe"]  # in the order they came
    assert all(person in store.histories(TASK.name) for person in some) and store.histories(TASK.name, []) == []
    for number, user in enumerate(["ada", "bela", "ada"]):
        keep(store, _of(store, adapter(number, user)), b"w")
    found = store.latest_adapters(TASK.name, ["ada", "ciro"])
    assert {user: one.id for (_, user), one in found.items()} == {"ada": "a2"}
    for user, text in (("ada", "old"), ("ada", "new"), ("bela", "hers")):
        store.add_profile(ProfileInfo(TASK.name, user, text, "counted", history_digest(history(user, "one", "two"))))
    assert {user: one.text for user, one in store.latest_profiles(TASK.name, ["ada", "Zoe"]).items()} == {"ada": "new"}


def _of(store: Store, info: AdapterInfo) -> AdapterInfo:
    """The adapter, made on what its person has now."""
    learnt, numbers = store.numbered_history(TASK.name, info.user)
    return replace(info, history=history_digest(learnt), upto=max(numbers.values()))


def test_many_adapters_are_added_all_or_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_records(TASK.name, [history(user, "one") for user in ("ada", "bela", "ciro")])
    batch = [
        (_of(store, adapter(number, user, blob=blob_name(user.encode()))), user.encode())
        for number, user in enumerate(("ada", "bela", "ciro"))
    ]
    genuine, synced = os.fsync, list[int]()

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 5:  # two folders, two blobs
            raise OSError(28, "No space left on device")
        genuine(handle)

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StoreError, match="room"):
            store.add_adapters(batch)
    assert store.adapters() == [] and store.blobs.files() == []
    with pytest.raises(StoreError):
        store.add_adapters([*batch, batch[0]])  # an id is never used twice
    assert store.adapters() == [] and store.blobs.files() == []
    assert store.add_adapters(batch) == [None, None, None] and store.add_adapters([]) == []
    assert [store.blobs.get(one.blob) for one in store.adapters()] == [b"ada", b"bela", b"ciro"]


def test_outsiders_of_parents_count(store: Store) -> None:
    store.add_base(BaseInfo("one", "/1", "1", 10, "adapted", TASK.name, "base"), [history("ada")])
    store.add_base(BaseInfo("two", "/2", "2", 10, "adapted", TASK.name, "one"), [history("bela")])
    assert store.outsiders("two") == {"ada", "bela"} and store.outsiders("base") == set()
    with pytest.raises(BaseModelError, match="already"):
        store.add_base(BaseInfo("one", "/3", "3", 10, "folder"))
    with pytest.raises(NotFoundError, match="one, two"):
        store.base("three")


def test_homes_with_odd_names_are_kept_apart(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "x?1"), Store(tmp_path / "x?2")
    one.put_task(TASK)
    assert other.task(TASK.name) is None and one.folder.stat().st_mode & 0o777 == 0o700


def test_a_history_read_whole_has_the_digest_of_its_person(store: Store) -> None:
    store.add_records(TASK.name, [history("ada", "one", "two"), history("bela", "x", time="2021")])
    for person in store.histories():
        assert history_digest(store.history(TASK.name, person.user)) == person.history


def test_a_blob_is_whole_or_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    (name,) = blobs.put([b"weights"])
    assert blobs.put([b"weights"]) == [name] and blobs.get(name) == b"weights"
    (file,) = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    for damaged in (b"weightS", b"", b"weights "):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            blobs.get(name)
    assert blobs.put([b"weights"]) == [name] and blobs.get(name) == b"weights"  # what is damaged is written anew
    file.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        blobs.get(name)


def test_what_is_no_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        Store(tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "ownlm.db").write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(StoreError, match="database"):
        Store(tmp_path / "odd")
    Store(tmp_path / "newer")
    with sqlite3.connect(tmp_path / "newer" / "ownlm.db") as db:
        db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path / "newer")
