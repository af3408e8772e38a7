"""The store: who did what, which bases and adapters there are, and what each was made from."""

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
from ownlm.store.checkpoints import drop, owners_of
from ownlm.store.conflicts import are_there, lost_to_conflict, theirs
from ownlm.store.database import Database
from ownlm.store.records import Bounds, new_rows
from ownlm.store.rows import AdapterInfo, BaseInfo, Person, ProfileInfo, digest_of, history_digest
from ownlm.store.tables import narrowed, without_number
from ownlm.store.tombstones import clear_tombstone, is_forgotten, tombstones


class Store:
    """The database and the blobs of one home. What the database does not name does not exist.

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
        """Keeps a task, or its new version, under its name."""
        spec = task.model_dump_json()
        with self.database.writing() as db:
            if db.execute(update(tables.tasks).where(tables.tasks.c.name == task.name).values(spec=spec)).rowcount == 0:
                db.execute(insert(tables.tasks).values(name=task.name, spec=spec))

    def task(self, name: str) -> Task | None:
        """The task of that name, if the home has it."""
        with self.database.reading() as db:
            spec = db.execute(select(tables.tasks.c.spec).where(tables.tasks.c.name == name)).scalar()
        return None if spec is None else Task.model_validate_json(spec)

    def tasks(self) -> list[str]:
        """Names of the tasks the home has."""
        with self.database.reading() as db:
            return list(db.execute(select(tables.tasks.c.name).order_by(tables.tasks.c.name)).scalars())

    # Records

    def add_records(
        self, task: str, histories: Iterable[History], again: bool = False, bounds: Bounds | None = None
    ) -> tuple[int, int, int]:
        """Adds records, all or none; a record that is there already with the same text is left as it is.

        Args:
            again: take what was forgotten too; else it stays out.
            bounds: on what a user has then; None for none.

        Returns:
            How many were new, how many were there, and how many stay forgotten.

        Raises:
            DataError: a record's id is there with another text, or there are too many.
        """
        new = known = kept_out = 0
        with self.database.writing() as db:
            forgotten = tombstones(db)
            for history in histories:
                if again:
                    clear_tombstone(db, task, history)
                elif forgotten:
                    wanted = tuple(one for one in history.records if not is_forgotten(forgotten, task, one))
                    kept_out += len(history) - len(wanted)
                    history = History(history.user_id, wanted)
                there = self._digests(db, task, history.user_id)
                rows = new_rows(task, history, there)
                if rows:
                    db.execute(insert(tables.records), rows)
                    if bounds is not None:
                        bounds.check(db, task, history.user_id)
                new, known = new + len(rows), known + len(history.records) - len(rows)
        return new, known, kept_out

    def digests(self, task: str, user: str) -> dict[str, str]:
        """The hashes of a person's records as they were when they were added, by id."""
        with self.database.reading() as db:
            return self._digests(db, task, user)

    def _digests(self, db: Connection, task: str, user: str) -> dict[str, str]:
        r = tables.records.c
        return {row.id: row.digest for row in db.execute(select(r.id, r.digest).where(r.task == task, r.user == user))}

    def history(self, task: str, user: str) -> History:
        """A person's records in one task, oldest first; empty if there are none."""
        return self.numbered_history(task, user)[0]

    def numbered_history(self, task: str, user: str) -> tuple[History, dict[str, int]]:
        """A person's records, oldest first, and by their ids the numbers under which they came: later, higher."""
        r = tables.records.c
        with self.database.reading() as db:
            rows = db.execute(
                select(r.id, r.fields, r.time, r.number).where(r.task == task, r.user == user).order_by(r.number)
            ).all()
        history = in_order(user, [Record(user, row.id, row.fields, row.time) for row in rows])
        return history, {row.id: row.number for row in rows}

    def arrived_after(self, task: str, user: str, number: int) -> int:
        """How many of a person's records came after the one of that number."""
        r = tables.records.c
        query = select(func.count()).where(r.task == task, r.user == user, r.number > number)
        with self.database.reading() as db:
            return db.execute(query).scalar() or 0

    def knows(self, task: str, user: str) -> bool:
        """Whether a person has records in a task."""
        r = tables.records.c
        with self.database.reading() as db:
            return db.execute(select(r.number).where(r.task == task, r.user == user).limit(1)).first() is not None

    def names(self, task: str, after: str | None, count: int) -> list[str]:
        """The next people with records in a task, by name: at most `count` of those that come after one."""
        r = tables.records.c
        query = select(r.user).where(r.task == task).distinct().order_by(r.user).limit(count)
        with self.database.reading() as db:
            return list(db.execute(query if after is None else query.where(r.user > after)).scalars())

    def people(self, task: str | None = None, users: Collection[str] | None = None) -> list[Person]:
        """Everybody, or each of `users`, who has records, in the order they came, with a digest of what is there."""
        r = tables.records.c
        query = narrowed(select(r.task, r.user, r.id, r.digest, r.number), r, task, users).order_by(
            r.task, r.user, r.id
        )
        people: list[tuple[int, Person]] = []
        with self.database.reading() as db:
            for (name, user), mine in groupby(db.execute(query), key=lambda row: (row.task, row.user)):
                own = list(mine)
                digest = digest_of((row.id, row.digest) for row in own)
                people.append((min(row.number for row in own), Person(user, name, len(own), digest)))
        return [person for _, person in sorted(people, key=lambda one: one[0])]

    # Bases

    def add_base(self, base: BaseInfo, outsiders: Iterable[History] = ()) -> None:
        """Registers a base, and whose records it has learnt from.

        Raises:
            BaseModelError: the name is taken.
            NotFoundError: one of these records was forgotten meanwhile.
        """
        with self.database.writing() as db:
            if db.execute(select(tables.bases.c.name).where(tables.bases.c.name == base.name)).scalar() is not None:
                raise BaseModelError(f"The home has a base {base.name!r} already", hint="choose another name")
            db.execute(insert(tables.bases).values(**asdict(base) | {"folder": self.kept(base.folder)}))
            for history in outsiders:
                if not are_there(db, base.task or "", history):
                    user = history.user_id
                    what = f"Records of user {user!r} were forgotten or changed while the base learnt from them"
                    raise NotFoundError(what, hint="it was not kept; adapt again")
                db.execute(insert(tables.outsiders).values(base=base.name, user=history.user_id))

    def move_base(self, name: str, folder: str) -> None:
        """Says where a base lies now."""
        with self.database.writing() as db:
            db.execute(update(tables.bases).where(tables.bases.c.name == name).values(folder=self.kept(folder)))

    def kept(self, folder: str) -> str:
        """A folder as it is kept: one in the home relative to it, so that a home can be moved."""
        path, home = (Path(os.path.realpath(one)) for one in (self.folder / folder, self.folder))
        return str(path.relative_to(home)) if path.is_relative_to(home) else folder

    def bases(self) -> list[BaseInfo]:
        """All bases, in the order they were added."""
        with self.database.reading() as db:
            rows = db.execute(select(tables.bases).order_by(tables.bases.c.number)).all()
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
                hint="`ownlm base add SOURCE` adds one",
            )
        return found[name]

    def outsiders(self, base: str) -> set[str]:
        """The people whose records a base has learnt from, its parents' included."""
        people: set[str] = set()
        at: str | None = base
        with self.database.reading() as db:
            while at is not None:
                people |= set(
                    db.execute(select(tables.outsiders.c.user).where(tables.outsiders.c.base == at)).scalars()
                )
                at = db.execute(select(tables.bases.c.parent).where(tables.bases.c.name == at)).scalar()
        return people

    # Profiles

    def add_profile(self, profile: ProfileInfo) -> None:
        """Keeps a new version of a person's profile.

        Raises:
            NotFoundError: the person's records are no longer those it was written from.
        """
        r = tables.records.c
        with self.database.writing() as db:
            there = db.execute(select(r.id, r.digest).where(r.task == profile.task, r.user == profile.user))
            if digest_of((row.id, row.digest) for row in there) != profile.history:
                raise NotFoundError(
                    f"The records of user {profile.user!r} changed while a profile was written from them",
                    hint="it was not kept; write it again",
                )
            db.execute(insert(tables.profiles).values(**asdict(profile)))

    def profile(self, task: str, user: str) -> ProfileInfo | None:
        """A person's newest profile, if there is one."""
        p = tables.profiles.c
        query = select(tables.profiles).where(p.task == task, p.user == user).order_by(p.number.desc()).limit(1)
        with self.database.reading() as db:
            row = db.execute(query).first()
        return None if row is None else ProfileInfo(**without_number(row))

    def latest_profiles(self, task: str, users: Collection[str] | None = None) -> dict[str, ProfileInfo]:
        """The newest profile of each person, or of each of `users`."""
        p = tables.profiles.c
        newest = narrowed(select(func.max(p.number)), p, task, users).group_by(p.user)
        with self.database.reading() as db:
            rows = db.execute(select(tables.profiles).where(p.number.in_(newest))).all()
        return {row.user: ProfileInfo(**without_number(row)) for row in rows}

    # Adapters

    def add_adapters(self, adapters: Sequence[tuple[AdapterInfo, bytes]]) -> list[NotFoundError | None]:
        """Writes new versions of people's adapters, and says that they are there: all in one transaction.

        Versions that had learnt from records forgotten since, that are stale, or whose weights are lost, make room for
        new ones.

        Args:
            adapters: each with its weights, which its `blob` names; a recipe without any has no blob.

        Returns:
            For each in turn, None; or why it was not kept: of the records it was made from, some were forgotten
            meanwhile, or the pool of its recipe was withdrawn.

        Raises:
            StoreError: they cannot be written; none is kept then.
        """
        with self.naming_blobs() as db:
            told = lost_to_conflict(db, [adapter for adapter, _ in adapters])
            kept = [one for one, error in zip(adapters, told, strict=True) if error is None]
            self.blobs.put(weights for adapter, weights in kept if adapter.blob)
            replaced = self._make_room(db, [adapter for adapter, _ in kept])
            done = drop(db, owners_of((own.task, own.user) for own, _ in adapters if not own.is_recipe))
            if kept:
                db.execute(insert(tables.adapters), [asdict(adapter) for adapter, _ in kept])
        if replaced or done:
            self.sweep(None if replaced else done)
        return told

    @contextmanager
    def naming_blobs(self) -> Iterator[Connection]:
        """A transaction that writes blobs and names them: until it ends nobody forgets, or sweeps blobs."""
        try:
            with self.database.writing() as db:
                yield db
        except StoreError:  # the disk is full: weights may be there, and have no name
            with suppress(StoreError):
                self.sweep()
            raise

    def _make_room(self, db: Connection, adapters: Sequence[AdapterInfo]) -> int:
        """Removes the versions that these replace and that are worth nothing; returns how many."""
        a = tables.adapters.c
        versions = db.execute(select(a.number, a.blob, a.forgotten, a.stale).where(theirs(a, adapters)))
        worthless = [row.number for row in versions if row.forgotten or row.stale or not self._is_there(row.blob)]
        if worthless:
            db.execute(delete(tables.adapters).where(a.number.in_(worthless)))
        return len(worthless)

    def still_there(self, adapters: Collection[str]) -> set[str]:
        """Those of these versions of adapters that there still are; ids are given once."""
        with self.database.reading() as db:
            return set(db.execute(select(tables.adapters.c.id).where(tables.adapters.c.id.in_(adapters))).scalars())

    def has_weights(self, adapter: AdapterInfo) -> bool:
        """Whether all the weights an adapter has are there; a recipe may have none."""
        return self._is_there(adapter.blob)

    def _is_there(self, blob: str | None) -> bool:
        return blob is None or self.blobs.has(blob)

    def weights(self, adapter: AdapterInfo) -> bytes:
        """A trained adapter's weights.

        Raises:
            AdapterError: it is a recipe: its weights are a pool's.
            StoreError: they are missing or damaged.
        """
        if adapter.blob is None or adapter.is_recipe:
            what = f"The newest adapter of user {adapter.user!r} in task {adapter.task!r} is a recipe"
            hint = f"`ownlm train --task {adapter.task} --user {quoted(adapter.user)}` makes one with own weights"
            raise AdapterError(what, expected="a trained adapter", hint=hint)
        return self.blobs.get(adapter.blob)

    def catch_up(self, adapter: AdapterInfo, history: History, upto: int) -> None:
        """Says of an adapter that it knows this history: nothing in the rest of it could be learnt.

        Args:
            upto: the highest number among the history's records.
        """
        changes = {"history": history_digest(history), "records": len(history), "upto": upto}
        a = tables.adapters.c
        with self.database.writing() as db:
            db.execute(update(tables.adapters).where(a.id == adapter.id, a.forgotten == 0).values(**changes))

    def adapters(self, task: str | None = None, user: str | None = None) -> list[AdapterInfo]:
        """All versions, oldest first."""
        a = tables.adapters.c
        query = select(tables.adapters).order_by(a.number)
        if task is not None:
            query = query.where(a.task == task)
        if user is not None:
            query = query.where(a.user == user)
        with self.database.reading() as db:
            return [AdapterInfo(**without_number(row)) for row in db.execute(query)]

    def latest_adapters(
        self, task: str | None = None, users: Collection[str] | None = None
    ) -> dict[tuple[str, str], AdapterInfo]:
        """The newest adapter of each (task, user), or of each of `users`."""
        a = tables.adapters.c
        newest = narrowed(select(func.max(a.number)), a, task, users).group_by(a.task, a.user)
        with self.database.reading() as db:
            rows = db.execute(select(tables.adapters).where(a.number.in_(newest))).all()
        return {(row.task, row.user): AdapterInfo(**without_number(row)) for row in rows}

    def new_base_folder(self, name: str) -> Path:
        """Where a base that is made here is written, before it has a name."""
        return self.folder / "bases" / f"{name}.{uuid4().hex}"

    def loose_base_folders(self) -> list[Path]:
        """The folders of bases made here that nothing names, as killed runs leave them."""
        known = {os.path.realpath(base.folder) for base in self.bases()}
        made = (path for path in (self.folder / "bases").glob("*.*") if re.fullmatch(r".+\.[0-9a-f]{32}", path.name))
        return [path for path in made if path.is_dir() and os.path.realpath(path) not in known]

    def sweep_bases(self) -> None:
        """Removes folders without a name. Not while another process may be writing one."""
        for path in self.loose_base_folders():
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self, only: Collection[str] | None = None) -> int:
        """Removes the blobs that nothing names, or of them only these; returns how many."""
        with self.database.writing() as db:  # while it lasts, nobody writes a blob that is not named yet
            blobs = {
                *db.execute(select(tables.adapters.c.blob).where(tables.adapters.c.blob.is_not(None))).scalars(),
                *db.execute(select(tables.drafts.c.blob)).scalars(),
                *db.execute(select(tables.checkpoints.c.blob)).scalars(),
            }
            return self.blobs.keep_only(blobs) if only is None else self.blobs.remove(set(only) - blobs)
