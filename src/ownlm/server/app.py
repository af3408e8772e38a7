"""The app: routes, errors, the page, and what begins and ends with the server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ownlm import __version__
from ownlm.home import Home
from ownlm.inference.protocol import ServingEngine
from ownlm.server.answering import ClientLeft
from ownlm.server.auth import Operator
from ownlm.server.deletions import Forgetting
from ownlm.server.errors import add_refusals
from ownlm.server.http.middleware import Guard
from ownlm.server.http.origins import RootPath, allow_origins, clean_root_path
from ownlm.server.http.page_files import add_page
from ownlm.server.jobs import Jobs
from ownlm.server.limits import Limits, Meter
from ownlm.server.metrics import Metrics
from ownlm.server.retrieval import Retrieval
from ownlm.server.routes import corrections, openai, users
from ownlm.server.state import State
from ownlm.store.jobs import job_counts

_REFUSED = {"description": "Refused: what, and what to do next.", "content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}}}}  # fmt: skip
_REFUSALS = {status: _REFUSED for status in (400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504)}


def create_app(
    home: Home, engine: ServingEngine, limits: Limits | None = None, *, root_path: str = "", origins: Sequence[str] = ()
) -> FastAPI:
    """A server of a home, for uvicorn or another.

    Args:
        engine: answers; it is stopped with the app.
        root_path: prefix of every path at the reverse proxy, which may strip it or pass it on.
        origins: of pages in browsers that may use the API, such as `https://chat.example.org`; '*' for all.

    Raises:
        ConfigError: the root path or an origin is none.

    Source: ours; the API of completions is OpenAI's.
    """
    limits, root_path = limits or Limits(), clean_root_path(root_path)
    jobs, forgetting = Jobs(home, limits.job_timeout_s), Forgetting(home)
    retrieval = Retrieval(home.store.folder, limits.timeout_s)
    state = State(home, engine, jobs, forgetting, limits, Meter(limits), Metrics(engine), retrieval)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        jobs.start()
        forgetting.start()
        try:
            yield
        finally:
            jobs.stop()
            forgetting.stop()
            retrieval.stop()
            await engine.stop(limits.grace_s)

    app: FastAPI = FastAPIOffline(
        redirect_slashes=False,  # a client that shortens `history/..` must not be led to `/v1/users/me`
        docs_url=None, redoc_url=None, static_url="/docs-files", title="ownlm", version=__version__, lifespan=lifespan,
        summary="Everybody's own model behind one address.", responses=_REFUSALS,
        servers=None if root_path else [{"url": "."}],  # relative to openapi.json, wherever a proxy shows that
    )  # fmt: skip
    app.state.ownlm = state
    add_refusals(app)
    app.add_exception_handler(ClientLeft, _nobody_waits)
    app.include_router(openai.router)
    app.include_router(users.router)
    app.include_router(corrections.router)
    _add_others(app, state, root_path)
    app.add_middleware(_HeadAsGet)
    app.add_middleware(Guard, state=state)
    if root_path:
        app.add_middleware(RootPath, root_path=root_path)
    allow_origins(app, origins)
    return app


class _HeadAsGet:
    """Middleware: what can be got can be asked for by HEAD, too, which is answered without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        got = {**scope, "method": "GET"}  # a copy: the server below must see which method it answers
        try:
            await self._app(got, receive, without_body)
        finally:
            scope["route"] = got.get("route")


async def _nobody_waits(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _add_others(app: FastAPI, state: State, root_path: str) -> None:
    """Health, numbers, and the page."""

    @app.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """Whether the server is up, and can read its home."""
        await to_thread.run_sync(state.home.store.tasks, limiter=state.readers)
        return {"status": "ok"}

    @app.get("/metrics", tags=["server"], response_class=Response, responses=openai.sends("text/plain"))
    async def metrics(caller: Operator) -> Response:
        """Counters and gauges, for Prometheus; with an operator's token."""
        jobs = await to_thread.run_sync(job_counts, state.home.store, limiter=state.readers)
        return Response(state.metrics.text(jobs), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:  # relative addresses: a proxy may show it below any path
        return get_swagger_ui_html(
            openapi_url="openapi.json", title="ownlm", swagger_favicon_url="docs-files/favicon.png",
            swagger_js_url="docs-files/swagger-ui-bundle.js", swagger_css_url="docs-files/swagger-ui.css",
        )  # fmt: skip

    add_page(app, root_path)
