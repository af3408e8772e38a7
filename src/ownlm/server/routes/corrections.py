"""What a user may correct: a record, and which version of their adapter answers."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from ownlm.errors import NotFoundError
from ownlm.server.auth import Me
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.routes.openai import task_of
from ownlm.server.routes.openai_requests import Body
from ownlm.server.routes.users import STRICT, TaskName
from ownlm.server.state import AnyState
from ownlm.store.forget import Forgotten
from ownlm.store.records import Bounds
from ownlm.workflows.histories import Edited

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["me"])


class Change(Body):
    """New values of a record's fields; `time` is its time. A blank text removes an optional field, or the time."""

    model_config = STRICT

    changes: dict[str, str] = Field(min_length=1, max_length=100)


class Version(Body):
    """A version of an adapter, by its id or what it begins with."""

    model_config = STRICT

    task: str = Field(max_length=64)
    version: str = Field(min_length=1, max_length=64)


@router.patch("/users/me/history/{record:path}")
async def edit_record(user: Me, state: AnyState, record: str, task: TaskName, asked: Change) -> dict[str, Any]:
    """Corrects one record, which keeps its id. The old text is deleted; adapters that learnt from it are marked."""
    bounds = Bounds(state.limits.records, state.limits.history_bytes)
    edited: list[Edited] = []

    def edit() -> Forgotten:
        name = task_of(state, task).name
        changes = {field: value.strip() or None for field, value in asked.changes.items()}
        try:
            edited.append(state.home.edit_record(user, record, changes, name, bounds=bounds))
        except NotFoundError:
            raise NotFoundError("You have no such record in this task", hint="GET /v1/users/me/history") from None
        return edited[0].removed

    done, finished = await state.forgetting(user, edit)
    now = edited[0].record
    return {
        "record": {"id": now.id, "task": task, "time": now.time, "fields": dict(now.fields)},
        "changed": edited[0].changed, "marked": done.marked, "pools": len(done.pools), "finished": finished,
    }  # fmt: skip


@router.put("/users/me/adapter")
async def use_version(user: Me, state: AnyState, asked: Version) -> dict[str, Any]:
    """Uses an earlier version of your adapter again. The later ones stay; the next training continues from this one."""

    def use() -> dict[str, Any]:
        adapter = state.home.use_version(user, asked.version, task_of(state, asked.task).name)
        return {"adapter": adapter.id, "task": adapter.task, "behind": state.home.behind(adapter)}

    return await state.write(user, use)
