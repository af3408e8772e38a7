"""Routes for the caller's own account: tasks, status, consent, deletion."""

from typing import Annotated

from fastapi import APIRouter, Query

from ownlm.errors import ConfigError, NotFoundError
from ownlm.server.auth import CurrentCaller, CurrentUser
from ownlm.server.errors import about_field
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.routes.adapters import adapter_status
from ownlm.server.routes.openai import find_task
from ownlm.server.routes.schemas import (
    ConsentBody,
    ConsentResult,
    DeletedUser,
    TaskInfo,
    TaskList,
    TaskStatus,
    UserResult,
)
from ownlm.server.state import ServerState, State
from ownlm.store.consents import LICENCE, Consent
from ownlm.store.records import record_counts

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["me"])


@router.get("/tasks")
def list_tasks(caller: CurrentCaller, state: ServerState) -> TaskList:
    """Returns the tasks of this home with their fields and labels."""
    tasks = [find_task(state, name) for name in state.home.store.tasks()]
    return TaskList(
        tasks=[
            TaskInfo(
                name=task.name, instruction=task.instruction_text, input_fields=task.input_fields,
                required=task.required_inputs, record_fields=task.record_fields, answer_field=task.answer_field,
                labels=task.labels,
            )
            for task in tasks
        ]
    )  # fmt: skip


@router.get("/users/me")
def show_me(caller: CurrentCaller, state: ServerState) -> UserResult:
    """Returns the user of the token, their consent, and their records and adapter in each task."""
    token, user = caller.token, caller.token.user
    if user is None:
        return UserResult(user=None, scope=token.scope, expires=token.expires, consent=None, tasks=[])
    latest = {task: adapter for (task, _), adapter in state.home.store.latest_adapters(None, [user]).items()}
    tasks = [
        TaskStatus(task=task, records=count, **dict(adapter_status(state, latest.get(task))))
        for task, count in record_counts(state.home.store, user).items()
    ]
    consent = _consent_result(_consent(state, user, None, LICENCE))
    return UserResult(user=user, scope=token.scope, expires=token.expires, consent=consent, tasks=tasks)


@router.delete("/users/me")
async def delete_me(
    user: CurrentUser, state: ServerState, confirm: Annotated[str, Query(max_length=1000, description="Your name.")]
) -> DeletedUser:
    """Deletes all of your data from this home. Your tokens are invalid afterwards.

    `confirm` must be your name, as clients shorten `/v1/users/me/history/..` to `/v1/users/me`. `finished` says whether
    no file holds a trace any more; if not, the server removes the rest later. `waiting` is the number of pools from
    which your pieces are removed when no training runs; until then these pools answer no requests.
    """
    if confirm != user:
        with about_field("confirm"):
            raise ConfigError("Nothing was deleted: `confirm` is not your name", hint="GET /v1/users/me says your name")
    done, finished = await state.deletions(user, lambda: state.home.forget(user, wait=False))
    return DeletedUser(
        records=done.records, profiles=done.profiles, adapters=done.adapters, blobs=done.blobs, searched=done.texts,
        bases=tuple(done.bases), withdrawn=len(done.withdrawn), waiting=len(done.pools), finished=finished,
    )  # fmt: skip


@router.get("/users/me/consent")
def show_consent(user: CurrentUser, state: ServerState) -> ConsentResult:
    """Returns whether you share pieces of your adapters."""
    return _consent_result(_consent(state, user, None, LICENCE))


@router.put("/users/me/consent")
async def change_consent(user: CurrentUser, state: ServerState, body: ConsentBody) -> ConsentResult:
    """Gives or withdraws your consent to share. After a withdrawal no request is answered with your pieces."""
    return _consent_result(await state.write(user, lambda: _consent(state, user, body.shares, body.licence)))


def _consent(state: State, user: str, share: bool | None, licence: str) -> Consent:
    try:
        return state.home.consent(user, share, licence)
    except NotFoundError:
        if share:
            raise NotFoundError("You have no records to share", hint="add records first") from None
        return Consent(user=user, shares=False)


def _consent_result(consent: Consent) -> ConsentResult:
    return ConsentResult(shares=consent.shares, licence=consent.licence, since=consent.since, pools=len(consent.pools))
