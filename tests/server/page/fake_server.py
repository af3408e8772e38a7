"""A server that speaks the contract of `ownlm serve` with made-up answers, for the page's tests.

By hand, with the page at http://127.0.0.1:8765/ and a token such as tok-trained-0123456789:

    PYTHONPATH=src:. python -m tests.server.page.fake_server
"""

import asyncio
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ownlm.server.http.middleware import PAGE_POLICY
from ownlm.server.http.page_files import add_page
from tests.server.page import fake_people
from tests.server.page.fake_people import ANSWERS, NOT_KNOWN, TASKS, XSS, Someone

HEADERS = {
    "Content-Security-Policy": PAGE_POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
}  # fmt: skip
ME = "/v1/users/me"
OPEN = ("queued", "running")


class Fake:
    """What is held, and how the server behaves."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As it was at first."""
        self.people = fake_people.everybody()
        self.pause_s = 0.01  # between two pieces of an answer
        self.gate: threading.Event | None = None  # what the second half of an answer waits for
        self.looks = 1  # at a job until it is done
        self.refuse: dict[str, int] = {}  # by path: a status to answer with, once
        self.chats: list[dict[str, Any]] = []
        self.not_offered: dict[str, str] = {}  # by kind of job: why it cannot be asked for
        self.stopped = 0  # answers whose reader went away


def make_app(fake: Fake) -> FastAPI:
    """The app, with the page."""
    app = FastAPI(docs_url=None, redoc_url=None)
    add_page(app)

    @app.middleware("http")
    async def _(request: Request, call_next: Any) -> Response:
        if status := fake.refuse.pop(request.url.path, 0):
            headers = {"Retry-After": "2"} if status == 429 else {}
            return JSONResponse({"error": {"message": f"Refused with {status}"}}, status, headers)
        response: Response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> JSONResponse:
        body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
        return JSONResponse({"error": body}, error.status_code)

    def caller(authorization: Annotated[str, Header()] = "") -> Someone:
        someone = fake.people.get(authorization.removeprefix("Bearer "))
        if someone is None:
            raise HTTPException(401, "The token is not known. Next: ask whoever runs the server for one.")
        return someone

    Caller = Annotated[Someone, Depends(caller)]
    _add_answers(app, fake, Caller)
    _add_history(app, Caller)
    _add_adapters(app, fake, Caller)
    _add_person(app, fake, Caller)
    return app


def _add_answers(app: FastAPI, fake: Fake, Caller: Any) -> None:
    @app.get("/v1/tasks")
    async def _(someone: Caller) -> dict[str, Any]:
        return {"tasks": TASKS}

    @app.post("/v1/chat/completions")
    async def _(someone: Caller, asked: Annotated[dict[str, Any], Body()]) -> StreamingResponse:
        fake.chats.append(asked)
        versions = someone.versions.get(asked["model"], [])
        own = versions[0] if versions and not versions[0]["stale"] and not asked.get("base_only") else None
        base_says, own_says = ANSWERS[asked["model"], asked.get("choose", False)]
        text = own_says if own else base_says
        warning = f"Your assembly is stale: {versions[0]['stale']}; the base answers." if versions and not own else None
        if someone.user == "eve":
            text += " " + XSS
        told = {
            "adapter": own and own["id"], "base": "triage-base", "ignored_messages": 0,
            "warning": None if asked.get("base_only") else warning,
            "retrieved": [r["id"] for r in someone.records.get(asked["model"], [])[: asked.get("rag") or 0]],
        }  # fmt: skip
        return StreamingResponse(_chunks(fake, text, told), media_type="text/event-stream")


async def _chunks(fake: Fake, text: str, told: dict[str, Any]) -> AsyncIterator[str]:
    def chunk(delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({'choices': [choice], **more})}\r\n\r\n"

    over = False
    try:
        yield chunk({"role": "assistant", "content": ""})
        for place in range(0, len(text), 4):
            await asyncio.sleep(fake.pause_s)
            while place > len(text) / 2 and fake.gate and not fake.gate.is_set():
                await asyncio.sleep(0.01)
            yield chunk({"content": text[place : place + 4]})
        yield ": nothing\n\n" + chunk({}, "stop", ownlm=told) + "data: [DONE]\n\n"
        over = True
    finally:
        fake.stopped += not over


