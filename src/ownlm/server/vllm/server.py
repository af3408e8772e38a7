"""A vLLM server of our own: started, waited for, and ended."""

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
from ownlm.model.base import default_device
from ownlm.programs import PYTHON, child_environment, python_command
from ownlm.server.vllm.terms import Terms, room_for, socket_in
from ownlm.store.exports import serving, sweep_served
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store

START_S: Final = 600.0  # large weights take long to load
POLL_S: Final = 0.25
END_S: Final = 15.0  # between asking a server to end and ending it
LAST_LINES: Final = 30
SOCKET_BYTES: Final = 100  # the longest path of a socket that every system takes
MODEL: Final = "ownlm"  # what the server calls the bare base, which nobody asks

# What must not reach vLLM from our own environment, whatever is set there.
_OUT: Final = ("VLLM_SKIP_MODEL_NAME_VALIDATION", "VLLM_SERVER_DEV_MODE", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE")
_ENVIRONMENT: Final = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # without it no resolver is asked
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",  # names of adapters stand in what is below
    "VLLM_PLUGINS": "ownlm",
}


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How a vLLM server is started.

    Args:
        python: of the environment in which vLLM and ownlm are installed; this one by default.
        slots: how many different adapters one batch may hold.
        in_memory: how many adapters the server keeps in memory besides; at least `slots`.
        rank: the highest; by default what the home needs now.
        modules: kinds of modules that adapters may change; by default those that the home's adapters change now.
        sequences: how many are answered at once.
        max_tokens: the longest sequence; by default the base's own.
        dtype: by default float32 on a CPU, else bfloat16, as everywhere.
        kv_gb: room for keys and values on a CPU.
        gpu_memory: the part of a GPU's memory that vLLM may take.
        more: further arguments of `vllm serve`, as they stand.
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
    """The command that starts the server. No secret stands in it, and no text will be logged."""
    command = python_command("-m", "vllm.entrypoints.openai.api_server", python=settings.python)
    command += ["--model", base.folder]
    command += ["--served-model-name", MODEL, "--uds", str(socket), "--middleware", "ownlm.server.vllm.plugin.Guard"]
    command += ["--dtype", settings.dtype or ("float32" if device == "cpu" else "bfloat16")]
    command += ["--generation-config", "vllm"]  # no sampling settings but the request's own
    command += ["--enable-lora", "--max-loras", str(settings.slots + 1)]  # one for the adapter that does nothing
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
    """A running server, which serves one base to whoever has its socket, its key and names of adapters.

    It listens on a socket in a folder that nobody else may enter. It ends when this process ends.
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
        """The folder of adapters written out for it."""
        return Path(self.terms.copies)

    def client(self) -> httpx.AsyncClient:
        """A client that may ask it."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket), limits=httpx.Limits(max_connections=None))
        headers = {"Authorization": f"Bearer {self.terms.key}"}
        return httpx.AsyncClient(transport=transport, base_url="http://vllm", headers=headers, timeout=None)

    def check_runs(self) -> None:
        """Raises an EngineDownError where the server has ended."""
        if (code := self.process.poll()) is not None:
            raise EngineDownError("The vLLM server has ended", got=f"exit status {code}", hint="restart `ownlm serve`")

    def wait(self, timeout_s: float = START_S) -> None:
        """Waits until it answers; an OwnlmError with its last lines where it does not, and then it is ended."""
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
        self._lines = deque(maxlen=0)  # what it says from now on could be about what people ask

    def stop(self, grace_s: float = END_S) -> None:
        """Ends it, and removes the adapters written out for it."""
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
    """Starts a server for one base. It does not answer yet: `wait` for it.

    Args:
        device: where it runs; None for a GPU if there is one, else the CPU.

    Raises:
        StoreError: the home cannot be written.
        OwnlmError: there is no such python.
    """
    device = device or default_device()
    rank, modules = room_for(store, base)
    sweep_served(store)
    with ExitStack() as undo:
        copies = undo.enter_context(serving(store))
        private = copies
        if len(os.fsencode(socket_in(copies))) > SOCKET_BYTES:
            private = Path(tempfile.mkdtemp(prefix="ownlm-"))  # 0700, as the other is
            undo.callback(shutil.rmtree, private, ignore_errors=True)
        terms = Terms(
            home=str(store.folder), copies=str(copies), base=base.name, fingerprint=base.fingerprint,
            folder=base.folder, rank=settings.rank or rank, modules=settings.modules or modules,
            secret=secrets.token_urlsafe(32), key=secrets.token_urlsafe(32),
        )  # fmt: skip
        kept = {name: value for name, value in child_environment().items() if name not in _OUT}
        environment = {**kept, **_ENVIRONMENT, **terms.environment(), "VLLM_API_KEY": terms.key}
        if device == "cpu":
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.kv_gb))
        command = arguments(base, terms, settings, socket_in(private), device)
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we end it when its answers are done
            )  # fmt: skip
        except OSError as error:
            raise OwnlmError("vLLM cannot be started", got=f"{settings.python}: {error.strerror}", hint=_HINT) from None
        server = VllmServer(
            base, terms, settings, socket_in(private), process, undo.pop_all(), deque(maxlen=LAST_LINES)
        )
    Thread(target=_read, args=(server,), name="vllm output", daemon=True).start()
    return server


def _read(server: VllmServer) -> None:
    """Reads what the server says, lest it wait for a reader."""
    assert server.process.stdout is not None
    for line in server.process.stdout:
        server._lines.append(line.decode("utf8", "replace").rstrip())


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def _kill_group(group: int) -> None:
    """Ends what is left of the server's processes; they are a session of their own."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
