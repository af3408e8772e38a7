"""Jobs: what a server was asked to train or assemble, each kept before it is acknowledged."""

from collections.abc import Collection
from dataclasses import asdict
from uuid import uuid4

from sqlalchemy import insert, select, update

from ownlm.store import tables
from ownlm.store.rows import JobInfo, now
from ownlm.store.store import Store
from ownlm.store.tables import without_number

OPEN = ("queued", "running")


def add_job(store: Store, kind: str, user: str, task: str) -> JobInfo:
    """A new job; or the one of that kind that already waits for the person, since it will see all of their records."""
    j = tables.jobs.c
    same = select(tables.jobs).where(j.kind == kind, j.user == user, j.task == task, j.state == "queued")
    with store.database.writing() as db:
        if (row := db.execute(same).first()) is not None:
            return JobInfo(**without_number(row))
        job = JobInfo(uuid4().hex, kind, user, task)
        db.execute(insert(tables.jobs).values(**asdict(job)))
    return job


def jobs(store: Store, user: str | None = None, states: Collection[str] | None = None) -> list[JobInfo]:
    """All jobs, or a person's, or those in some states; oldest first."""
    j = tables.jobs.c
    query = select(tables.jobs).order_by(j.number)
    if user is not None:
        query = query.where(j.user == user)
    if states is not None:
        query = query.where(j.state.in_(states))
    with store.database.reading() as db:
        return [JobInfo(**without_number(row)) for row in db.execute(query)]


def begin_jobs(store: Store, ids: Collection[str]) -> None:
    """Says that these jobs run."""
    with store.database.writing() as db:
        db.execute(update(tables.jobs).where(tables.jobs.c.id.in_(ids)).values(state="running"))


def end_job(store: Store, job: str, *, adapter: str | None = None, error: dict[str, str | None] | None = None) -> None:
    """Says what came of a job; of one whose person was forgotten meanwhile, nothing."""
    values = {"state": "done" if error is None else "failed", "adapter": adapter, "error": error, "ended": now()}
    with store.database.writing() as db:
        db.execute(update(tables.jobs).where(tables.jobs.c.id == job).values(**values))


def requeue_jobs(store: Store) -> None:
    """Puts jobs back in the queue that were running when a server was killed."""
    with store.database.writing() as db:
        db.execute(update(tables.jobs).where(tables.jobs.c.state == "running").values(state="queued"))
