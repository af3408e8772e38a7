"""Opening a home: old formats, newer ones, read-only ones; full disks; several processes."""

import json
import multiprocessing
import os
import resource
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from ownlm.errors import StoreError
from ownlm.history.record import History, Record
from ownlm.store import tables
from ownlm.store.drafts import drafts
from ownlm.store.pools import consents, pools, users_of
from ownlm.store.rows import AdapterInfo
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
_2_AND_3 = """
CREATE TABLE meta ("key" VARCHAR NOT NULL, value VARCHAR NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE bases (number INTEGER NOT NULL, name VARCHAR NOT NULL, folder VARCHAR NOT NULL, fingerprint VARCHAR
    NOT NULL, parameters INTEGER NOT NULL, source VARCHAR NOT NULL, task VARCHAR, parent VARCHAR, provenance JSON,
    forgotten INTEGER DEFAULT '0' NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (number), UNIQUE (name));
CREATE TABLE tasks (name VARCHAR NOT NULL, spec VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE outsiders (base VARCHAR NOT NULL, user VARCHAR NOT NULL, PRIMARY KEY (base, user),
    FOREIGN KEY(base) REFERENCES bases (name));
CREATE TABLE records (number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task VARCHAR NOT NULL, user VARCHAR NOT NULL,
    id VARCHAR NOT NULL, time VARCHAR, fields JSON NOT NULL, digest VARCHAR NOT NULL, UNIQUE (task, user, id),
    FOREIGN KEY(task) REFERENCES tasks (name));
CREATE TABLE profiles (number INTEGER NOT NULL, task VARCHAR NOT NULL, user VARCHAR NOT NULL, text VARCHAR NOT NULL,
    writer VARCHAR NOT NULL, history VARCHAR NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (number),
    FOREIGN KEY(task) REFERENCES tasks (name));
CREATE INDEX profiles_by_user ON profiles (task, user, number);
"""
FORMAT_2 = f"""{_2_AND_3}
CREATE TABLE adapters (number INTEGER NOT NULL, id VARCHAR NOT NULL, user VARCHAR NOT NULL, task VARCHAR NOT NULL,
    base VARCHAR NOT NULL, base_fingerprint VARCHAR NOT NULL, "key" VARCHAR NOT NULL, history VARCHAR NOT NULL,
    records INTEGER NOT NULL, upto INTEGER NOT NULL, parent VARCHAR, forgotten INTEGER DEFAULT '0' NOT NULL,
    blob VARCHAR NOT NULL, bytes INTEGER NOT NULL, method VARCHAR DEFAULT 'lora' NOT NULL, shape JSON NOT NULL,
    provenance JSON NOT NULL, steps INTEGER NOT NULL, tokens INTEGER NOT NULL, loss_first FLOAT NOT NULL,
    loss_last FLOAT NOT NULL, seconds FLOAT NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (number), UNIQUE (id),
    FOREIGN KEY(task) REFERENCES tasks (name), FOREIGN KEY(base) REFERENCES bases (name));
CREATE INDEX adapters_by_user ON adapters (task, user, number);
INSERT INTO meta VALUES ('version', '2');
INSERT INTO bases VALUES (1, 'base', '/b', 'f', 10, 'folder', NULL, NULL, NULL, 0, '2026');
"""
FORMAT_3 = f"""{_2_AND_3}
CREATE TABLE adapters (number INTEGER NOT NULL, id VARCHAR NOT NULL, user VARCHAR NOT NULL, task VARCHAR NOT NULL,
    base VARCHAR NOT NULL, base_fingerprint VARCHAR NOT NULL, "key" VARCHAR NOT NULL, history VARCHAR NOT NULL,
    records INTEGER NOT NULL, upto INTEGER NOT NULL, parent VARCHAR, forgotten INTEGER DEFAULT '0' NOT NULL,
    blob VARCHAR, bytes INTEGER NOT NULL, method VARCHAR DEFAULT 'lora' NOT NULL, shape JSON NOT NULL,
    provenance JSON NOT NULL, steps INTEGER NOT NULL, tokens INTEGER NOT NULL, loss_first FLOAT, loss_last FLOAT,
    seconds FLOAT NOT NULL, created VARCHAR NOT NULL, recipe BLOB, pool VARCHAR, stale VARCHAR, PRIMARY KEY (number),
    UNIQUE (id), FOREIGN KEY(task) REFERENCES tasks (name), FOREIGN KEY(base) REFERENCES bases (name));
CREATE INDEX adapters_by_user ON adapters (task, user, number);
CREATE TABLE pools (number INTEGER NOT NULL, digest VARCHAR NOT NULL, task VARCHAR NOT NULL, base VARCHAR NOT NULL,
    base_fingerprint VARCHAR NOT NULL, version INTEGER NOT NULL, parent VARCHAR, folder VARCHAR NOT NULL,
    sharers INTEGER NOT NULL, own BOOLEAN NOT NULL, provenance JSON NOT NULL, created VARCHAR NOT NULL,
    PRIMARY KEY (number), UNIQUE (digest), FOREIGN KEY(task) REFERENCES tasks (name),
    FOREIGN KEY(base) REFERENCES bases (name));
CREATE TABLE consents (user VARCHAR NOT NULL, licence VARCHAR NOT NULL, created VARCHAR NOT NULL, PRIMARY KEY (user));
CREATE TABLE sharers (id VARCHAR NOT NULL, task VARCHAR NOT NULL, user VARCHAR NOT NULL, pool VARCHAR NOT NULL,
    created VARCHAR NOT NULL, PRIMARY KEY (id), FOREIGN KEY(task) REFERENCES tasks (name),
    FOREIGN KEY(pool) REFERENCES pools (digest));
INSERT INTO meta VALUES ('version', '3');
INSERT INTO bases VALUES (1, 'base', '/b', 'f', 10, 'folder', NULL, NULL, NULL, 0, '2026');
INSERT INTO consents VALUES ('ada', 'CC0', '2026');
"""


