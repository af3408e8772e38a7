"""Starts, waits for and stops a vLLM server process."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Final

import httpx2 as httpx

from ownlm.errors import ConfigError, OwnlmError
from ownlm.inference.protocol import EngineDownError
from ownlm.model.bases.placement import default_device
from ownlm.programs import PYTHON, child_environment, python_command
from ownlm.server.vllm.terms import Terms, room_for, socket_in
from ownlm.store.exports import serving, sweep_served
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store

START_S: Final = 600.0  # large weights load slowly
POLL_S: Final = 0.25
END_S: Final = 15.0  # time between SIGTERM and SIGKILL
LAST_LINES: Final = 30
SOCKET_BYTES: Final = 100  # longest path of a socket on all systems
MODEL: Final = "ownlm"  # name of the bare base in vLLM, which is never requested

# Variables of our environment that must not reach vLLM.
_OUT: Final = ("VLLM_SKIP_MODEL_NAME_VALIDATION", "VLLM_SERVER_DEV_MODE", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE")
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # without it vLLM uses no resolver
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",  # lower levels log names of adapters
    "VLLM_PLUGINS": "ownlm",
}


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """Settings of a vLLM server.

    Args:
        python: Python of the environment that has vLLM and ownlm; by default this one.
        slots: Largest number of different adapters in one batch.
        in_memory: Number of adapters that the server keeps in memory; at least `slots`.
        rank: Highest rank of an adapter; by default the highest in the home.
        modules: Kinds of modules that adapters may change; by default those of the home's adapters.
        sequences: Largest number of requests in one batch.
        max_tokens: Longest sequence; by default the base's context.
        dtype: Data type; by default float32 on a CPU, else bfloat16.
        kv_gb: Size of the key-value cache on a CPU, in GB.
        gpu_memory: Fraction of a GPU's memory that vLLM may use.
        more: Further arguments of `vllm serve`.
    """

    python: str = PYTHON
    slots: int = 16
    in_memory: int = 256
    rank: int | None = None
    modules: tuple[str, ...] | None = None
    sequences: int = 64
    max_tokens: int | None = None
    dtype: str | None = None
    kv_gb: int = 1
    gpu_memory: float = 0.9
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.slots < 1 or self.in_memory < self.slots:
            raise ConfigError("vLLM needs at least one slot, and in memory at least as many adapters as slots")


def arguments(base: BaseInfo, terms: Terms, settings: VllmSettings, socket: Path, device: str) -> list[str]:
    """Returns the command that starts the server. It contains no secret, and turns off the logging of texts."""
    command = python_command("-m", "vllm.entrypoints.openai.api_server", python=settings.python)
    command += ["--model", base.folder]
    command += [
        "--served-model-name",
        MODEL,
        "--uds",
        str(socket),
        "--middleware",
        "ownlm.server.vllm.plugin.KeyMiddleware",
    ]
    command += ["--dtype", settings.dtype or ("float32" if device == "cpu" else "bfloat16")]
    command += ["--generation-config", "vllm"]  # sampling settings come from the request alone
    command += ["--enable-lora", "--max-loras", str(settings.slots + 1)]  # one more for the adapter that adds nothing
    command += ["--max-cpu-loras", str(settings.in_memory + 1), "--max-lora-rank", str(terms.rank)]
    command += ["--lora-target-modules", *terms.modules]
    command += ["--max-num-seqs", str(settings.sequences)]
    if settings.max_tokens is not None:
        command += ["--max-model-len", str(settings.max_tokens)]
    if device != "cpu":
        command += ["--gpu-memory-utilization", str(settings.gpu_memory)]
    command += ["--no-enable-log-requests", "--no-enable-log-outputs", "--disable-uvicorn-access-log"]
    return [*command, "--disable-fastapi-docs", "--uvicorn-log-level", "warning", *settings.more]


@dataclass(slots=True)
class VllmServer:
    """A running vLLM server for one base.

    It listens on a Unix socket in a private folder, and answers only with its key. It ends when this process ends.
    """

    base: BaseInfo
    terms: Terms
    settings: VllmSettings
    socket: Path
    process: "subprocess.Popen[bytes]"
    _cleanup: ExitStack
    _lines: "deque[str]" = field(repr=False)

    @property
    def copies(self) -> Path:
        """Folder of the adapters that were written for the server."""
        return Path(self.terms.copies)

    def client(self) -> httpx.AsyncClient:
        """Returns an HTTP client with the server's key."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None))
        headers = {"Authorization": f"Bearer {self.terms.key}"}
        return httpx.AsyncClient(transport=transport, base_url="http://vllm", headers=headers, timeout=None)

    def check_runs(self) -> None:
        """Raises an EngineDownError where the server has ended."""
        if (code := self.process.poll()) is not None:
            raise EngineDownError("The vLLM server has ended", got=f"exit status {code}", hint="restart the server")

    def wait(self, timeout_s: float = START_S) -> None:
        """Waits until the server answers; else stops it and raises an OwnlmError with its last lines of output."""
        until = time.monotonic() + timeout_s
        transport = httpx.HTTPTransport(uds=str(self.socket))
        headers = {"Authorization": f"Bearer {self.terms.key}"}
        try:
            with httpx.Client(transport=transport, base_url="http://vllm", headers=headers, timeout=5) as client:
                while not _healthy(client):
                    ended = self.process.poll()
                    if ended is not None or time.monotonic() > until:
                        got = "\n".join([f"exit status {ended}" if ended is not None else "no answer", *self._lines])
                        raise OwnlmError("vLLM does not start", got=got, hint=_HINT)
                    time.sleep(POLL_S)
        except BaseException:
            self.stop(0)
            raise
        self._lines = deque(maxlen=0)  # later output may contain texts of users

    def stop(self, grace_s: float = END_S) -> None:
        """Stops the server, and removes the adapters that were written for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        _kill_group(self.process.pid)
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        self._cleanup.close()


_HINT: Final = "install vLLM and ownlm in one environment (docs/serving.md), and name its Python: --vllm-python FILE"


def start_server(store: Store, base: BaseInfo, settings: VllmSettings, device: str | None = None) -> VllmServer:
    """Starts a server for one base, without waiting until it answers.

    Args:
        store: Home that is served.
        base: Base that the server loads.
        settings: Settings of the server.
        device: Device; None for a GPU if there is one, else the CPU.

    Raises:
        StoreError: The home cannot be written.
        OwnlmError: The Python does not exist.
    """
    device = device or default_device()
    rank, modules = room_for(store, base)
    sweep_served(store)
    with ExitStack() as undo:
        copies = undo.enter_context(serving(store))
        private = copies
        if len(os.fsencode(socket_in(copies))) > SOCKET_BYTES:
            private = Path(tempfile.mkdtemp(prefix="ownlm-"))  # mode 0700
            undo.callback(shutil.rmtree, private, ignore_errors=True)
        terms = Terms(
            home=str(store.folder), copies=str(copies), base=base.name, fingerprint=base.fingerprint,
            folder=base.folder, rank=settings.rank or rank, modules=settings.modules or modules,
            key=secrets.token_urlsafe(32),
        )  # fmt: skip
        kept = {name: value for name, value in child_environment().items() if name not in _OUT}
        environment = {**kept, **_ENVIRONMENT, **terms.environment(), "VLLM_API_KEY": terms.key}
        if device == "cpu":
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.kv_gb))
        command = arguments(base, terms, settings, socket_in(private), device)
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C does not reach it: it is stopped after the last answer
            )  # fmt: skip
        except OSError as error:
            raise OwnlmError("vLLM cannot be started", got=f"{settings.python}: {error.strerror}", hint=_HINT) from None
        server = VllmServer(
            base, terms, settings, socket_in(private), process, undo.pop_all(), deque(maxlen=LAST_LINES)
        )
    Thread(target=_read, args=(server,), name="vllm output", daemon=True).start()
    return server


def _read(server: VllmServer) -> None:
    """Reads the server's output, so that its pipe never fills."""
    assert server.process.stdout is not None
    for line in server.process.stdout:
        server._lines.append(line.decode("utf8", "replace").rstrip())


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _kill_group(group: int) -> None:
    """Kills the remaining processes of the server's session."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
