"""What a person may do about themselves: their history, their adapter, their consent, and leaving."""

import io
import json
import zipfile
from dataclasses import asdict
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, ConfigDict, Field

from ownlm.errors import ConfigError, DataError, NotFoundError
from ownlm.filesystem import read_regular
from ownlm.history.record import Record, in_order
from ownlm.history.row import to_record
from ownlm.history.task import Task
from ownlm.history.times import UnitCheck
from ownlm.server.auth import AnyCaller, Me
from ownlm.server.errors import about_field
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.offers import offers
from ownlm.server.routes.openai import sends, task_of
from ownlm.server.routes.openai_requests import Body, without_nulls
from ownlm.server.state import AnyState, State
from ownlm.store.consents import LICENCE, Consent
from ownlm.store.exports import serving
from ownlm.store.forget import Forgotten
from ownlm.store.jobs import OPEN, find_job, job_page, jobs, latest_job
from ownlm.store.pools import pools
from ownlm.store.records import Bounds, history_page, record_counts
from ownlm.store.rows import AdapterInfo, JobInfo
from ownlm.workflows.standing import Worth, behind, worth_of

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["me"])
TaskName = Annotated[str, Query(max_length=64, description="A task.")]
STRICT = ConfigDict(extra="forbid")
UNFIT = 10_000  # records of one request


class Records(Body):
    """Records to add: each an object with the task's fields, and perhaps `id` and `time`."""

    model_config = STRICT

    task: str = Field(max_length=64)
    records: list[Annotated[dict[str, Any], AfterValidator(without_nulls)]] = Field(min_length=1, max_length=UNFIT)


class Asked(Body):
    """What is to be made: an adapter for a task."""

    model_config = STRICT

    task: str = Field(max_length=64)


class Wish(Body):
    """Whether a person shares pieces of their adapters."""

    model_config = STRICT

    shares: bool
    licence: str = Field(LICENCE, min_length=1, max_length=10_000)


@router.get("/tasks")
def list_tasks(caller: AnyCaller, state: AnyState) -> dict[str, Any]:
    """The tasks of this home: what each asks for, and is given."""
    told = [task_of(state, name) for name in state.home.store.tasks()]
    return {
        "tasks": [
            {"name": task.name, "instruction": task.instruction_text, "input_fields": task.input_fields,
             "required": task.required_inputs, "record_fields": task.record_fields,
             "answer_field": task.answer_field, "labels": task.labels}
            for task in told
        ]
    }  # fmt: skip


@router.get("/users/me")
def show_me(caller: AnyCaller, state: AnyState) -> dict[str, Any]:
    """Who the token says you are, and what there is of you."""
    user = caller.token.user
    told: dict[str, Any] = {"user": user, "scope": caller.token.scope, "expires": caller.token.expires}
    told |= {"consent": None, "tasks": []}
    if user is None:
        return told
    home = state.home
    latest = {task: a for (task, _), a in home.store.latest_adapters(None, [user]).items()}
    told["tasks"] = [
        {"task": task, "records": count} | _standing(state, latest.get(task))
        for task, count in record_counts(home.store, user).items()
    ]
    return told | {"consent": _agreed(_consent(state, user, None, LICENCE))}


@router.delete("/users/me")
async def forget_me(
    user: Me, state: AnyState, confirm: Annotated[str, Query(max_length=1000, description="Your name.")]
) -> dict[str, Any]:
    """Deletes all of your data from this home. Your tokens are worth nothing afterwards.

    Your name says that it is meant: clients make `/v1/users/me` of `/v1/users/me/history/..`. `finished` says whether
    nothing is left in any file already; if not, the server sees to it. `waiting` is the number of pools out of which
    pieces of yours are taken as soon as nothing trains; until then nobody is answered from them.
    """
    if confirm != user:
        with about_field("confirm"):
            raise ConfigError(
                "Nobody was forgotten: `confirm` is not your name", hint="GET /v1/users/me says your name"
            )
    done, finished = await state.forgetting(user, lambda: state.home.forget(user, wait=False))
    return {
        "records": done.records, "profiles": done.profiles, "adapters": done.adapters, "blobs": done.blobs,
        "searched": done.texts, "bases": done.bases, "withdrawn": len(done.withdrawn), "waiting": len(done.pools),
        "finished": finished,
    }  # fmt: skip