def tables_in(path: Path) -> dict[str, object]:
    """What a database's tables and indexes are like, but for the order of columns and how defaults are spelt."""
    with sqlite3.connect(path) as db:
        return {
            table: (
                {
                    (name, kind, needed, key)
                    for _, name, kind, needed, _, key in db.execute(f"PRAGMA table_info({table})")
                },
                {row[2:5] for row in db.execute(f"PRAGMA foreign_key_list({table})")},
                {
                    (unique, *(column for _, _, column in db.execute(f"PRAGMA index_info({name})")))
                    for _, name, unique, _, _ in db.execute(f"PRAGMA index_list({table})")
                },
            )
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }


def check_up_to_date(store: Store) -> None:
    """The store's tables are those of a home made now, it holds no loose reference, and opens again."""
    assert tables_in(store.database.path) == tables_in(Store(store.folder / "fresh").database.path)
    with store.database.reading() as db:
        assert db.exec_driver_sql("SELECT value FROM meta WHERE key = 'version'").scalar() == str(tables.VERSION)
        assert db.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    Store(store.folder)


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
    check_up_to_date(store)


def test_a_home_of_format_2_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ownlm.db") as db:
        db.executescript(FORMAT_2)
        db.execute("INSERT INTO tasks VALUES (?, ?)", (TASK.name, TASK.model_dump_json()))
        for number, name in ((3, "a"), (8, "b")):
            db.execute(
                "INSERT INTO adapters VALUES (?, ?, 'ada', ?, 'base', 'f', 'k', 'h', 3, 30, 'p', 1, 'blob', 7, 'ia3',"
                " '{\"r\": 8}', '{\"seed\": 1}', 4, 5, 2.0, 1.0, 0.5, '2026')",
                (number, name, TASK.name),
            )
    db.close()
    store = Store(tmp_path)
    expected = AdapterInfo(
        "b", "ada", TASK.name, "base", "f", "k", "h", 3, 30, "blob", 7, {"r": 8}, {"seed": 1}, 4, 5, 2.0, 1.0, 0.5,
        method="ia3", parent="p", forgotten=1, created="2026",
    )  # fmt: skip
    assert store.adapters() == [replace(expected, id="a"), expected]
    assert store.latest_adapters() == {(TASK.name, "ada"): expected}
    assert pools(store) == [] and consents(store) == {}
    check_up_to_date(store)