def _add_history(app: FastAPI, Caller: Any) -> None:
    @app.get(f"{ME}/history")
    async def _(
        someone: Caller, task: str, q: str = "", limit: int = 50, before: str = "", id: str = ""
    ) -> dict[str, Any]:
        held = [r for r in someone.records.get(task, []) if q.lower() in json.dumps(r["fields"]).lower()]
        held = [r for r in held if id in ("", r["id"])]
        start = int(before or 0)
        page, after = held[start : start + limit], start + limit
        return {"total": len(held), "records": page, "next": str(after) if after < len(held) else None}

    @app.post(f"{ME}/history", status_code=201)
    async def _(someone: Caller, task: Annotated[str, Body()], records: Annotated[list[Any], Body()]) -> dict[str, int]:
        if any(record.get("text") == "refuse me" for record in records):
            raise HTTPException(400, "Record 1 is wrong. Expected: another text. Next: change it, and add it again.")
        held = someone.records.setdefault(task, [])
        known = {r["id"] for r in held}
        fresh = [r for r in records if r.get("id") not in known]
        for number, record in enumerate(fresh):
            fields = {k: v for k, v in record.items() if k not in ("id", "time")}
            name = record.get("id", f"new-{len(held)}-{number}")
            held.insert(0, {"id": name, "task": task, "time": record.get("time"), "fields": fields})
        for version in someone.versions.get(task, [])[:1]:
            version["behind"] += len(fresh)
        return {"new": len(fresh), "known": len(records) - len(fresh), "forgotten": 0}

    @app.delete(ME + "/history/{record:path}")
    async def _(someone: Caller, record: str, task: str) -> dict[str, int]:
        someone.records[task].remove(_find(someone, task, record))
        for version in someone.versions.get(task, [])[:1]:
            version["forgotten"] += 1
        return {"records": 1, "marked": len(someone.versions.get(task, [])[:1])}


def _find(someone: Someone, task: str, record: str) -> dict[str, Any]:
    for one in someone.records.get(task, []):
        if one["id"] == record:
            return one
    raise HTTPException(404, "There is no such record.")