@router.get("/users/me/history")
async def show_history(
    user: Me, state: AnyState, task: TaskName,
    q: Annotated[str, Query(max_length=1000, description="Only records in which this stands.")] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    id: Annotated[str | None, Query(max_length=1000, description="Only the record of this id.")] = None,
    before: Annotated[int | None, Query(ge=0, le=2**31, description="As `next` of the page before.")] = None,
) -> dict[str, Any]:  # fmt: skip
    """Your records, the latest first, a page at a time."""

    def look() -> dict[str, Any]:
        name = task_of(state, task).name
        page, total = history_page(state.home.store, name, user, limit, before=before, contains=q, id=id)
        end = total if before is None else min(before, total)
        return {
            "total": total,
            "records": [{"id": r.id, "task": task, "time": r.time, "fields": dict(r.fields)} for r in page],
            "next": end - limit if end > limit else None,
        }

    return await (state.search(user, look) if q else to_thread.run_sync(look))


@router.post("/users/me/history", status_code=201)
async def add_history(user: Me, state: AnyState, asked: Records) -> dict[str, Any]:
    """Adds records, all or none. One that is there already with the same text is left as it is."""
    return await state.write(user, lambda: _add(state, user, asked))


def _add(state: State, user: str, asked: Records) -> dict[str, Any]:
    task, read, times = task_of(state, asked.task), list[Record](), UnitCheck()
    for place, row in enumerate(asked.records, 1):
        with about_field(f"records[{place - 1}]"):
            read.append(_read_record(row, task, user, place))
            try:
                times.check(read[-1].time, f"record {place}")
            except ValueError as error:
                raise DataError(f"Record {place} of those sent is wrong: {error}") from None
    bounds = Bounds(state.limits.records, state.limits.history_bytes)
    new, known, forgotten = state.home.store.add_records(task.name, [in_order(user, read)], bounds=bounds)
    return {"new": new, "known": known, "forgotten": forgotten}


def _read_record(row: dict[str, Any], task: Task, user: str, place: int) -> Record:
    """A record as it was sent; a DataError with its place where it is wrong."""
    if row.get("user_id", user) != user:
        raise DataError(
            f"Record {place} of those sent is another user's", hint="leave `user_id` out: records are yours"
        )
    try:
        return _record(row, task, user)
    except (ValueError, KeyError) as error:
        told = error if isinstance(error, DataError) else DataError(str(error))
        raise DataError(
            f"Record {place} of those sent is wrong: {told.what}", expected=told.expected,
            hint="GET /v1/tasks tells fields and labels",
        ) from None  # fmt: skip


def _record(row: dict[str, Any], task: Task, user: str) -> Record:
    """What was sent, as a record; a DataError where it cannot be one as it stands."""
    known = {"user_id", "id", "time", "date", *task.record_fields}
    if unknown := [name for name in row if name not in known]:
        raise DataError(f"the task has no field {unknown[0][:50]!r}", expected=", ".join(task.record_fields))
    return to_record(row, task, user=user)


@router.delete("/users/me/history/{record:path}")
async def forget_record(user: Me, state: AnyState, record: str, task: TaskName) -> dict[str, Any]:
    """Removes one record for good, and marks the adapters that have learnt from it; `finished` as for all of you."""

    def forget() -> Forgotten:
        name = task_of(state, task).name
        try:
            return state.home.forget_record(user, record, name)
        except NotFoundError:
            raise NotFoundError("You have no such record in this task", hint="GET /v1/users/me/history") from None

    done, finished = await state.forgetting(user, forget)
    return {
        "records": done.records, "marked": done.marked, "adapters": done.adapters, "pools": len(done.pools),
        "finished": finished,
    }  # fmt: skip


