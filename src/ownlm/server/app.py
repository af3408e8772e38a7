"""The FastAPI app: routes, error handlers, middleware, the page, and the lifespan of what works for the server."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi_offline import FastAPIOffline

from ownlm import __version__
from ownlm.home import Home
from ownlm.inference.protocol import ServingEngine
from ownlm.server.answering import ClientLeft
from ownlm.server.auth import Operator
from ownlm.server.deletions import Deletions
from ownlm.server.errors import ErrorResult, add_error_handlers
from ownlm.server.http.middleware import HeadMiddleware, RequestMiddleware
from ownlm.server.http.origins import RootPathMiddleware, allow_origins, clean_root_path
from ownlm.server.http.page_files import add_page
from ownlm.server.jobs import Jobs
from ownlm.server.limits import Limits, Meter
from ownlm.server.metrics import Metrics
from ownlm.server.retrieval import Retrieval
from ownlm.server.routes import adapters, history, openai, users
from ownlm.server.routes.schemas import Health
from ownlm.server.state import State
from ownlm.store.jobs import job_counts

_ERROR = {"model": ErrorResult, "description": "What is wrong, and what to do next."}
_STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504)


def create_app(
    home: Home, engine: ServingEngine, limits: Limits | None = None, *, root_path: str = "", origins: Sequence[str] = ()
) -> FastAPI:
    """Returns the app that serves a home, for uvicorn or another ASGI server.

    Args:
        home: Home whose users are served.
        engine: Engine that answers; the app stops it.
        limits: Limits on requests; None for the defaults.
        root_path: Path prefix at the reverse proxy, which may strip it or pass it on.
        origins: Origins of web pages that may use the API, such as `https://chat.example.org`; '*' for all.

    Raises:
        ConfigError: The root path or an origin is invalid.

    Source: ours; the API of completions is OpenAI's.
    """
    limits, root_path = limits or Limits(), clean_root_path(root_path)
    jobs, deletions = Jobs(home, limits.job_timeout_s), Deletions(home)
    retrieval = Retrieval(home.store.folder, limits.timeout_s)
    state = State(home, engine, jobs, deletions, limits, Meter(limits), Metrics(engine), retrieval)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        jobs.start()
        deletions.start()
        try:
            yield
        finally:
            jobs.stop()
            deletions.stop()
            retrieval.stop()
            await engine.stop(limits.grace_s)

    app: FastAPI = FastAPIOffline(
        redirect_slashes=False,  # a client that shortens `history/..` must not be led to `/v1/users/me`
        docs_url=None, redoc_url=None, static_url="/docs-files", title="ownlm", version=__version__, lifespan=lifespan,
        summary="Everybody's own model behind one address.", responses=dict.fromkeys(_STATUSES, _ERROR),
        servers=None if root_path else [{"url": "."}],  # relative to openapi.json, wherever a proxy serves it
    )  # fmt: skip
    app.state.ownlm = state
    add_error_handlers(app)
    app.add_exception_handler(ClientLeft, _client_left)
    for routes in (openai, users, history, adapters):
        app.include_router(routes.router)
    _add_server_routes(app, state, root_path)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestMiddleware, state=state)
    if root_path:
        app.add_middleware(RootPathMiddleware, root_path=root_path)
    allow_origins(app, origins)
    return app


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _add_server_routes(app: FastAPI, state: State, root_path: str) -> None:
    """Adds health, metrics, the API's description and the page."""

    @app.get("/healthz", tags=["server"])
    async def healthz() -> Health:
        """Returns whether the server is up and can read its home."""
        await to_thread.run_sync(state.home.store.tasks, limiter=state.readers)
        return Health(status="ok")

    @app.get("/metrics", tags=["server"], response_class=Response, responses=openai.content_of("text/plain"))
    async def metrics(caller: Operator) -> Response:
        """Returns counters and gauges for Prometheus. Needs an operator's token."""
        jobs = await to_thread.run_sync(job_counts, state.home.store, limiter=state.readers)
        return Response(state.metrics.text(jobs), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:  # relative addresses: a proxy may serve it below any path
        return get_swagger_ui_html(
            openapi_url="openapi.json", title="ownlm", swagger_favicon_url="docs-files/favicon.png",
            swagger_js_url="docs-files/swagger-ui-bundle.js", swagger_css_url="docs-files/swagger-ui.css",
        )  # fmt: skip

    add_page(app, root_path)
