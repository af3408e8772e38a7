"""The SQLite database of a home: created, migrated, opened for reading or writing."""

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    Connection,
    Engine,
    QueuePool,
    Select,
    create_engine,
    event,
    insert,
    inspect,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError

from ownlm.durable import sync
from ownlm.errors import StoreBusyError, StoreError
from ownlm.filesystem import make_private, read_regular
from ownlm.progress import Progress
from ownlm.store import tables
from ownlm.store.rows import now
from ownlm.store.withdrawals import mark_waiting

log = logging.getLogger("ownlm.store")

DATABASE = "ownlm.db"
ERASING_LOCK = "erasing.lock"
HOME_FILES = (  # any other file in the folder does not belong to the home
    *(f"{prefix}{DATABASE}{suffix}" for prefix in ("", ".") for suffix in ("", "-wal", "-shm", "-journal", ".lock")),
    *("blobs", "bases", "pools", "served", "work.lock", "work.json", "serve.lock", "profiles.json", "signing.key"),
    ERASING_LOCK,
)
BUSY_S = 30  # a statement's wait for other processes
MOMENT_S, LONGEST_MOMENT_S = 0.2, 0.8  # for how long an attempt to empty the log blocks writers: at first, at most
POLL_S = 0.02  # between attempts
WORK_LOCK, WORK_NOTE, WORK_POLL_S = "work.lock", "work.json", 0.5
_PRAGMAS = (  # deleted rows are overwritten, and sorting leaves no temporary file
    "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "temp_store=MEMORY",
)  # fmt: skip
_HINT = "check that the folder is a home, can be written, and has room"
_HINTS = {  # by what SQLite says
    "locked": "another process is writing; end it, or give the same command again when it is done",
    "unable to open": "if it is a copy of a home in use, make it writable once, so that its log can be read",
}


class Database:
    """The SQLite database of one home, with transactions for reading and for writing.

    Writing transactions are serialised from their first statement on, so a transaction's reads stay true until it
    commits. Readers never wait.

    Args:
        folder: the home; made if it is missing.

    Raises:
        StoreError: the folder is not a home, cannot be used, or was written by a newer ownlm.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / DATABASE
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (existed := self.path.exists()):
                self._make()
        except OSError as error:
            raise StoreError(f"The home {folder} cannot be used", got=error, hint="choose another folder") from None
        self.read_only = not (os.access(folder, os.W_OK) and os.access(self.path, os.W_OK))
        self._engine = _engine(self.path, self.read_only)
        self._writer = threading.Lock()  # SQLite polls, and may starve a writer; a lock does not
        self.erasing, self.to_erase = threading.Lock(), list[Any]()  # see `erasing.leftovers`
        self._bring_up_to_date()
        if not self.read_only:
            self._close_to_others(existed)

    def _close_to_others(self, existed: bool) -> None:
        """Removes other users' access to the folder, which another program may have created."""
        with suppress(OSError):  # a file system without modes
            if make_private(self.folder, HOME_FILES) and existed:
                log.warning("The home %s was open to other users; now only its owner has access", self.folder)

    def _make(self) -> None:
        """Creates the database under another name first, so that it appears whole."""
        new = self.folder / f".{DATABASE}"
        with FileLock(self.folder / f"{DATABASE}.lock"):
            if self.path.exists():
                return
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # SQLite gives its log the same mode
            engine = _engine(new, read_only=False)
            try:
                with self._errors(), engine.begin() as db:
                    tables.metadata.create_all(db)
                    db.execute(insert(tables.meta).values(key="version", value=str(tables.VERSION)))
            finally:
                engine.dispose()  # closing the last connection moves the log into the file
            sync(new)
            new.rename(self.path)
            sync(self.folder)

    def _bring_up_to_date(self) -> None:
        """Migrates an older format; refuses a newer one, unchanged."""
        with self.reading() as db:
            version = _version(db)
        if version == tables.VERSION:
            return
        self._check(version)
        with self.writing() as db:
            if (version := _version(db)) is not None and version < tables.VERSION:  # no other process was quicker
                tables.migrate(db, version)
                mark_waiting(db)
                db.execute(update(tables.meta).values(value=str(tables.VERSION)).where(tables.meta.c.key == "version"))

    def _check(self, version: int | None) -> None:
        """Raises a StoreError where the database is not a home's, is newer, or is older and read-only."""
        home = f"The home {self.folder}"
        if version is None:
            raise StoreError(f"The database {self.path} is no home's", hint="choose another folder")
        expected, got = f"format {tables.VERSION}", f"format {version}"
        if version > tables.VERSION:
            hint = "install that version, or choose another home"
            raise StoreError(f"{home} was written by a newer version of ownlm", got=got, expected=expected, hint=hint)
        if self.read_only:
            hint = "make it writable once, so that it can be brought up to date"
            raise StoreError(f"{home} has an older format and is read-only", got=got, expected=expected, hint=hint)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the home, regardless of concurrent writes."""
        with self._errors(), self._engine.begin() as db:
            yield db

    def rows(self, query: Select[Any]) -> Sequence[Any]:
        """The rows of a query, in a transaction of its own."""
        with self.reading() as db:
            return db.execute(query).all()

    def first(self, query: Select[Any]) -> Any:
        """The first row of a query; None where there is none."""
        with self.reading() as db:
            return db.execute(query).first()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, atomically.

        Raises:
            StoreError: the home is read-only, or the disk full.
        """
        if self.read_only:
            raise StoreError(
                f"The home {self.folder} can be read, not written", hint="make it writable, or work on a copy of it"
            )
        with self._errors(), self._writer, self._engine.execution_options(writing=True).begin() as db:
            yield db

    def truncate_log(self, patience_s: float = BUSY_S) -> None:
        """Moves the write-ahead log into the database, and empties it.

        Each attempt blocks writers for a moment only.

        Raises:
            StoreBusyError: another process kept writing, or reading an old state.
        """
        until = time.monotonic() + patience_s
        moment_s = MOMENT_S
        with self._errors(), self._impatient(moment_s) as cursor:
            while True:
                if self._writer.acquire(timeout=max(0.0, until - time.monotonic())):
                    try:
                        _wait_for_others(cursor, moment_s)
                        if not cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                            return
                    finally:
                        self._writer.release()
                if time.monotonic() >= until:
                    raise StoreBusyError(
                        f"Deleted text is still in the log of {self.path}: another process is using it",
                        hint="end that process; the next command that writes to this home removes it",
                    )
                time.sleep(POLL_S)
                moment_s = min(2 * moment_s, LONGEST_MOMENT_S)  # under load, even short reads overlap

    def vacuum(self, patience_s: float = BUSY_S) -> None:
        """Rewrites the file without deleted rows, and empties the write-ahead log.

        Raises:
            StoreBusyError: another process kept writing, or reading an old state.
        """
        with self._errors(), self._writer, self._impatient(patience_s) as cursor:
            cursor.execute("PRAGMA temp_store=FILE")  # the copy may be too large for the memory
            cursor.execute("VACUUM")
        self.truncate_log(patience_s)

    @contextmanager
    def _impatient(self, wait_s: float) -> Iterator[Any]:
        """A connection with another busy timeout."""
        connection = self._engine.raw_connection()
        try:
            cursor = connection.cursor()
            _wait_for_others(cursor, wait_s)
            yield cursor
        finally:
            for pragma in (f"busy_timeout={round(BUSY_S * 1000)}", "temp_store=MEMORY"):
                connection.cursor().execute(f"PRAGMA {pragma}")
            connection.close()

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Converts errors of the database to StoreErrors."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            said = str(error.orig if isinstance(error, DBAPIError) else error)
            hint = next((hint for part, hint in _HINTS.items() if part in said), _HINT)
            kind = StoreBusyError if "locked" in said else StoreError
            raise kind(f"The database of the home {self.folder} cannot be used", got=said, hint=hint) from None


