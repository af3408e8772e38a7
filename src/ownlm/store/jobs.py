"""Jobs of a server: requests to train or assemble, each stored before it is acknowledged."""

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, insert, select, update

from ownlm.errors import ConflictError, NotFoundError
from ownlm.store import tables
from ownlm.store.rows import JobInfo, now
from ownlm.store.store import Store
from ownlm.store.tables import without_number

OPEN = ("queued", "running")
KEPT = 200  # finished jobs of a user; older ones are deleted


def add_job(store: Store, kind: str, user: str, task: str) -> JobInfo:
    """A new job; or the user's queued job of that kind, which will see the same records.

    Raises:
        NotFoundError: the user has no records in the task.
    """
    j, r = tables.jobs.c, tables.records.c
    same = select(tables.jobs).where(j.kind == kind, j.user == user, j.task == task, j.state == "queued")
    with store.database.writing() as db:
        if db.execute(select(r.number).where(r.task == task, r.user == user).limit(1)).first() is None:
            raise NotFoundError("There are no records of yours to learn from", hint="add records first")
        if (row := db.execute(same).first()) is not None:
            return JobInfo(**without_number(row))
        job = JobInfo(uuid4().hex, kind, user, task)
        ended = select(j.number).where(j.user == user, j.ended.is_not(None)).order_by(j.number.desc()).offset(KEPT)
        db.execute(delete(tables.jobs).where(j.number.in_(ended.limit(-1))))
        db.execute(insert(tables.jobs).values(**asdict(job)))
    return job


def job_counts(store: Store) -> dict[tuple[str, str], int]:
    """Numbers of stored jobs by kind and state."""
    j = tables.jobs.c
    query = select(j.kind, j.state, func.count()).group_by(j.kind, j.state).order_by(j.kind, j.state)
    return {(kind, state): count for kind, state, count in store.database.rows(query)}


def cancel_job(store: Store, job: str, user: str) -> tuple[JobInfo, str]:
    """Sets a user's job to "cancelled", unless it has ended.

    Returns:
        The job, and its earlier state.

    Raises:
        NotFoundError: the user has no such job. ConflictError: it has ended.
    """
    j = tables.jobs.c
    with store.database.writing() as db:
        row = db.execute(select(tables.jobs).where(j.id == job, j.user == user)).first()
        if row is None:
            raise _no_job()
        if row.state not in OPEN:
            raise ConflictError("The job cannot be cancelled: it has ended", got=row.state, hint="start a new job")
        changes: dict[str, Any] = {"state": "cancelled", "ended": now()}
        db.execute(update(tables.jobs).where(j.id == job).values(**changes))
    return replace(JobInfo(**without_number(row)), **changes), row.state


def find_job(store: Store, job: str, user: str) -> JobInfo:
    """A user's job.

    Raises:
        NotFoundError: the user has no such job.
    """
    j = tables.jobs.c
    row = store.database.first(select(tables.jobs).where(j.id == job, j.user == user))
    if row is None:
        raise _no_job()
    return JobInfo(**without_number(row))


def latest_job(store: Store, user: str, task: str) -> JobInfo | None:
    """A user's newest job in a task; None where there is none."""
    j = tables.jobs.c
    query = select(tables.jobs).where(j.user == user, j.task == task).order_by(j.number.desc()).limit(1)
    row = store.database.first(query)
    return None if row is None else JobInfo(**without_number(row))


def job_page(store: Store, user: str, limit: int, before: int | None) -> tuple[list[JobInfo], int | None]:
    """A page of a user's jobs, newest first.

    Args:
        before: the second value that the previous page returned; None for the first page.

    Returns:
        The jobs, and `before` for the next page; None after the last page.
    """
    j = tables.jobs.c
    query = select(tables.jobs).where(j.user == user).order_by(j.number.desc()).limit(limit + 1)
    rows = store.database.rows(query if before is None else query.where(j.number < before))
    return [JobInfo(**without_number(row)) for row in rows[:limit]], rows[limit - 1].number if rows[limit:] else None


def jobs(store: Store, user: str | None = None, states: Collection[str] | None = None) -> list[JobInfo]:
    """All jobs, oldest first; only those of a user, or in some states, where these are given."""
    j = tables.jobs.c
    query = select(tables.jobs).order_by(j.number)
    if user is not None:
        query = query.where(j.user == user)
    if states is not None:
        query = query.where(j.state.in_(states))
    return [JobInfo(**without_number(row)) for row in store.database.rows(query)]


def begin_jobs(store: Store, ids: Collection[str]) -> set[str]:
    """Sets queued jobs to "running"; returns their ids, without those that were cancelled."""
    j = tables.jobs.c
    with store.database.writing() as db:
        begun = update(tables.jobs).where(j.id.in_(ids), j.state == "queued").values(state="running")
        return set(db.execute(begun.returning(j.id)).scalars())


def end_job(store: Store, job: str, *, adapter: str | None = None, error: dict[str, str | None] | None = None) -> None:
    """Stores the result of a running job; a job that was cancelled or deleted stays as it is."""
    values = {"state": "done" if error is None else "failed", "adapter": adapter, "error": error, "ended": now()}
    j = tables.jobs.c
    with store.database.writing() as db:
        db.execute(update(tables.jobs).where(j.id == job, j.state.in_(OPEN)).values(**values))


def requeue_jobs(store: Store) -> None:
    """Queues jobs again that were running when a server was killed."""
    with store.database.writing() as db:
        db.execute(update(tables.jobs).where(tables.jobs.c.state == "running").values(state="queued"))


def _no_job() -> NotFoundError:
    return NotFoundError("There is no such job, or it is not yours", hint="GET /v1/users/me/jobs lists yours")
