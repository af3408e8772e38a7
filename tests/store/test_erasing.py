"""What deleted rows leave in files: where it lies, that it is removed, and that deletions share a pass."""

import json
import random
import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import CopyError, StoreError
from ownlm.store.database import Database
from ownlm.store.erasing import leftovers, traces
from ownlm.store.erasing.copies import files_with_records
from ownlm.store.erasing.leftovers import Leftover, dues, erase
from ownlm.store.forget import forget_record, forget_user
from ownlm.store.store import Store
from ownlm.store.tokens import give_token
from tests.store.rows import TASK
from tests.store.test_forget import crowd, everything, texts  # noqa: F401

USERS = [f"user{number}" for number in range(9)]
MARK = re.compile(rb"<(\d{5})>")


def marked(number: int, letters: int) -> str:
    return f"<{number:05}> " + "x" * letters


def churned(store: Store, draw: random.Random, deletions: int) -> set[int]:
    """Adds records of many users and deletes others of them, as SQLite does it; returns the numbers of those left."""
    store.put_task(TASK)
    there, insert = list[int](), "INSERT INTO records (task, user, id, fields, digest) VALUES (?, ?, ?, ?, 'd')"
    with store.database.writing() as db:
        run = db.connection.cursor().execute
        for number in range(deletions + 400):
            fields = json.dumps({"text": marked(number, draw.randint(9, 700)), "title": "t"})
            run(insert, (TASK.name, draw.choice(USERS), f"<{number:05}>", fields))
            there.append(number)
            if number >= 400:
                run(
                    "DELETE FROM records WHERE id = ? AND number > 0",
                    (f"<{there.pop(draw.randrange(len(there))):05}>",),
                )
    store.database.truncate_log()
    return set(there)


def in_unused_parts(store: Store, numbers: set[int]) -> set[int]:
    needles = [tuple(f"{user}<{number:05}>".encode() for user in USERS) for number in numbers]
    hits = traces.found([store.database.path], needles, unused=True)
    return {int(MARK.findall(needle[0])[0]) for _, found in hits for needle in found}


def numbers_in(content: bytes) -> set[int]:
    return {int(number) for number in MARK.findall(content)}


def user_of(store: Store, number: int) -> str:
    with store.database.reading() as db:
        return str(db.exec_driver_sql("SELECT user FROM records WHERE id = ?", (f"<{number:05}>",)).scalar())


def test_what_sqlite_leaves_of_deleted_rows_lies_in_unused_parts_of_pages(store: Store) -> None:
    """If this fails, SQLite has changed, and `leftovers` looks in the wrong place."""
    left = churned(store, random.Random(2), 3000)
    deleted = numbers_in(store.database.path.read_bytes()) - left
    assert deleted and deleted == in_unused_parts(store, deleted)


def test_copies_that_sqlite_has_made_of_a_row_go_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = sorted(in_unused_parts(store, churned(store, random.Random(3), 400)))
    first, second = copied[:2]
    with monkeypatch.context() as patched:  # zeros and an empty log alone do not do it
        patched.setattr(leftovers, "_is_left", lambda *_: False)
        forget_record(store, TASK.name, user_of(store, first), f"<{first:05}>")
    assert first in numbers_in(everything(store.folder))
    user = user_of(store, second)
    forget_record(store, TASK.name, user, f"<{second:05}>")
    assert not {first, second} & numbers_in(everything(store.folder))
    forget_user(store, user)
    assert user.encode() not in everything(store.folder)


def test_a_database_is_not_rewritten_for_a_row_of_which_there_is_no_copy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = churned(store, random.Random(4), 400)
    single = sorted(left - in_unused_parts(store, left))
    before = in_unused_parts(store, left)
    monkeypatch.setattr(Database, "vacuum", lambda *_: pytest.fail("rewritten"))
    for number in single[-2:]:
        forget_record(store, TASK.name, user_of(store, number), f"<{number:05}>")
    assert before and not set(single[-2:]) & numbers_in(everything(store.folder))


@pytest.mark.parametrize("left", [False, True])
def test_a_short_name_is_looked_for_too(store: Store, monkeypatch: pytest.MonkeyPatch, left: bool) -> None:
    store.put_task(TASK)
    with store.database.writing() as db:
        insert = "INSERT INTO records (task, user, id, fields, digest) VALUES (?, 'bo', 'first', '{}', 'd')"
        db.exec_driver_sql(insert, (TASK.name,))
    give_token(store, "bo")
    looked: list[list[bytes]] = []
    rewritten: list[bool] = []

    def found(_: Any, needles: list[tuple[bytes]], unused: bool = False) -> list[tuple[Path, set[tuple[bytes]]]]:
        if unused:
            looked.append([needle for (needle,) in needles])
        return [(store.database.path, {(b"bo",)})] if left and unused else []

    monkeypatch.setattr(traces, "found", found)
    monkeypatch.setattr(Database, "vacuum", lambda *_: rewritten.append(True))
    forget_user(store, "bo")
    assert b"bo" in looked[-1] and bool(rewritten) == left


@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_pages_of_any_size_are_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "one.db"
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute(f"PRAGMA page_size={size}")
        db.execute("PRAGMA secure_delete=OFF")
        db.execute("CREATE TABLE t (text)")
        db.executemany("INSERT INTO t VALUES (?)", [(marked(n, 20),) for n in range(9)])
        db.execute("DELETE FROM t WHERE text LIKE '<00008>%'")  # the last to come: what it leaves is no longer a cell
    db.close()
    needles = [(f"<{number:05}> x".encode(),) for number in range(9)]
    ((_, found),) = traces.found([path], needles, unused=True)
    assert found == {needles[8]}
    ((_, found),) = traces.found([path], needles)
    assert found == set(needles)