def test_a_home_of_format_3_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ownlm.db") as db:
        db.executescript(FORMAT_3)
        db.execute("INSERT INTO tasks VALUES (?, ?)", (TASK.name, TASK.model_dump_json()))
        made_with = "'f', 1, NULL, '/p', 1, 1, '{}', '2026'"
        db.execute(f"INSERT INTO pools VALUES (1, 'p1', ?, 'base', {made_with})", (TASK.name,))
        db.execute("INSERT INTO sharers VALUES ('id-a', ?, 'ada', 'p1', '2026')", (TASK.name,))
    db.close()
    store = Store(tmp_path)
    assert consents(store) == {"ada": ("CC0", "2026")} and users_of(store, pool="p1") == {"id-a": "ada"}
    assert drafts(store) == []
    check_up_to_date(store)


def test_a_stopped_change_of_format_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "ownlm.db") as db:
        db.executescript(FORMAT_2)
    db.close()
    before = tables_in(tmp_path / "ownlm.db")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tables.sharers, "create", stop)
        with pytest.raises(KeyboardInterrupt):
            Store(tmp_path)
    assert tables_in(tmp_path / "ownlm.db") == before
    check_up_to_date(Store(tmp_path))


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
    assert [p.user for p in opened.histories()] == ["ada"]
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
    assert [(p.user, p.records) for p in again.histories()] == [("bela", 1)]
    assert again.adapters() == [] and again.sweep() == 0


def test_two_who_make_the_same_home_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=Store, args=(tmp_path / "home",)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert Store(tmp_path / "home").histories() == []


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(path.stat().st_mode & 0o7777) for path in (folder, *folder.iterdir())}


@pytest.mark.parametrize("existing", [0o755, 0o777, 0o700, None])
def test_a_home_is_its_owners_alone(tmp_path: Path, existing: int | None) -> None:
    """Also where the folder was there before, with the mode that a folder usually has."""
    folder, before = tmp_path / "home", os.umask(0o022)
    try:
        if existing is not None:
            folder.mkdir()
            folder.chmod(existing)
        store = Store(folder)
        store.put_task(TASK)
        store.blobs.put([b"weights"])
        found = modes(folder)
        assert {found[name] for name in ("ownlm.db", "ownlm.db-wal", "ownlm.db-shm")} == {"0o600"}
        assert found["home"] == "0o700"
    finally:
        os.umask(before)


def test_a_home_that_was_open_is_closed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(tmp_path / "home").blobs.put([b"weights"])
    assert caplog.messages == []
    for path in (tmp_path / "home", tmp_path / "home" / "blobs", tmp_path / "home" / "ownlm.db"):
        path.chmod(0o755)
    Store(tmp_path / "home")
    assert all(mode in ("0o700", "0o600") for name, mode in modes(tmp_path / "home").items() if "lock" not in name)
    (said,) = caplog.messages
    assert "was open to other users" in said
    Store(tmp_path / "home")
    assert len(caplog.messages) == 1


def test_a_home_shared_with_a_group_stays_so(tmp_path: Path) -> None:
    Store(tmp_path / "home")
    (tmp_path / "home").chmod(0o2775)
    (tmp_path / "home" / "ownlm.db").chmod(0o664)
    Store(tmp_path / "home")
    assert modes(tmp_path / "home")["home"] == "0o2770" and modes(tmp_path / "home")["ownlm.db"] == "0o660"


def test_a_folder_that_is_more_than_a_home_stays_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A project's folder with `--home .`: what is the home's is closed, and nothing else."""
    (tmp_path / "project").mkdir(mode=0o755)
    (tmp_path / "project" / "README").write_text("x")
    (tmp_path / "project" / "README").chmod(0o644)
    Store(tmp_path / "project")
    found = modes(tmp_path / "project")
    assert (found["project"], found["README"], found["ownlm.db"]) == ("0o755", "0o644", "0o600")
    assert caplog.messages == []