@router.get("/users/me/adapter")
def show_adapter(user: Me, state: AnyState, task: TaskName) -> dict[str, Any]:
    """Your adapter for a task, its versions, the latest first, the latest job, and those that have not ended.

    `not_offered` says of training and assembling why it cannot be asked for now, or would change nothing: `at_work`,
    `no_base`, `no_pieces`, `no_records`, `up_to_date`, `waits` (for a withdrawal); null where it can.
    """
    name = task_of(state, task).name
    versions = state.home.store.adapters(name, user)
    job = latest_job(state.home.store, user, name)
    open_jobs = [one for one in jobs(state.home.store, user, OPEN) if one.task == name]
    return _standing(state, versions[-1] if versions else None) | {
        "versions": [_adapter(state, one) for one in reversed(versions)],
        "job": _job(state, job) if job else None,
        "open_jobs": [_job(state, one) for one in open_jobs],
        "not_offered": offers(state, user, name, {one.kind for one in open_jobs}),
    }


@router.get("/users/me/adapter/download", response_class=Response, responses=sends("application/zip"))
async def download_adapter(user: Me, state: AnyState, task: TaskName) -> Response:
    """Your newest adapter as a PEFT folder, zipped: `peft` and vLLM load it beside the base that it names."""
    return await state.search(user, lambda: _packed(state, user, task))


def _packed(state: State, user: str, task: str) -> Response:
    name = task_of(state, task).name
    if not state.home.store.latest_adapters(name, [user]):
        raise NotFoundError("You have no adapter in this task yet", hint="POST /v1/users/me/train, or .../assemble")
    with serving(state.home.store) as folder:  # in the home: the next run removes what a killed one left
        made = folder / "adapter"
        adapter = state.home.export(user, made, task=name).adapter
        content = io.BytesIO()
        config = made / "adapter_config.json"
        settings = json.loads(read_regular(config))
        if settings["revision"] is None:  # not from the hub: it names a folder of the server
            config.write_text(json.dumps(settings | {"base_model_name_or_path": adapter.base}, indent=1), "utf8")
        with zipfile.ZipFile(content, "w") as archive:  # weights do not compress
            for file in sorted(made.iterdir()):
                archive.write(file, file.name)
    named = {"Content-Disposition": f'attachment; filename="{name}-{adapter.id[:8]}.zip"'}
    return Response(content.getvalue(), media_type="application/zip", headers=named)


@router.get("/users/me/adapter/pieces")
async def show_pieces(user: Me, state: AnyState, task: TaskName) -> dict[str, Any]:
    """Whose pieces your assembled adapter is made of, and with which weights: [kind][sharer][layer]."""
    return await state.search(user, lambda: _pieces(state, user, task))


def _pieces(state: State, user: str, task: str) -> dict[str, Any]:
    adapter = state.home.store.latest_adapters(task_of(state, task).name, [user]).get((task, user))
    if adapter is None or not adapter.is_recipe:
        raise NotFoundError("Your adapter is not made of pieces", hint="ask to be assembled")
    use = state.home.pools.pieces(user, task)[1]
    return {
        "sharers": use.sharers, "kinds": use.kinds, "layers": use.layers, "amount": use.amount_CSL.tolist(),
        "share": use.share_S.tolist(),
    }  # fmt: skip


@router.post("/users/me/train", status_code=202)
async def train_me(user: Me, state: AnyState, asked: Asked) -> dict[str, Any]:
    """Has an adapter trained on your history; it is done in its own time."""
    return await state.write(user, lambda: _begun(state, "train", user, asked.task))


