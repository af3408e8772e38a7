"""Opening a home: old formats, newer ones, read-only ones; full disks; several processes."""

import json
import multiprocessing
import resource
import sqlite3
from pathlib import Path

import pytest

from ownlm.errors import StoreError
from ownlm.history.record import History, Record
from ownlm.store import tables
from ownlm.store.store import Store
from tests.store.rows import TASK, adapter, keep

FORMAT_1 = """
CREATE TABLE bases (number INTEGER NOT NULL, name VARCHAR NOT NULL, folder VARCHAR NOT NULL, fingerprint VARCHAR
    NOT NULL, parameters INTEGER NOT NULL, source VARCHAR NOT NULL, task VARCHAR, parent VARCHAR, provenance JSON,
    created VARCHAR NOT NULL, PRIMARY KEY (number), UNIQUE (name));
CREATE TABLE meta ("key" VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE tasks (name VARCHAR NOT NULL, spec VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE adapters (number INTEGER NOT NULL, id VARCHAR NOT NULL, user VARCHAR NOT NULL, task VARCHAR NOT NULL,
    base VARCHAR NOT NULL, base_fingerprint VARCHAR NOT NULL, "key" VARCHAR NOT NULL, history VARCHAR NOT NULL,
    records INTEGER NOT NULL, blob VARCHAR NOT NULL, bytes INTEGER NOT NULL, lora JSON NOT NULL, provenance JSON
    NOT NULL, steps INTEGER NOT NULL, tokens INTEGER NOT NULL, loss_first FLOAT NOT NULL, loss_last FLOAT NOT NULL,
    seconds FLOAT NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (number), UNIQUE (id),
    FOREIGN KEY(task) REFERENCES tasks (name), FOREIGN KEY(base) REFERENCES bases (name));
CREATE INDEX adapters_by_user ON adapters (task, user, number);
CREATE TABLE outsiders (base VARCHAR NOT NULL, user VARCHAR NOT NULL, PRIMARY KEY (base, user),
    FOREIGN KEY(base) REFERENCES bases (name));
CREATE TABLE records (number INTEGER NOT NULL, task VARCHAR NOT NULL, user VARCHAR NOT NULL, id VARCHAR NOT NULL,
    time VARCHAR, fields JSON NOT NULL, digest VARCHAR NOT NULL, PRIMARY KEY (number), UNIQUE (task, user, id),
    FOREIGN KEY(task) REFERENCES tasks (name));
INSERT INTO meta VALUES ('version', '1');
INSERT INTO bases VALUES (1, 'base', '/b', 'f', 10, 'folder', NULL, NULL, NULL, '2026');
"""


def test_a_home_of_format_1_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ownlm.db") as db:
        db.executescript(FORMAT_1)
        db.execute("INSERT INTO tasks VALUES (?, ?)", (TASK.name, TASK.model_dump_json()))
        for n in range(1, 6):
            db.execute(
                "INSERT INTO records VALUES (?, ?, 'ada', ?, NULL, ?, 'd')",
                (n * 10, TASK.name, f"r{n}", '{"text": "t"}'),
            )
        db.execute(
            "INSERT INTO adapters VALUES (1, 'a', 'ada', ?, 'base', 'f', 'k', 'h', 3, 'b', 7, '{\"r\": 8}', '{}', 4, 5,"
            " 2.0, 1.0, 0.5, '2026')",
            (TASK.name,),
        )
    db.close()
    store = Store(tmp_path)
    (old,) = store.adapters()
    assert (old.shape, old.method, old.upto, old.parent, old.forgotten, old.key) == ({"r": 8}, "lora", 30, None, 0, "")
    assert store.arrived_after(TASK.name, "ada", old.upto) == 2 and store.base("base").forgotten == 0
    assert store.latest_profiles(TASK.name) == {}
    with sqlite3.connect(tmp_path / "ownlm.db") as db:
        fresh = Store(tmp_path / "fresh")
        with sqlite3.connect(fresh.folder / "ownlm.db") as other:
            for table in tables.metadata.tables:
                assert {row[1] for row in db.execute(f"PRAGMA table_info({table})")} == {
                    row[1] for row in other.execute(f"PRAGMA table_info({table})")
                }
        assert db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() == ("2",)
    Store(tmp_path)


def test_a_newer_home_is_left_alone(store: Store) -> None:
    store.database.close()
    with sqlite3.connect(store.folder / "ownlm.db") as db:
        db.execute("UPDATE meta SET value = '99'")
    db.close()
    before = (store.folder / "ownlm.db").read_bytes()
    with pytest.raises(StoreError, match=r"newer version.*format 99"):
        Store(store.folder)
    assert (store.folder / "ownlm.db").read_bytes() == before


@pytest.mark.parametrize("log", [False, True])
def test_a_read_only_home_is_read_and_not_written(store: Store, log: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if log:
        other = store.database._engine.connect()  # while somebody holds the home open, the log stays
    store.add_records(TASK.name, [History("ada", (Record("ada", "1", {"text": "t"}),))])
    store.database.close()
    assert ((store.folder / "ownlm.db-wal").exists()) == log
    monkeypatch.setattr("os.access", lambda path, mode: False)
    opened = Store(store.folder)
    assert [p.user for p in opened.people()] == ["ada"]
    for write in (
        lambda: opened.put_task(TASK), lambda: keep(opened, adapter(1), b"w"), opened.sweep,
    ):  # fmt: skip
        with pytest.raises(StoreError, match="can be read, not written"):
            write()
    if log:
        other.close()


def test_a_full_disk_is_told_and_nothing_is_half_written(store: Store) -> None:
    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        opened = Store(store.folder)
        opened.add_records(TASK.name, [History("bela", (Record("bela", "1", {"text": "small"}),))])
        big = [Record("ada", str(n), {"text": "x" * 1000}) for n in range(500)]
        told = []
        for write in (
            lambda: opened.add_records(TASK.name, [History("ada", tuple(big))]),
            lambda: keep(opened, adapter(1), b"w" * 500_000),
        ):
            try:
                write()
            except StoreError as error:
                told.append(str(error))
        (store.folder / "told.json").write_text(json.dumps(told))

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    process.join()
    told = json.loads((store.folder / "told.json").read_text())
    assert len(told) == 2 and all("room" in one for one in told)
    again = Store(store.folder)
    assert [(p.user, p.records) for p in again.people()] == [("bela", 1)]
    assert again.adapters() == [] and again.sweep() == 0


def test_two_who_make_the_same_home_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=Store, args=(tmp_path / "home",)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert Store(tmp_path / "home").people() == []
