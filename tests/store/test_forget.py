"""Forgetting: nothing of a person is left in any file, and nothing of anybody else is lost."""

import json
import subprocess
from pathlib import Path

import pytest

from ownlm.errors import NotFoundError, StoreError
from ownlm.history.record import History, Record
from ownlm.home import Home
from ownlm.store.blobs import blob_name
from ownlm.store.erasing.leftovers import dues
from ownlm.store.forget import forget_record, forget_user, resume
from ownlm.store.rows import AdapterInfo, BaseInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from tests.shell import OWNLM
from tests.store.rows import TASK, adapter, keep


def texts(user: str, count: int = 40) -> list[str]:
    return [f"{user} wrote the {n}th of these long and secret lines, with an é in it" for n in range(count)]


def history(user: str, count: int = 40) -> History:
    records = [Record(user, f"{user}-{n}", {"text": t, "title": "t"}) for n, t in enumerate(texts(user, count))]
    return History(user, tuple(records))


def learn(store: Store, number: int, user: str) -> bytes:
    """An adapter of a person on what they have now; its weights."""
    learnt, numbers = store.numbered_history(TASK.name, user)
    weights = f"the weights {number} of {user}".encode() * 20
    keep(
        store,
        adapter(
            number, user, history=history_digest(learnt), records=len(learnt), upto=max(numbers.values()),
            blob=blob_name(weights), bytes=len(weights),
        ),
        weights,
    )  # fmt: skip
    return weights


@pytest.fixture
def crowd(store: Store) -> Store:
    store.add_records(TASK.name, [history("zora"), history("bela")])
    for number, user in enumerate(("zora", "bela", "zora")):
        learn(store, number, user)
    for user in ("zora", "bela"):
        about = f"A profile of {user}, who has many secrets"
        store.add_profile(ProfileInfo(TASK.name, user, about, "counted", history_digest(history(user))))
    store.add_base(BaseInfo("adapted", "/a", "1", 10, "adapted", TASK.name, "base"), [history("zora")])
    return store


