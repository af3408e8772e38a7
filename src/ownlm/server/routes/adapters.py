"""Routes for the caller's adapters and the jobs that make them."""

import io
import json
import zipfile

from fastapi import APIRouter, Response

from ownlm.errors import NotFoundError
from ownlm.filesystem import read_regular
from ownlm.server.auth import CurrentUser
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.offers import offers
from ownlm.server.routes.openai import content_of, find_task
from ownlm.server.routes.schemas import (
    AdapterDetails,
    AdapterResult,
    AdapterStatus,
    JobKind,
    JobPage,
    JobResult,
    PageBefore,
    PageSize,
    PiecesResult,
    TaskBody,
    TaskName,
    UsedVersion,
    VersionBody,
)
from ownlm.server.state import ServerState, State
from ownlm.store.exports import serving
from ownlm.store.jobs import OPEN, find_job, job_page, jobs, latest_job
from ownlm.store.pools import pools
from ownlm.store.rows import AdapterInfo, JobInfo
from ownlm.workflows.adapters import Worth, behind, worth_of

router = APIRouter(prefix="/v1/users/me", route_class=StrictRoute, tags=["me"])


@router.get("/adapter")
def show_adapter(user: CurrentUser, state: ServerState, task: TaskName) -> AdapterDetails:
    """Returns your adapter for a task, its versions (the latest first), and its jobs."""
    store, name = state.home.store, find_task(state, task).name
    versions, job = store.adapters(name, user), latest_job(store, user, name)
    open_jobs = [one for one in jobs(store, user, OPEN) if one.task == name]
    return AdapterDetails(
        **dict(adapter_status(state, versions[-1] if versions else None)),
        versions=[_adapter_result(state, one) for one in reversed(versions)],
        job=_job_result(state, job) if job else None,
        open_jobs=[_job_result(state, one) for one in open_jobs],
        not_offered=dict(offers(state, user, name, {one.kind for one in open_jobs})),
    )


@router.put("/adapter")
async def use_version(user: CurrentUser, state: ServerState, body: VersionBody) -> UsedVersion:
    """Uses an earlier version of your adapter again. Later versions stay; the next training continues from this one."""

    def use() -> UsedVersion:
        adapter = state.home.use_version(user, body.version, find_task(state, body.task).name)
        return UsedVersion(adapter=adapter.id, task=adapter.task, behind=state.home.behind(adapter))

    return await state.write(user, use)


@router.get("/adapter/download", response_class=Response, responses=content_of("application/zip"))
async def download_adapter(user: CurrentUser, state: ServerState, task: TaskName) -> Response:
    """Returns your newest adapter as a zipped PEFT folder, which `peft` and vLLM load beside its base."""
    return await state.search(user, lambda: _zipped(state, user, task))


def _zipped(state: State, user: str, task: str) -> Response:
    name = find_task(state, task).name
    if not state.home.store.latest_adapters(name, [user]):
        raise NotFoundError("You have no adapter in this task yet", hint="POST /v1/users/me/train, or .../assemble")
    with serving(state.home.store) as folder:  # in the home: the next run removes what a killed one left
        exported = folder / "adapter"
        adapter = state.home.export(user, exported, task=name).adapter
        config = exported / "adapter_config.json"
        settings = json.loads(read_regular(config))
        if settings["revision"] is None:  # a base that is not from the hub: its path is a folder of the server
            config.write_text(json.dumps(settings | {"base_model_name_or_path": adapter.base}, indent=1), "utf8")
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:  # uncompressed: weights do not compress
            for file in sorted(exported.iterdir()):
                archive.write(file, file.name)
    headers = {"Content-Disposition": f'attachment; filename="{name}-{adapter.id[:8]}.zip"'}
    return Response(content.getvalue(), media_type="application/zip", headers=headers)


@router.get("/adapter/pieces")
async def show_pieces(user: CurrentUser, state: ServerState, task: TaskName) -> PiecesResult:
    """Returns the sharers of your assembled adapter and the weights of their pieces: [kind][sharer][layer]."""

    def read() -> PiecesResult:
        adapter = state.home.store.latest_adapters(find_task(state, task).name, [user]).get((task, user))
        if adapter is None or not adapter.is_recipe:
            raise NotFoundError("Your adapter is not assembled from pieces", hint="assemble one")
        use = state.home.pools.pieces(user, task)[1]
        return PiecesResult(
            sharers=use.sharers, kinds=use.kinds, layers=use.layers, amount=use.amount_CSL.tolist(),
            share=use.share_S.tolist(),
        )  # fmt: skip

    return await state.search(user, read)


@router.post("/train", status_code=202)
async def train_me(user: CurrentUser, state: ServerState, body: TaskBody) -> JobResult:
    """Starts a job that trains an adapter on your history."""
    return await state.write(user, lambda: _start_job(state, "train", user, body.task))


@router.post("/assemble", status_code=202)
async def assemble_me(user: CurrentUser, state: ServerState, body: TaskBody) -> JobResult:
    """Starts a job that assembles an adapter from pieces that others share."""

    def start() -> JobResult:
        if not pools(state.home.store, find_task(state, body.task).name):
            raise NotFoundError("There are no pieces for this task yet", hint="train an adapter instead")
        return _start_job(state, "assemble", user, body.task)

    return await state.write(user, start)


@router.get("/jobs")
def list_jobs(user: CurrentUser, state: ServerState, limit: PageSize = 50, before: PageBefore = None) -> JobPage:
    """Returns one page of your jobs, the latest first."""
    page, following = job_page(state.home.store, user, limit, before)
    return JobPage(jobs=[_job_result(state, job) for job in page], next=following)


@router.get("/jobs/{job}")
def show_job(user: CurrentUser, state: ServerState, job: str) -> JobResult:
    """Returns one job."""
    return _job_result(state, find_job(state.home.store, job, user))


@router.delete("/jobs/{job}")
async def cancel_job(user: CurrentUser, state: ServerState, job: str) -> JobResult:
    """Cancels a job that is queued or running. An adapter that it has finished already stays."""
    return await state.write(user, lambda: _job_result(state, state.jobs.cancel(job, user)))


def adapter_status(state: State, adapter: AdapterInfo | None) -> AdapterStatus:
    """Returns an adapter and its standing in words."""
    if adapter is None:
        return AdapterStatus(adapter=None, standing="no adapter yet", worth=Worth())
    result, worth = _adapter_result(state, adapter), worth_of(adapter)
    history = next((one.history for one in state.home.store.histories(adapter.task, [adapter.user])), None)
    words = behind(adapter, history, result.behind) or "up to date"
    return AdapterStatus(adapter=result, standing="; ".join(filter(None, (words, worth.words))), worth=worth)


def _adapter_result(state: State, one: AdapterInfo) -> AdapterResult:
    return AdapterResult(
        id=one.id, method=one.method, base=one.base, records=one.records, steps=one.steps, loss_first=one.loss_first,
        loss_last=one.loss_last, bytes=one.bytes, created=one.created, behind=state.home.behind(one),
        forgotten=one.forgotten, stale=None if one.waits else one.stale, waits=one.waits,
    )  # fmt: skip


def _start_job(state: State, kind: JobKind, user: str, task: str) -> JobResult:
    return _job_result(state, state.jobs.ask(kind, user, find_task(state, task).name))


def _job_result(state: State, job: JobInfo) -> JobResult:
    return JobResult(
        id=job.id, kind=job.kind, task=job.task, state=job.state, error=job.error,
        progress=state.jobs.progress(job.id) if job.state == "running" else None, adapter=job.adapter,
        created=job.created, ended=job.ended,
    )  # fmt: skip
