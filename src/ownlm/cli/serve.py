"""`ownlm serve`: checks the options, takes the lock of the home, and runs the HTTP server."""

import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ownlm.cli import options
from ownlm.cli.home import open_home
from ownlm.cli.output import print_json, say, warn
from ownlm.errors import ConfigError, OwnlmError, StoreError
from ownlm.model.bases.placement import Placement
from ownlm.programs import PYTHON

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ownlm.home import Home
    from ownlm.inference.protocol import ServingEngine
    from ownlm.server.limits import Limits


_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_JobTimeout = Annotated[
    float, typer.Option("--job-timeout", metavar="S", help="Time limit of one training or assembly, in seconds.", min=1)
]
_HistoryMb = Annotated[
    float,
    typer.Option("--history-mb", metavar="MB", help="Limit of a user's records in a task, over HTTP.", min=0.001),
]
_PerAddress = Annotated[
    int,
    typer.Option("--connections-per-address", metavar="N", help="For clients, or a proxy, on another machine.", min=1),
]
_UserRate = Annotated[int, typer.Option("--requests-per-minute", metavar="N", help="Of each user's token.", min=1)]
_OperatorRate = Annotated[
    int | None,
    typer.Option(
        "--operator-requests-per-minute", metavar="N", help="Limit of each operator's token; none by default.", min=1
    ),
]
_AtOnce = Annotated[
    int, typer.Option("--answers-at-once", metavar="N", help="Limit of one user's token; further ones wait.", min=1)
]
_Waiting = Annotated[
    int, typer.Option("--answers-waiting", metavar="N", help="Limit of one token, beside those under way.", min=0)
]
_BodiesMb = Annotated[
    float,
    typer.Option("--bodies-mb", metavar="MB", help="Of all requests under way; a quarter for one token.", min=0.1),
]
_RootPath = Annotated[
    str, typer.Option("--root-path", metavar="PATH", help="Prefix of every path at a reverse proxy, such as /own.")
]
_Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        metavar="ORIGIN",
        help="Origin of web pages that may use the API, such as https://chat.example.org; '*' for all. Repeatable.",
    ),
]


def serve(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 for any that is free.", min=0, max=65535)] = 8000,
    slots: Annotated[int, typer.Option("--slots", metavar="N", help="Number of adapters in memory.", min=1)] = 64,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", help="Number of waiting answers; further requests get 503.", min=1)
    ] = 256,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Limit of an answer; longer ones are cut.", min=1)
    ] = 1024,
    requests_per_minute: _UserRate = 600,
    operator_requests_per_minute: _OperatorRate = None,
    answers_at_once: _AtOnce = 16,
    answers_waiting: _Waiting = 256,
    bodies_mb: _BodiesMb = 64,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Of one answer, in seconds.", min=0.1)] = 120,
    job_timeout: _JobTimeout = 21_600,
    history_mb: _HistoryMb = 20,
    connections_per_address: _PerAddress = 256,
    root_path: _RootPath = "",
    allow_origin: _Origins = None,
    engine: Annotated[
        Literal["own", "vllm"], typer.Option("--engine", help="Inference engine: ownlm's own, or vLLM for one base.")
    ] = "own",
    vllm_python: Annotated[
        Path,
        typer.Option("--vllm-python", metavar="FILE", help="The Python that has vLLM and ownlm.", show_default="this"),
    ] = Path(PYTHON),
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Serve all users' models: OpenAI's API, an API for users' own data, and a web page.

    Requests need a token: `ownlm users token USER`, or --operator, makes one. Ctrl-C ends the server after the answers
    under way.
    """
    with _interruptible():
        from ownlm.server.http.origins import clean_origin, clean_root_path

        root_path, origins = clean_root_path(root_path), [clean_origin(one) for one in allow_origin or ()]
        listening = _listen(host, port)
        from ownlm.server.app import create_app
        from ownlm.server.limits import Limits
        from ownlm.store.exports import sweep_ended

        opened = open_home(home, Placement(device, dtype))
        limits = Limits(
            max_tokens=max_tokens, requests_per_minute=requests_per_minute, timeout_s=timeout,
            job_timeout_s=job_timeout, bodies_bytes=round(bodies_mb * 1e6),
            history_bytes=round(history_mb * 1e6), connections_per_address=connections_per_address,
            operator_requests_per_minute=operator_requests_per_minute, at_once=answers_at_once, queued=answers_waiting,
        )  # fmt: skip
        with _locked(home, opened.store.folder):
            sweep_ended(opened.store)
            answers = _engine(opened, engine, slots, queue, vllm_python)
            app = create_app(opened, answers, limits, root_path=root_path, origins=origins)
            _run(app, listening, limits, root_path, json)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Converts Ctrl-C before the server is ready into an error; later uvicorn handles it."""
    try:
        yield
    except KeyboardInterrupt:
        raise OwnlmError("Interrupted before the server was ready", hint="run the same command again") from None


def _locked(home: Path, folder: Path) -> AbstractContextManager[object]:
    """The lock for the only server of a home."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "serve.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"The home {home} is being served already", hint="end that server, or serve another home"
        ) from None
    except OSError as error:
        raise StoreError(f"The home {home} cannot be served", got=error.strerror, hint="make it writable") from None


def _engine(home: "Home", kind: str, slots: int, queue: int, python: Path) -> "ServingEngine":
    if kind == "own":
        from ownlm.inference.async_engine import AsyncEngine
        from ownlm.inference.scheduler import EngineLimits

        return AsyncEngine(home.store, home.placement, EngineLimits(slots=slots), queue=queue)
    from ownlm.server.vllm.engine import on_other_bases, served_base, start_engine
    from ownlm.server.vllm.server import VllmSettings

    base, dtype = served_base(home.store), home.placement.dtype
    settings = VllmSettings(
        python=str(python), slots=slots, in_memory=max(256, slots), dtype=None if dtype == "auto" else dtype
    )
    if apart := len(on_other_bases(home.store, base)):
        warn(f"vLLM serves {base.name} only; newest adapters on other bases, which cannot answer: {apart}")
    warn(f"starting vLLM with {base.name}: this takes a minute or more")
    return start_engine(home.store, settings, base=base.name, device=home.placement.device, most=queue)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(
            f"Nothing can listen at {host}, port {port}",
            got=error.strerror or error,
            hint="choose another --host or --port",
        ) from None


def _run(app: "FastAPI", listening: socket.socket, limits: "Limits", root_path: str, json: bool) -> None:
    import uvicorn

    from ownlm.server.http.connections import server_config

    host, port = listening.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    address += root_path
    if json:
        print_json({"address": address}, line=True)
    else:
        say(f"{address}: the page; {address}/v1: the API; {address}/docs: what it can do")
    if host not in _LOOPBACK:
        warn("texts and tokens are not encrypted: use a proxy with TLS unless the network is private")
    config = server_config(app, limits)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again after its shutdown
    server = uvicorn.Server(config)
    ends = server.handle_exit

    def exit_with_message(by: int, frame: FrameType | None) -> None:
        if server.should_exit:  # the second Ctrl-C: errors of aborted requests are expected
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        else:
            warn("ending after the answers under way; Ctrl-C again aborts them")
        ends(by, frame)

    server.handle_exit = exit_with_message  # type: ignore[method-assign, assignment]
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