def _add_adapters(app: FastAPI, fake: Fake, Caller: Any) -> None:
    @app.get(f"{ME}/adapter")
    async def _(someone: Caller, task: str) -> dict[str, Any]:
        versions = someone.versions.get(task, [])
        mine = [job for job in someone.jobs if job["task"] == task]
        return {
            "adapter": versions[0] if versions else None, "versions": versions[::-1], "job": mine[-1] if mine else None,
            "open_jobs": [job for job in mine if job["state"] in OPEN],
            "not_offered": _not_offered(fake, someone, task), **_standing(someone, task),
        }  # fmt: skip

    @app.get(f"{ME}/adapter/pieces")
    async def _(someone: Caller, task: str) -> dict[str, Any]:
        return fake_people.pieces()

    @app.get(f"{ME}/adapter/download")
    async def _(someone: Caller, task: str) -> Response:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as folder:
            folder.writestr("adapter_config.json", '{"r": 8}')
            folder.writestr("adapter_model.safetensors", b"\0" * 8)
        return Response(packed.getvalue(), media_type="application/zip")

    async def make(someone: Caller, request: Request, task: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
        job = {
            "id": f"job-{len(someone.jobs)}", "kind": request.url.path.rpartition("/")[2], "task": task, "looks": 0,
            "state": "queued", "progress": None, "error": None, "adapter": None, "ended": None,
            "created": "2026-11-28T20:00:00+00:00",
        }  # fmt: skip
        someone.jobs.append(job)
        return job

    app.post(f"{ME}/train", status_code=202)(make)
    app.post(f"{ME}/assemble", status_code=202)(make)

    @app.delete(ME + "/jobs/{job}")
    async def _(someone: Caller, job: str) -> dict[str, Any]:
        found = next(one for one in someone.jobs if one["id"] == job)
        found |= {"state": "cancelled", "ended": "2026-11-28T20:01:00+00:00"}
        return found

    @app.get(ME + "/jobs/{job}")
    async def _(someone: Caller, job: str) -> dict[str, Any]:
        found = next(one for one in someone.jobs if one["id"] == job)
        _go_on(fake, someone, found)
        return found


def _go_on(fake: Fake, someone: Someone, job: dict[str, Any]) -> None:
    """Each look takes a job further."""
    if job["ended"]:
        return
    job["looks"] += 1
    if job["looks"] < fake.looks:
        job |= {
            "state": "running",
            "progress": {"stage": "training steps", "done": job["looks"] * 8, "total": fake.looks * 8},
        }
    elif someone.user.startswith("fay"):
        error = {"what": "Too few records for a training step.", "hint": "add 3 records more, then train again"}
        job |= {"state": "failed", "error": error, "ended": "2026-11-28T20:01:00+00:00"}
    else:
        held, versions = len(someone.records[job["task"]]), someone.versions.setdefault(job["task"], [])
        method = "lora" if job["kind"] == "train" else "recipe"
        versions.insert(0, fake_people.adapter(24 + len(versions), method, held))
        job |= {"state": "done", "adapter": versions[0]["id"], "ended": "2026-11-28T20:01:00+00:00"}


def _standing(someone: Someone, task: str) -> dict[str, Any]:
    versions = someone.versions.get(task, [])
    worth = someone.worth if versions else NOT_KNOWN
    if not versions:
        return {"standing": "no adapter yet", "worth": worth}
    behind = versions[0]["behind"]
    return {"standing": versions[0]["stale"] or (f"{behind} new" if behind else "up to date"), "worth": worth}


def _not_offered(fake: Fake, someone: Someone, task: str) -> dict[str, str | None]:
    versions, jobs = someone.versions.get(task, []), [job for job in someone.jobs if job["task"] == task]
    if not someone.records.get(task):
        return {"train": "no_records", "assemble": "no_records"}
    known = versions and not any(versions[0][what] for what in ("behind", "stale", "forgotten"))
    reasons: dict[str, str | None] = {"train": None, "assemble": None}
    if known:
        reasons["train" if versions[0]["method"] == "lora" else "assemble"] = "up_to_date"
    reasons |= {job["kind"]: "at_work" for job in jobs if job["state"] in OPEN}
    return reasons | fake.not_offered


def _add_person(app: FastAPI, fake: Fake, Caller: Any) -> None:
    @app.get(ME)
    async def _(someone: Caller) -> dict[str, Any]:
        tasks = [
            {
                "task": task, "records": len(held), **_standing(someone, task),
                "adapter": next(iter(someone.versions.get(task, [])), None),
            }
            for task, held in someone.records.items()
        ]  # fmt: skip
        return {"user": someone.user, "scope": someone.scope, "consent": someone.consent, "tasks": tasks}

    @app.put(f"{ME}/consent")
    async def _(someone: Caller, wanted: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        shares = wanted["shares"]
        since = "2026-11-28T20:00:00+00:00" if shares else None
        someone.consent = {
            "shares": shares,
            "licence": wanted.get("licence", "CC-BY-4.0") if shares else None,
            "since": since,
        }
        return someone.consent

    @app.delete(ME)
    async def _(someone: Caller, confirm: str) -> dict[str, Any]:
        if confirm != someone.user:
            raise HTTPException(400, "Nothing was deleted: `confirm` is not your name.")
        fake.people = {token: one for token, one in fake.people.items() if one is not someone}
        counts = {
            "records": sum(map(len, someone.records.values())),
            "adapters": sum(map(len, someone.versions.values())),
        }
        return counts | {"profiles": 0, "marked": 0, "blobs": 1, "bases": ["triage-base"] if counts["adapters"] else []}


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(Fake()), port=8765)