def _wait_for_others(cursor: Any, wait_s: float) -> None:
    cursor.execute(f"PRAGMA busy_timeout={round(wait_s * 1000)}")


def _version(db: Connection) -> int | None:
    if not inspect(db).has_table("meta"):
        return None
    version = db.execute(select(tables.meta.c.value).where(tables.meta.c.key == "version")).scalar()
    return int(version) if version else None


def _holds(fields: str, wanted: str) -> bool:
    """SQL function: whether one of a record's fields (JSON) contains a casefolded text."""
    return any(wanted in value.casefold() for value in json.loads(fields).values())


def _engine(path: Path, read_only: bool) -> Engine:
    def connect() -> sqlite3.Connection:
        connection = open_file()
        connection.create_function("holds", 2, _holds, deterministic=True)
        return connection

    def open_file() -> sqlite3.Connection:
        if not read_only:
            connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            return connection
        # Without a writable folder, SQLite reads a WAL database only as immutable; but then it ignores an existing log.
        log = path.with_name(f"{path.name}-wal")
        alone = "" if log.exists() and log.stat().st_size else "&immutable=1"
        return sqlite3.connect(f"{path.as_uri()}?mode=ro{alone}", uri=True, timeout=BUSY_S, check_same_thread=False)

    # waiting writers hold connections, and readers must not wait for them
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, max_overflow=-1)

    @event.listens_for(engine, "begin")
    def _(db: Any) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writing") else "BEGIN")

    return engine


# The lock of the one process that trains in a home


@contextmanager
def working(folder: Path, what: str, progress: Progress) -> Iterator[None]:
    """Holds the lock for training in a home, after waiting for it. Reading, adding and most deletions need no lock.

    Args:
        folder: the home.
        what: command shown to processes that wait, such as "ownlm train".
        progress: reports which process holds the lock.

    Raises:
        StoreError: the home is read-only.
    """
    lock, note = FileLock(folder / WORK_LOCK), folder / WORK_NOTE
    try:
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                progress("waiting", 0, 0, f"for {_other(note)}")
                time.sleep(WORK_POLL_S)
    except OSError as error:
        raise StoreError(
            f"The home {folder} cannot be worked in", got=error.strerror, hint="make it writable"
        ) from None
    try:
        with suppress(OSError):  # such as a full disk; the note is not essential
            note.write_text(json.dumps({"process": os.getpid(), "what": what, "since": now()}), "utf8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Tries to take the lock: True if no process trains, and then none begins during the block."""
    lock = FileLock(folder / WORK_LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # a process trains; or the home is read-only
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def at_work(folder: Path) -> str | None:
    """The process that trains in a home, in words; None where there is none."""
    with alone(folder) as idle:
        return None if idle or not (folder / WORK_NOTE).exists() else _other(folder / WORK_NOTE)


def _other(note: Path) -> str:
    """The process that wrote the note, in words."""
    try:
        known = json.loads(read_regular(note))
        return f"`{known['what']}`, process {known['process']}, at work in this home since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, at work in this home"
