"""Routes for the caller's records: list, add, edit, delete."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query

from ownlm.errors import DataError, NotFoundError
from ownlm.history.record import Record, in_order
from ownlm.history.row import to_record
from ownlm.history.task import Task
from ownlm.history.times import UnitCheck
from ownlm.server.auth import CurrentUser
from ownlm.server.errors import about_field
from ownlm.server.http.strict_json import StrictRoute
from ownlm.server.routes.openai import find_task
from ownlm.server.routes.schemas import (
    AddedRecords,
    DeletedRecord,
    EditedRecord,
    NewRecords,
    PageBefore,
    PageSize,
    RecordChanges,
    RecordPage,
    RecordResult,
    TaskName,
)
from ownlm.server.state import ServerState, State
from ownlm.store.forget import Forgotten
from ownlm.store.records import Bounds, history_page
from ownlm.workflows.report import Edited

router = APIRouter(prefix="/v1/users/me/history", route_class=StrictRoute, tags=["me"])


@router.get("")
async def show_history(
    user: CurrentUser, state: ServerState, task: TaskName,
    q: Annotated[str, Query(max_length=1000, description="Only records that contain this text.")] = "",
    limit: PageSize = 50,
    id: Annotated[str | None, Query(max_length=1000, description="Only the record with this id.")] = None,
    before: PageBefore = None,
) -> RecordPage:  # fmt: skip
    """Returns one page of your records, the latest first."""

    def read() -> RecordPage:
        name = find_task(state, task).name
        page, total = history_page(state.home.store, name, user, limit, before=before, contains=q, id=id)
        end = total if before is None else min(before, total)
        records = [_record_result(record, task) for record in page]
        return RecordPage(total=total, records=records, next=end - limit if end > limit else None)

    return await (state.search(user, read) if q else to_thread.run_sync(read))


@router.post("", status_code=201)
async def add_history(user: CurrentUser, state: ServerState, body: NewRecords) -> AddedRecords:
    """Adds all of these records, or none. A record that exists already with the same text is left as it is."""
    return await state.write(user, lambda: _add(state, user, body))


@router.patch("/{record:path}")
async def edit_record(
    user: CurrentUser, state: ServerState, record: str, task: TaskName, body: RecordChanges
) -> EditedRecord:
    """Corrects one record, which keeps its id. The old text is deleted; adapters that learnt from it are marked."""
    edited: list[Edited] = []

    def edit() -> Forgotten:
        name = find_task(state, task).name
        changes = {field: value.strip() or None for field, value in body.changes.items()}
        try:
            edited.append(state.home.edit_record(user, record, changes, name, bounds=_bounds(state)))
        except NotFoundError:
            raise _no_record() from None
        return edited[0].removed

    done, finished = await state.deletions(user, edit)
    return EditedRecord(
        record=_record_result(edited[0].record, task), changed=edited[0].changed, marked=done.marked,
        pools=len(done.pools), finished=finished,
    )  # fmt: skip


@router.delete("/{record:path}")
async def delete_record(user: CurrentUser, state: ServerState, record: str, task: TaskName) -> DeletedRecord:
    """Deletes one record, and marks the adapters that have learnt from it.

    `finished` says whether no file holds a trace any more; if not, the server removes the rest later.
    """

    def delete() -> Forgotten:
        name = find_task(state, task).name
        try:
            return state.home.forget_record(user, record, name)
        except NotFoundError:
            raise _no_record() from None

    done, finished = await state.deletions(user, delete)
    return DeletedRecord(
        records=done.records, marked=done.marked, adapters=done.adapters, pools=len(done.pools), finished=finished
    )


def _add(state: State, user: str, body: NewRecords) -> AddedRecords:
    task, records, times = find_task(state, body.task), list[Record](), UnitCheck()
    for number, row in enumerate(body.records, 1):
        with about_field(f"records[{number - 1}]"):
            records.append(_read_record(row, task, user, number))
            try:
                times.check(records[-1].time, f"record {number}")
            except ValueError as error:
                raise DataError(f"Record {number} of the request is invalid: {error}") from None
    counts = state.home.store.add_records(task.name, [in_order(user, records)], bounds=_bounds(state))
    return AddedRecords(**dict(zip(("new", "known", "forgotten"), counts, strict=True)))


def _read_record(row: dict[str, Any], task: Task, user: str, number: int) -> Record:
    """Parses one record of a request; a DataError says which record is invalid."""
    if row.get("user_id", user) != user:
        hint = "leave `user_id` out: records are added to your own history"
        raise DataError(f"Record {number} of the request belongs to another user", hint=hint)
    known = {"user_id", "id", "time", "date", *task.record_fields}
    try:
        if unknown := [name for name in row if name not in known]:
            raise DataError(f"the task has no field {unknown[0][:50]!r}", expected=", ".join(task.record_fields))
        return to_record(row, task, user=user)
    except (ValueError, KeyError) as error:
        reason = error if isinstance(error, DataError) else DataError(str(error))
        raise DataError(
            f"Record {number} of the request is invalid: {reason.what}", expected=reason.expected,
            hint="GET /v1/tasks returns the fields and labels",
        ) from None  # fmt: skip


def _bounds(state: State) -> Bounds:
    return Bounds(state.limits.records, state.limits.history_bytes)


def _record_result(record: Record, task: str) -> RecordResult:
    return RecordResult(id=record.id, task=task, time=record.time, fields=dict(record.fields))


def _no_record() -> NotFoundError:
    return NotFoundError("You have no such record in this task", hint="GET /v1/users/me/history")