def everything(home: Path) -> bytes:
    return b"".join(str(path).encode() + path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def test_no_byte_of_a_person_is_left_and_nobody_else_loses_one(crowd: Store) -> None:
    before = everything(crowd.folder)
    assert before.count(b"zora wrote the") >= 40 and b"the weights 0 of zora" in before  # the search can find them
    done = forget_user(crowd, "zora", verify=True)
    assert (done.records, done.profiles, done.adapters, done.blobs) == (40, 1, 2, 2)
    assert done.bases == ("adapted",) and (done.texts, done.short) == (41, 2)  # "zora" and "t" are anybody's
    after = everything(crowd.folder)
    assert not any(trace in after for trace in (b"zora", b"weights 0", b"weights 2"))
    assert history_digest(crowd.history(TASK.name, "bela")) == history_digest(history("bela"))
    assert crowd.blobs.get(crowd.adapters(user="bela")[0].blob) == b"the weights 1 of bela" * 20
    assert crowd.profile(TASK.name, "bela") and crowd.base("adapted").forgotten == 1
    assert crowd.outsiders("adapted") == set()
    with pytest.raises(NotFoundError, match="no user 'zora'"):
        forget_user(crowd, "zora")


def test_one_record_goes_and_what_learnt_from_it_is_marked_until_a_new_one_is_there(crowd: Store) -> None:
    crowd.add_records(TASK.name, [history("zora", 41)])
    done = forget_record(crowd, TASK.name, "zora", "zora-40")  # came after both adapters
    assert (done.records, done.marked, done.adapters) == (1, 0, 0)
    assert b"the 40th" not in everything(crowd.folder)
    done = forget_record(crowd, TASK.name, "zora", "zora-7")
    assert (done.records, done.profiles, done.marked, done.blobs) == (1, 0, 2, 0)
    assert b"zora wrote the 7th" not in everything(crowd.folder)
    assert [a.forgotten for a in crowd.adapters()] == [1, 0, 1]
    assert crowd.profile(TASK.name, "zora") is None and crowd.profile(TASK.name, "bela")
    weights = learn(crowd, 9, "zora")
    assert [(a.id, a.forgotten) for a in crowd.adapters(user="zora")] == [("a9", 0)]
    assert crowd.blobs.get(blob_name(weights)) == weights and len(crowd.blobs.files()) == 2
    assert b"the weights 0 of zora" not in everything(crowd.folder)
    with pytest.raises(NotFoundError, match="no record 'zora-7'"):
        forget_record(crowd, TASK.name, "zora", "zora-7")


def test_with_the_last_record_the_adapters_go(store: Store) -> None:
    store.add_records(TASK.name, [history("zora", 1)])
    learn(store, 0, "zora")
    done = forget_record(store, TASK.name, "zora", "zora-0")
    assert (done.adapters, done.marked, done.blobs) == (1, 0, 1) and not store.adapters()


def test_an_adapter_that_learnt_from_what_was_forgotten_meanwhile_is_not_kept(crowd: Store) -> None:
    learnt, numbers = crowd.numbered_history(TASK.name, "zora")
    late = adapter(
        5, "zora", history=history_digest(learnt), upto=max(numbers.values()), blob=blob_name(b"late")
    )  # fmt: skip
    forget_record(crowd, TASK.name, "zora", "zora-3")
    with pytest.raises(NotFoundError, match="forgotten or changed while"):
        keep(crowd, late, b"late")
    forget_user(crowd, "zora")
    with pytest.raises(NotFoundError, match="forgotten or changed while"):
        keep(crowd, late, b"late")
    with pytest.raises(NotFoundError, match="forgotten or changed while"):
        crowd.add_base(BaseInfo("late", "/l", "2", 10, "adapted", TASK.name, "base"), [learnt])
    with pytest.raises(NotFoundError, match="changed while"):
        crowd.add_profile(ProfileInfo(TASK.name, "zora", "late", "counted", history_digest(learnt)))
    assert b"late" not in everything(crowd.folder / "blobs") and [b.name for b in crowd.bases()] == ["base", "adapted"]


def test_in_a_batch_each_adapter_stands_for_itself(crowd: Store) -> None:
    def late(number: int, user: str, **changes: object) -> tuple[AdapterInfo, bytes]:
        learnt, numbers = crowd.numbered_history(TASK.name, user)
        weights = f"late {number}".encode()
        return adapter(
            number, user, history=history_digest(learnt), upto=max(numbers.values()), blob=blob_name(weights), **changes
        ), weights

    stale, parent = late(5, "zora"), crowd.adapters(user="zora")[-1].id
    goes_on = late(6, "zora", parent=parent)
    forget_record(crowd, TASK.name, "zora", "zora-3")
    batch = [late(7, "bela"), stale, late(8, "zora"), goes_on, late(9, "zora", parent=parent)]
    told = crowd.add_adapters(batch)
    assert [error is None for error in told] == [True, False, True, False, False]  # 9: its parent learnt from it
    assert [a.id for a in crowd.adapters()] == ["a1", "a7", "a8"]  # zora's marked ones made room
    assert len(crowd.blobs.files()) == 3 and b"late 5" not in everything(crowd.folder / "blobs")


def test_a_text_that_is_somebody_elses_too_stays_theirs(store: Store) -> None:
    same = {"text": "Best regards and see you all on Monday", "title": "t"}
    store.add_records(TASK.name, [History(user, (Record(user, "1", same),)) for user in ("zora", "bela")])
    assert forget_user(store, "zora", verify=True).texts == 1
    assert store.history(TASK.name, "bela").records[0].fields == same


def test_what_was_stopped_midway_is_finished_by_the_same_call(crowd: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ownlm.store.forget.erase", stop)
        with pytest.raises(KeyboardInterrupt):
            forget_record(crowd, TASK.name, "bela", "bela-1")
        with pytest.raises(KeyboardInterrupt):
            forget_user(crowd, "zora")
    assert b"the weights 0 of zora" in everything(crowd.folder)
    with pytest.raises(NotFoundError):
        forget_user(crowd, "zoro")  # a slip of the pen finishes nobody else's
    assert len(_dues(crowd)) == 2
    assert forget_user(crowd, "zora").records == 0 and not _dues(crowd)  # whoever's are due, in the same pass
    for _ in range(2):
        after = everything(crowd.folder)
        assert not any(one in after for one in (b"zora wrote", b"the weights 0 of zora", b"bela wrote the 1th"))
        with pytest.raises(NotFoundError):
            forget_record(crowd, TASK.name, "bela", "bela-1")


def test_what_a_killed_process_left_is_removed_by_the_next_that_opens_the_home(
    crowd: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("ownlm.store.forget.erase", lambda *_: None)
        forget_user(crowd, "zora")
    assert b"zora wrote" in everything(crowd.folder) and len(_dues(crowd)) == 1
    resume(Store(crowd.folder))
    assert not _dues(crowd)
    assert not any(one in everything(crowd.folder) for one in (b"zora", b"weights 0"))


def test_who_only_reads_waits_for_no_large_database_to_be_rewritten(
    crowd: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("ownlm.store.forget.erase", lambda *_: None)
        forget_user(crowd, "zora")
    monkeypatch.setattr("ownlm.store.forget.QUICK_BYTES", 1000)
    assert [person.user for person in Home(crowd.folder).histories()] == ["bela"]
    assert len(_dues(crowd)) == 1 and b"zora wrote" in everything(crowd.folder)
    lines = crowd.folder.parent / "more.jsonl"
    lines.write_text(json.dumps({"user_id": "ciro", "text": "one more text", "title": "t"}), "utf8")
    Home(crowd.folder).add_history(lines, TASK.name)
    assert not _dues(crowd) and b"zora" not in everything(crowd.folder)


def _dues(store: Store) -> set[str]:
    with store.database.reading() as db:
        return dues(db)


def test_a_copy_in_the_home_is_told_before_anything_is_removed(crowd: Store) -> None:
    (crowd.folder / "notes").mkdir()
    copy = crowd.folder / "notes" / "mail.txt"
    copy.write_text(f"He said: {texts('zora')[11]}", "utf8")
    for _ in range(2):
        with pytest.raises(StoreError, match="nothing was removed"):
            forget_user(crowd, "zora")
    assert len(crowd.history(TASK.name, "zora")) == 40
    copy.unlink()
    forget_user(crowd, "zora")


def test_a_label_that_others_may_give_too_is_no_trace(store: Store) -> None:
    labels = ("Wissenschaft für Anfänger", "Politik und Gesellschaft")
    task = TASK.model_copy(update={"name": "labelled", "labels": labels})
    store.put_task(task)
    record = Record("zora", "1", {"text": "a text of zora's own", "title": labels[0]})
    store.add_records("labelled", [History("zora", (record,))])
    assert forget_user(store, "zora", verify=True).texts == 2


def test_a_base_made_from_one_that_learnt_has_learnt_too(crowd: Store) -> None:
    crowd.add_base(BaseInfo("deeper", "/d", "3", 10, "adapted", TASK.name, "adapted"), [history("bela")])
    assert forget_user(crowd, "zora").bases == ("adapted", "deeper")
    assert forget_user(crowd, "bela").bases == ("deeper",)
    assert [crowd.base(name).forgotten for name in ("base", "adapted", "deeper")] == [0, 1, 2]


def test_what_was_forgotten_stays_out_until_it_is_wanted_again(store: Store) -> None:
    people = [history("zora", 3), history("bela", 2)]
    store.add_records(TASK.name, people)
    forget_record(store, TASK.name, "zora", "zora-1")
    forget_user(store, "bela")
    assert store.add_records(TASK.name, people) == (0, 2, 3)
    assert [(p.user, p.records) for p in store.histories()] == [("zora", 2)]
    assert store.add_records(TASK.name, people[:1], again=True) == (1, 2, 0)
    assert store.add_records(TASK.name, people) == (0, 3, 2)
    assert b"bela" not in everything(store.folder)


def test_numbers_of_forgotten_records_are_not_given_again(store: Store) -> None:
    store.add_records(TASK.name, [history("zora", 3)])
    before = max(store.numbered_history(TASK.name, "zora")[1].values())
    forget_record(store, TASK.name, "zora", "zora-2")
    store.add_records(TASK.name, [history("zora", 3)], again=True)
    assert store.numbered_history(TASK.name, "zora")[1]["zora-2"] > before


def test_a_reader_who_stays_is_not_waited_for_long_and_what_it_keeps_is_removed_later(crowd: Store) -> None:
    other = Store(crowd.folder)
    with other.database.reading() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM records").scalar() == 80
        done = forget_user(crowd, "zora", patience_s=0)
        assert done.records == 40 and "another process" in (done.unfinished or "")
        resume(Store(crowd.folder))
        assert len(_dues(crowd)) == 1 and b"zora wrote" in everything(crowd.folder)
        assert db.exec_driver_sql("SELECT count(*) FROM records").scalar() == 80
    forget_record(crowd, TASK.name, "bela", "bela-3")  # the next pass takes it along
    assert not _dues(crowd) and b"zora" not in everything(crowd.folder)


def test_searching_the_files_lets_no_other_process_take_the_database_for_its_own(crowd: Store) -> None:
    """The last process to leave a database removes its log; who still has connections must not lose theirs."""
    look = [*OWNLM, "history", "ls", "--json", "--home", str(crowd.folder)]
    (crowd.folder / "a note").write_text("of no importance", "utf8")
    forget_record(crowd, TASK.name, "zora", "zora-0")
    subprocess.run(look, check=True, capture_output=True)
    assert (crowd.folder / "ownlm.db-wal").exists()
    crowd.add_records(TASK.name, [history("new", 3)])
    told = json.loads(subprocess.run(look, check=True, capture_output=True).stdout)
    assert "new" in json.dumps(told)


def test_files_that_cannot_be_searched(crowd: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = crowd.folder / "no file\n"
    strange.symlink_to("/proc/self/mem")  # which is there, and cannot be read
    before = crowd.history(TASK.name, "zora")
    with pytest.raises(StoreError, match="cannot be searched; nothing was removed") as caught:
        forget_user(crowd, "zora")
    assert "no file" in str(caught.value) and "secret" not in str(caught.value)
    assert crowd.history(TASK.name, "zora") == before
    strange.unlink()
    monkeypatch.setattr("ownlm.programs.PYTHON", "/bin/false")
    done = forget_record(crowd, TASK.name, "zora", "zora-5")
    assert done.records == 1 and "cannot be cleaned" in (done.unfinished or "") and len(_dues(crowd)) == 1
    monkeypatch.undo()
    resume(crowd)  # what was due
    assert not _dues(crowd) and b"zora wrote the 5th" not in everything(crowd.folder)
