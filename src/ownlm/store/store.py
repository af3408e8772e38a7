"""The store of one home: tasks, records, bases, profiles and adapters in a database, and their weights as blobs."""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select, update

from ownlm.errors import AdapterError, BaseModelError, NotFoundError, StoreError, nearest, quoted
from ownlm.history.record import History, Record, in_order
from ownlm.history.task import Task
from ownlm.store import tables
from ownlm.store.blobs import Blobs
from ownlm.store.checkpoints import drop, owner_of
from ownlm.store.database import Database
from ownlm.store.records import (
    Bounds,
    clear_tombstone,
    conflicts,
    has_history,
    new_rows,
    of_users,
    tombstones,
    without_forgotten,
)
from ownlm.store.rows import CHOSEN, AdapterInfo, BaseInfo, HistoryInfo, ProfileInfo, digest_of, history_digest
from ownlm.store.tables import narrowed, without_number
from ownlm.store.withdrawals import is_kept, mark_made


class Store:
    """The database and the blobs of one home. A blob that no row names counts as deleted.

    Args:
        folder: the home; made if it is missing.

    Raises:
        StoreError: the folder is no home, cannot be used, or was written by a newer ownlm.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        self.database = Database(folder)

    # Tasks

    def put_task(self, task: Task) -> None:
        """Stores a task under its name, in place of its earlier version."""
        spec = task.model_dump_json()
        with self.database.writing() as db:
            if db.execute(update(tables.tasks).where(tables.tasks.c.name == task.name).values(spec=spec)).rowcount == 0:
                db.execute(insert(tables.tasks).values(name=task.name, spec=spec))

    def task(self, name: str) -> Task | None:
        """The task of that name; None where the home has none."""
        row = self.database.first(select(tables.tasks.c.spec).where(tables.tasks.c.name == name))
        return None if row is None else Task.model_validate_json(row.spec)

    def tasks(self) -> list[str]:
        """Names of the home's tasks."""
        return [row.name for row in self.database.rows(select(tables.tasks.c.name).order_by(tables.tasks.c.name))]

    # Records

    def add_records(
        self, task: str, histories: Iterable[History], again: bool = False, bounds: Bounds | None = None
    ) -> tuple[int, int, int]:
        """Adds records, all or none; a known record with the same text is left as it is.

        Args:
            again: add records that were forgotten before, too.
            bounds: limits on each user's records; None for no limits.

        Returns:
            Numbers of new, known and forgotten records.

        Raises:
            DataError: a known id comes with another text, or a user has too many records.
        """
        new = known = forgotten = 0
        with self.database.writing() as db:
            keys = set() if again else tombstones(db)
            for history in histories:
                if again:
                    clear_tombstone(db, task, history)
                wanted = without_forgotten(keys, task, history)
                forgotten += len(history) - len(wanted)
                rows = new_rows(task, wanted, self._digests(db, task, history.user_id))
                if rows:
                    db.execute(insert(tables.records), rows)
                    if bounds is not None:
                        bounds.check(db, task, history.user_id)
                new, known = new + len(rows), known + len(wanted) - len(rows)
        return new, known, forgotten

    def digests(self, task: str, user: str) -> dict[str, str]:
        """Digests of a user's records, taken when they were added, by id."""
        with self.database.reading() as db:
            return self._digests(db, task, user)

    def _digests(self, db: Connection, task: str, user: str) -> dict[str, str]:
        r = tables.records.c
        return {row.id: row.digest for row in db.execute(select(r.id, r.digest).where(r.task == task, r.user == user))}

    def history(self, task: str, user: str) -> History:
        """A user's records in one task, oldest first; empty where there are none."""
        return self.numbered_history(task, user)[0]

    def numbered_history(self, task: str, user: str) -> tuple[History, dict[str, int]]:
        """A user's records, oldest first, and their numbers by id: a record that came later has a higher number."""
        r = tables.records.c
        query = select(r.id, r.fields, r.time, r.number).where(r.task == task, r.user == user).order_by(r.number)
        rows = self.database.rows(query)
        history = in_order(user, [Record(user, row.id, row.fields, row.time) for row in rows])
        return history, {row.id: row.number for row in rows}

    def arrived_after(self, task: str, user: str, number: int) -> int:
        """Number of a user's records that came after the one of that number."""
        r = tables.records.c
        query = select(func.count()).where(r.task == task, r.user == user, r.number > number)
        with self.database.reading() as db:
            return db.execute(query).scalar() or 0

    def knows(self, task: str, user: str) -> bool:
        """Whether a user has records in a task."""
        r = tables.records.c
        return self.database.first(select(r.number).where(r.task == task, r.user == user).limit(1)) is not None

    def names(self, task: str, after: str | None, count: int) -> list[str]:
        """The next `count` users with records in a task, by name, after the one called `after`."""
        r = tables.records.c
        query = select(r.user).where(r.task == task).distinct().order_by(r.user).limit(count)
        return [row.user for row in self.database.rows(query if after is None else query.where(r.user > after))]

    def histories(self, task: str | None = None, users: Collection[str] | None = None) -> list[HistoryInfo]:
        """One entry for each user and task with records, in the order they came; or for `users` only."""
        r = tables.records.c
        query = narrowed(select(r.task, r.user, r.id, r.digest, r.number), r, task, users).order_by(
            r.task, r.user, r.id
        )
        found: list[tuple[int, HistoryInfo]] = []
        for (name, user), rows in groupby(self.database.rows(query), key=lambda row: (row.task, row.user)):
            own = list(rows)
            digest = digest_of((row.id, row.digest) for row in own)
            found.append((min(row.number for row in own), HistoryInfo(user, name, len(own), digest)))
        return [info for _, info in sorted(found, key=lambda one: one[0])]

    # Bases

    def add_base(self, base: BaseInfo, outsiders: Iterable[History] = ()) -> None:
        """Registers a base, and the users it has learnt from.

        Raises:
            BaseModelError: the name is taken.
            NotFoundError: one of their records was forgotten since.
        """
        with self.database.writing() as db:
            if db.execute(select(tables.bases.c.name).where(tables.bases.c.name == base.name)).scalar() is not None:
                raise BaseModelError(f"The home has a base {base.name!r} already", hint="choose another name")
            db.execute(insert(tables.bases).values(**asdict(base) | {"folder": self.kept(base.folder)}))
            for history in outsiders:
                if not has_history(db, base.task or "", history):
                    user = history.user_id
                    what = f"Records of user {user!r} were forgotten or changed while the base learnt from them"
                    raise NotFoundError(what, hint="it was not kept; adapt again")
                db.execute(insert(tables.outsiders).values(base=base.name, user=history.user_id))

    def move_base(self, name: str, folder: str) -> None:
        """Stores the new folder of a base."""
        with self.database.writing() as db:
            db.execute(update(tables.bases).where(tables.bases.c.name == name).values(folder=self.kept(folder)))

    def kept(self, folder: str) -> str:
        """A folder as it is stored: relative to the home if it lies there, so that a home can be moved."""
        path, home = (Path(os.path.realpath(one)) for one in (self.folder / folder, self.folder))
        return str(path.relative_to(home)) if path.is_relative_to(home) else folder

    def bases(self) -> list[BaseInfo]:
        """All bases, in the order they were added."""
        rows = self.database.rows(select(tables.bases).order_by(tables.bases.c.number))
        return [BaseInfo(**without_number(row) | {"folder": str(self.folder / row.folder)}) for row in rows]

    def base(self, name: str) -> BaseInfo:
        """The base of that name.

        Raises:
            NotFoundError: there is none.
        """
        found = {base.name: base for base in self.bases()}
        if name not in found:
            near = nearest(name, found)
            raise NotFoundError(
                f"The home has no base {name!r}" + ("" if near is None else f"; did you mean {near!r}?"),
                expected=f"one of: {', '.join(found)}" if found else None,
                hint="add one",
                command="ownlm base add SOURCE",
            )
        return found[name]

    def outsiders(self, base: str) -> set[str]:
        """The users a base and its parents have learnt from."""
        users: set[str] = set()
        at: str | None = base
        o = tables.outsiders.c
        with self.database.reading() as db:
            while at is not None:
                users |= set(db.execute(select(o.user).where(o.base == at)).scalars())
                at = db.execute(select(tables.bases.c.parent).where(tables.bases.c.name == at)).scalar()
        return users

    # Profiles

    def add_profile(self, profile: ProfileInfo) -> None:
        """Stores a new version of a user's profile.

        Raises:
            NotFoundError: the user's records changed since it was written.
        """
        with self.database.writing() as db:
            if digest_of(self._digests(db, profile.task, profile.user).items()) != profile.history:
                raise NotFoundError(
                    f"The records of user {profile.user!r} changed while a profile was written from them",
                    hint="it was not kept; write it again",
                )
            db.execute(insert(tables.profiles).values(**asdict(profile)))

    def profile(self, task: str, user: str) -> ProfileInfo | None:
        """A user's newest profile; None where there is none."""
        p = tables.profiles.c
        query = select(tables.profiles).where(p.task == task, p.user == user).order_by(p.number.desc()).limit(1)
        row = self.database.first(query)
        return None if row is None else ProfileInfo(**without_number(row))

    def latest_profiles(self, task: str, users: Collection[str] | None = None) -> dict[str, ProfileInfo]:
        """The newest profile of each user, or of each of `users`."""
        p = tables.profiles.c
        newest = narrowed(select(func.max(p.number)), p, task, users).group_by(p.user)
        rows = self.database.rows(select(tables.profiles).where(p.number.in_(newest)))
        return {row.user: ProfileInfo(**without_number(row)) for row in rows}

    # Adapters

    def add_adapters(self, adapters: Sequence[tuple[AdapterInfo, bytes]]) -> list[NotFoundError | None]:
        """Stores new versions of adapters, in one transaction.

        Earlier versions that learnt from forgotten records, are stale, or have lost their weights are removed.

        Args:
            adapters: each with its weights, which its `blob` names; a recipe without weights has no blob.

        Returns:
            For each in turn, None; or why it was not stored: its records, parent or pool changed while it was made.

        Raises:
            StoreError: they cannot be written; none is stored.
        """
        with self.naming_blobs() as db:
            errors = conflicts(db, [adapter for adapter, _ in adapters])
            kept = [one for one, error in zip(adapters, errors, strict=True) if error is None]
            self.blobs.put(weights for adapter, weights in kept if adapter.blob)
            replaced = self._make_room(db, [adapter for adapter, _ in kept])
            done = drop(db, [owner_of(own.task, own.user) for own, _ in adapters if not own.is_recipe])
            if kept:
                db.execute(insert(tables.adapters), [asdict(adapter) for adapter, _ in kept])
                mark_made(db, [adapter for adapter, _ in kept])
        if replaced or done:
            self.sweep(None if replaced else done)
        return errors

    @contextmanager
    def naming_blobs(self) -> Iterator[Connection]:
        """A transaction that writes blobs and the rows that name them; nothing else sweeps blobs during it."""
        try:
            with self.database.writing() as db:
                yield db
        except StoreError:  # such as a full disk: blobs may be written that no row names
            with suppress(StoreError):
                self.sweep()
            raise

    def _make_room(self, db: Connection, adapters: Sequence[AdapterInfo]) -> int:
        """Removes unusable versions that these replace; returns how many."""
        a = tables.adapters.c
        kept = (is_kept(a) & (a.forgotten == 0)).label("kept")
        versions = db.execute(select(a.number, a.blob, kept).where(of_users(a, adapters)))
        unusable = [row.number for row in versions if not (row.kept and self._has_blob(row.blob))]
        if unusable:
            db.execute(delete(tables.adapters).where(a.number.in_(unusable)))
        return len(unusable)

    def still_there(self, adapters: Collection[str]) -> set[str]:
        """The ids among these that still exist. An id is never used twice."""
        id = tables.adapters.c.id
        return {row.id for row in self.database.rows(select(id).where(id.in_(adapters)))}

    def has_weights(self, adapter: AdapterInfo) -> bool:
        """Whether an adapter's weights exist; a recipe may need none."""
        return self._has_blob(adapter.blob)

    def _has_blob(self, blob: str | None) -> bool:
        return blob is None or self.blobs.has(blob)

    def weights(self, adapter: AdapterInfo) -> bytes:
        """A trained adapter's weights.

        Raises:
            AdapterError: it is a recipe, which takes its weights from a pool.
            StoreError: they are missing or damaged.
        """
        if adapter.blob is None or adapter.is_recipe:
            what = f"The newest adapter of user {adapter.user!r} in task {adapter.task!r} is a recipe"
            command = f"ownlm train --task {adapter.task} --user {quoted(adapter.user)}"
            raise AdapterError(what, expected="a trained adapter", hint="train one", command=command)
        return self.blobs.get(adapter.blob)

    def choose_version(self, version: AdapterInfo) -> AdapterInfo:
        """Puts a version into use: it gets the highest number.

        Raises:
            NotFoundError: it was removed, or a record it has learnt from was forgotten, since it was looked up.
        """
        a = tables.adapters.c
        with self.database.writing() as db:
            usable = select(a.id).where(a.id == version.id, a.forgotten == 0, a.stale.is_(None))
            if db.execute(usable).scalar() is None:
                what = f"The version {version.id[:8]} was removed or marked just now"
                raise NotFoundError(what, hint="choose another")
            history = digest_of(self._digests(db, version.task, version.user).items())
            number = (db.execute(select(func.max(a.number))).scalar() or 0) + 1
            provenance = version.provenance | {CHOSEN: history}
            db.execute(update(tables.adapters).where(a.id == version.id).values(number=number, provenance=provenance))
        return self.latest_adapters(version.task, [version.user])[version.task, version.user]

    def catch_up(self, adapter: AdapterInfo, history: History, upto: int) -> None:
        """Marks an adapter as up to date with a history from which it had nothing more to learn.

        Args:
            upto: highest number of the history's records.
        """
        changes = {"history": history_digest(history), "records": len(history), "upto": upto}
        a = tables.adapters.c
        with self.database.writing() as db:
            db.execute(update(tables.adapters).where(a.id == adapter.id, a.forgotten == 0).values(**changes))

    def adapters(self, task: str | None = None, user: str | None = None) -> list[AdapterInfo]:
        """All versions of adapters, oldest first."""
        a = tables.adapters.c
        query = narrowed(select(tables.adapters).order_by(a.number), a, task, None if user is None else [user])
        return [AdapterInfo(**without_number(row)) for row in self.database.rows(query)]

    def latest_adapters(
        self, task: str | None = None, users: Collection[str] | None = None
    ) -> dict[tuple[str, str], AdapterInfo]:
        """The newest adapter of each (task, user), or of each of `users`."""
        a = tables.adapters.c
        newest = narrowed(select(func.max(a.number)), a, task, users).group_by(a.task, a.user)
        rows = self.database.rows(select(tables.adapters).where(a.number.in_(newest)))
        return {(row.task, row.user): AdapterInfo(**without_number(row)) for row in rows}

    def new_base_folder(self, name: str) -> Path:
        """A new folder for a base that is made in this home, before it is registered."""
        return self.folder / "bases" / f"{name}.{uuid4().hex}"

    def loose_base_folders(self) -> list[Path]:
        """Folders of bases that killed runs left unregistered."""
        known = {os.path.realpath(base.folder) for base in self.bases()}
        made = (path for path in (self.folder / "bases").glob("*.*") if re.fullmatch(r".+\.[0-9a-f]{32}", path.name))
        return [path for path in made if path.is_dir() and os.path.realpath(path) not in known]

    def sweep_bases(self) -> None:
        """Removes unregistered folders. Only while no other process makes a base."""
        for path in self.loose_base_folders():
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, only: Collection[str] | None = None) -> int:
        """Removes blobs that no row names, or only those of `only`; returns how many."""
        with self.database.writing() as db:  # no other thread or process writes a blob during it
            blobs = {
                *db.execute(select(tables.adapters.c.blob).where(tables.adapters.c.blob.is_not(None))).scalars(),
                *db.execute(select(tables.drafts.c.blob)).scalars(),
                *db.execute(select(tables.checkpoints.c.blob)).scalars(),
            }
            return self.blobs.keep_only(blobs) if only is None else self.blobs.remove(set(only) - blobs)