@router.post("/users/me/assemble", status_code=202)
async def assemble_me(user: Me, state: AnyState, asked: Asked) -> dict[str, Any]:
    """Has an adapter put together out of pieces that others share; it is done in its own time."""

    def begin() -> dict[str, Any]:
        if not pools(state.home.store, task_of(state, asked.task).name):
            raise NotFoundError("There are no pieces for this task yet", hint="ask to be trained")
        return _begun(state, "assemble", user, asked.task)

    return await state.write(user, begin)


@router.get("/users/me/jobs")
def list_jobs(
    user: Me, state: AnyState,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=0, le=2**31, description="As `next` of the page before.")] = None,
) -> dict[str, Any]:  # fmt: skip
    """What you asked for, the latest first, a page at a time."""
    page, following = job_page(state.home.store, user, limit, before)
    return {"jobs": [_job(state, job) for job in page], "next": following}


@router.get("/users/me/jobs/{job}")
def show_job(user: Me, state: AnyState, job: str) -> dict[str, Any]:
    """One of them."""
    return _job(state, find_job(state.home.store, job, user))


@router.delete("/users/me/jobs/{job}")
async def cancel_job(user: Me, state: AnyState, job: str) -> dict[str, Any]:
    """Cancels one that is queued or running. An adapter that it has finished already stays."""
    return await state.write(user, lambda: _job(state, state.jobs.cancel(job, user)))


@router.get("/users/me/consent")
def show_consent(user: Me, state: AnyState) -> dict[str, Any]:
    """Whether you share pieces of your adapters."""
    return _agreed(_consent(state, user, None, LICENCE))


@router.put("/users/me/consent")
async def change_consent(user: Me, state: AnyState, wish: Wish) -> dict[str, Any]:
    """Gives your consent to share, or takes it back: then nobody is answered with pieces of yours any more."""
    return _agreed(await state.write(user, lambda: _consent(state, user, wish.shares, wish.licence)))


def _consent(state: State, user: str, share: bool | None, licence: str) -> Consent:
    try:
        return state.home.consent(user, share, licence)
    except NotFoundError:
        if share:
            raise NotFoundError("Who has no records has nothing to share", hint="add records first") from None
        return Consent(user=user, shares=False)


def _agreed(told: Consent) -> dict[str, Any]:
    return {"shares": told.shares, "licence": told.licence, "since": told.since, "pools": len(told.pools)}


def _begun(state: State, kind: Literal["train", "assemble"], user: str, task: str) -> dict[str, Any]:
    return _job(state, state.jobs.ask(kind, user, task_of(state, task).name))


def _standing(state: State, adapter: AdapterInfo | None) -> dict[str, Any]:
    """An adapter, and in words how it stands."""
    if adapter is None:
        return {"adapter": None, "standing": "no adapter yet", "worth": asdict(Worth())}
    told, known = _adapter(state, adapter), worth_of(adapter)
    history = next((p.history for p in state.home.store.histories(adapter.task, [adapter.user])), None)
    words = behind(adapter, history, told["behind"]) or "up to date"
    return {"adapter": told, "standing": "; ".join(filter(None, (words, known.words))), "worth": asdict(known)}


def _adapter(state: State, one: AdapterInfo) -> dict[str, Any]:
    return {
        "id": one.id, "method": one.method, "base": one.base, "records": one.records, "steps": one.steps,
        "loss_first": one.loss_first, "loss_last": one.loss_last, "bytes": one.bytes, "created": one.created,
        "behind": state.home.behind(one), "forgotten": one.forgotten,
        "stale": None if one.waits else one.stale, "waits": one.waits,
    }  # fmt: skip


def _job(state: State, job: JobInfo) -> dict[str, Any]:
    return {
        "id": job.id, "kind": job.kind, "task": job.task, "state": job.state, "error": job.error,
        "progress": state.jobs.progress(job.id) if job.state == "running" else None, "adapter": job.adapter,
        "created": job.created, "ended": job.ended,
    }  # fmt: skip