def test_few_and_many_needles_are_found_alike_wherever_they_stand(tmp_path: Path) -> None:
    draw, block = random.Random(1), 2**20
    content = bytearray(draw.randbytes(2 * block + 77))
    needles = [(draw.randbytes(5 if at == 3 else draw.randint(8, 48)),) for at in range(200)]
    places = [0, 51, 103, block - 5, block + 50, 2 * block - 24, 2 * block + 25]
    for needle, place in zip(needles, places, strict=False):
        content[place : place + len(needle[0])] = needle[0]
    path = tmp_path / "file"
    path.write_bytes(content)
    for some in (needles[:20], needles):
        ((_, found),) = traces.found([path], some)
        assert found == {needle for needle in some if needle[0] in content} and len(found) == len(places)


def test_deletions_that_come_together_share_a_pass(crowd: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    genuine, passes, began, go = leftovers._clean, list[int](), threading.Event(), threading.Event()

    def slow(store: Store, patience_s: float, batch: list[Leftover]) -> None:
        passes.append(len(batch))
        began.set()
        assert go.wait(60)
        genuine(store, patience_s, batch)

    monkeypatch.setattr(leftovers, "_clean", slow)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(forget_record, crowd, TASK.name, "zora", "zora-0")
        assert began.wait(60)
        others = [threads.submit(forget_record, crowd, TASK.name, "zora", f"zora-{n}") for n in range(1, 8)]
        while len(dues_of(crowd)) < 8:  # all rows are gone, and wait for what they left
            pass
        go.set()
        assert all(one.result().unfinished is None for one in (first, *others))
    assert sum(passes) == 8 and len(passes) <= 3
    assert not dues_of(crowd) and b"zora wrote the 5th" not in everything(crowd.folder)


def dues_of(store: Store) -> set[str]:
    with store.database.reading() as db:
        return dues(db)


def test_what_failed_is_in_the_next_pass_and_an_interrupted_one_is_done_by_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[list[str]] = []

    def clean(store: Store, patience_s: float, batch: list[Leftover]) -> None:
        if batch[-1].due in ("one", "two"):
            raise StoreError("full") if batch[-1].due == "one" else KeyboardInterrupt
        done.append([one.due for one in batch])

    monkeypatch.setattr(leftovers, "_clean", clean)
    with pytest.raises(StoreError, match="full"):
        erase(store, Leftover("one"))
    with pytest.raises(KeyboardInterrupt):
        erase(store, Leftover("two"))
    erase(store, Leftover("three"))
    erase(store, Leftover("four"))
    assert done == [["one", "two", "three"], ["four"]]


def test_an_unexpected_exception_ends_one_pass_and_not_those_that_follow(
    crowd: Store,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = leftovers._pieces
    monkeypatch.setattr(leftovers, "_pieces", lambda image: genuine(image) if "zora" not in image else image.nonsense)
    with pytest.raises(AttributeError):
        forget_record(crowd, TASK.name, "zora", "zora-1")
    assert forget_record(crowd, TASK.name, "bela", "bela-1").unfinished is None
    assert not dues_of(crowd) and b"zora wrote the 1th" not in everything(crowd.folder)


def test_deletions_in_a_pass_with_an_unexpected_exception_are_unfinished(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go = threading.Event(), threading.Event()

    def clean(store: Store, patience_s: float, batch: list[Leftover]) -> None:
        began.set()
        assert go.wait(60)
        if "two" in [one.due for one in batch]:
            raise ZeroDivisionError

    monkeypatch.setattr(leftovers, "_clean", clean)
    with ThreadPoolExecutor(3) as threads:
        one = threads.submit(erase, store, Leftover("one"))
        assert began.wait(60)
        others = [threads.submit(erase, store, Leftover(name)) for name in ("two", "three")]
        while len(store.database.to_erase) < 3:
            pass
        go.set()
        assert one.result() is None
        assert {type(other.exception()) for other in others} == {ZeroDivisionError, StoreError}
    erase(store, Leftover("four"))


def test_a_kill_before_the_files_are_cleaned_leaves_the_note(crowd: Store) -> None:  # noqa: F811
    with pytest.raises(StoreError, match="cannot be cleaned"), pytest.MonkeyPatch.context() as patched:
        patched.setattr(traces, "found", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        erase(crowd, Leftover("forgetting x", images=["something long enough"]))


def test_files_that_hold_records_are_named_with_how_many(crowd: Store) -> None:  # noqa: F811
    assert files_with_records(crowd) == {}
    inside = crowd.folder / "data" / "people.jsonl"
    inside.parent.mkdir()
    inside.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts("zora", 5)), "utf8")
    (crowd.folder / "notes.txt").write_text("of no importance, and about nobody", "utf8")
    assert files_with_records(crowd) == {inside: 5}
    with pytest.raises(CopyError, match=r"people\.jsonl; nothing was removed"):
        forget_record(crowd, TASK.name, "zora", "zora-3")
    forget_record(crowd, TASK.name, "zora", "zora-30")
    assert len(crowd.history(TASK.name, "zora")) == 39
