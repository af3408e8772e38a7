"""The engine that has a vLLM server answer."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx2 as httpx

from ownlm.errors import AdapterError, OwnlmError, SupersededError
from ownlm.inference.label_scoring import answer_tokens
from ownlm.inference.load import RECIPE
from ownlm.inference.prompts import PromptEncoder
from ownlm.inference.protocol import AnswerTimes, EngineError, Overloaded, StoppedError
from ownlm.inference.request import Request, RequestOutput
from ownlm.inference.text import Detokenizer
from ownlm.model.base import load_without_weights
from ownlm.server.vllm.copies import find, remove_copy
from ownlm.server.vllm.plugin import DROP, NAME
from ownlm.server.vllm.server import VllmServer, VllmSettings, start_server
from ownlm.server.vllm.stream import VllmStream, generating, read_likeliest, read_text
from ownlm.server.vllm.terms import ZERO, name_of
from ownlm.store.exports import current, gone, version_of
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.plan import pick_base

CHECK_S: Final = 1.0  # time between two checks for deleted adapters
ABORT_S: Final = 1.0  # time in which vLLM aborts a request after its connection was closed
DROP_S: Final = 30.0


def start_engine(
    store: Store, settings: VllmSettings, *, base: str | None = None, device: str | None = None, most: int = 512
) -> "VllmEngine":
    """Starts a vLLM server, waits until it answers, and returns an engine that uses it.

    Args:
        store: Home that is served.
        settings: Settings of the vLLM server.
        base: Name of the base; None for that of the home's newest adapter, else the home's newest base.
        device: Device of vLLM; None for a GPU if there is one, else the CPU.
        most: Largest number of requests at a time.

    Raises:
        NotFoundError: The home has no such base.
        OwnlmError: vLLM does not start.
    """
    server = start_server(store, served_base(store, base), settings, device)
    server.wait()
    return VllmEngine(store, server, most=most)


def served_base(store: Store, name: str | None = None) -> BaseInfo:
    """Returns the base of this name; by default that of the newest adapter that vLLM can serve, else the newest."""
    newest = [one.base for one in store.adapters() if one.method in ("lora", RECIPE) and one.stale is None]
    return store.base(name or newest[-1]) if name or newest else pick_base(store, "", None)


def on_other_bases(store: Store, base: BaseInfo) -> list[AdapterInfo]:
    """Returns the newest adapters that belong to other bases, which a server of this base cannot serve."""
    return [one for one in store.latest_adapters().values() if one.base_fingerprint != base.fingerprint]


class VllmEngine:
    """Engine for one base that forwards requests to a vLLM server, which batches them and manages adapter slots.

    An adapter that was deleted, or is stale, is refused from the next request on. Within seconds its running requests
    end, the server drops it from memory, and its copy is removed.

    Args:
        store: Home that is served.
        server: Running server; the engine stops it.
        most: Largest number of requests at a time.
    """

    def __init__(self, store: Store, server: VllmServer, *, most: int = 512) -> None:
        self.store, self.server, self.most = store, server, most
        base = server.base
        self.base = load_without_weights(Path(base.folder), name=base.name, fingerprint=base.fingerprint)
        self.max_tokens = min(server.settings.max_tokens or self.base.max_tokens, self.base.max_tokens)
        self._prompts = PromptEncoder(self.base, self.max_tokens)
        self._ends = self.base.stop_tokens
        self._client: httpx.AsyncClient | None = None
        self._checking: asyncio.Task[None] | None = None
        self._live: dict[VllmStream, str] = {}  # with the version that answers
        self._given: OrderedDict[str, None] = OrderedDict()  # versions that the server may have loaded, the latest last
        self._dropping: dict[str, asyncio.Event] = {}
        self._counts = {"hits": 0, "misses": 0, "evictions": 0, "tokens": 0, "chosen": 0}
        self._times = AnswerTimes()
        self._stopping = False

    def start(self) -> httpx.AsyncClient:
        """Starts the checks for deleted adapters, and returns the HTTP client of the server. May be called again."""
        if self._client is None:
            self._client = self.server.client()
            self._checking = asyncio.create_task(self._check())
        return self._client

    def submit(self, request: Request) -> VllmStream:
        """Sends a request to the server. The stream reports all errors but too many requests.

        Raises:
            Overloaded: Too many requests are running.
        """
        if self._stopping or len(self._live) >= self.most:
            what = "Too many requests are under way, or the server stops"
            raise Overloaded(what, self._times.wait_s(1, 1), expected=f"at most {self.most}", option="--queue")
        client = self.start()
        stream = VllmStream(request)
        self._live[stream] = name_of(request.adapter)
        stream.task = asyncio.create_task(self._answer(request, stream, client))
        began = time.monotonic()
        stream.task.add_done_callback(
            lambda _: self._done(stream, began, bool(request.labels))
        )  # also called where the task was cancelled before it began
        return stream

    def _done(self, stream: VllmStream, began: float, chosen: bool) -> None:
        if stream.completion_tokens:
            self._counts["chosen"] += chosen
            self._times.add(time.monotonic() - began)
        self._counts["tokens"] += stream.completion_tokens
        del self._live[stream]
        stream.put(None)

    def counts(self) -> Mapping[str, float]:
        """Returns gauges of running requests and their adapters. vLLM does not report its slots."""
        live = list(self._live)
        waiting = sum(1 for stream in live if not stream.completion_tokens)
        slots = {
            "slots": self.server.settings.slots,
            "slots_used": min(self.server.settings.slots, len(set(self._live.values()))),
        }
        return {"queued": waiting, "live": len(live) - waiting, **slots, **self._counts}

    async def stop(self, grace_s: float) -> None:
        """Accepts no more requests, waits for the running ones, ends the rest with an error, and stops the server."""
        self._stopping = True
        tasks = [stream.task for stream in self._live if stream.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        await self._end(list(self._live), StoppedError("The server is stopping", hint="ask again later"))
        if self._checking:
            self._checking.cancel()
            with suppress(asyncio.CancelledError):
                await self._checking
        if self._client:
            await self._client.aclose()
        await asyncio.to_thread(self.server.stop)

    async def _answer(self, request: Request, stream: VllmStream, client: httpx.AsyncClient) -> None:
        try:
            prompt = await self._ready(request, self._live[stream])
            stream.prompt_tokens = len(prompt)  # no other task runs between here and the request: see `_drop`
            name = self._live[stream]
            if request.labels:
                await read_likeliest(client, name, prompt, request.labels, self.base, stream)
            else:
                text = Detokenizer(self.base, request.stop, request.one_line, prompt if request.continues else None)
                body = generating(name, prompt, request, self._prompts.context - len(prompt), self._ends)
                await read_text(client, body, text, stream, self._ends)
        except OwnlmError as error:
            stream.put(RequestOutput(error=error))
        except httpx.TransportError:
            stream.put(RequestOutput(error=self._broken()))
        except Exception as error:  # a bug: the stream must end; the message may contain a user's text
            failure = EngineError("The answer could not be finished", got=type(error).__name__, hint="ask again")
            stream.put(RequestOutput(error=failure))

    async def _ready(self, request: Request, version: str) -> list[int]:
        """Returns the prompt's tokens; waits while the adapter is being dropped."""
        while True:
            prompt = await asyncio.to_thread(self._prepared, request)
            if version not in self._dropping:
                break
            await self._dropping[version].wait()
        self._counts["hits" if version in self._given else "misses"] += 1
        self._given[version] = None
        self._given.move_to_end(version)
        return prompt

    def _prepared(self, request: Request) -> list[int]:
        """Returns the prompt's tokens, after a check that the server can answer with this adapter."""
        terms = self.server.terms
        if request.base.fingerprint != terms.fingerprint:
            what = f"vLLM serves another base than {request.base.name!r}"
            raise AdapterError(what, expected=terms.base, hint="a vLLM server serves one base; start another one")
        if request.adapter is not None:
            terms.check(self.store, find(self.store, version_of(request.adapter)))
        room = answer_tokens(self.base, request.labels, 0)
        return self._prompts.encode(request.prompt, room + 1)  # vLLM always generates one more token

    async def _check(self) -> None:
        """Drops deleted adapters, and the copies that were not used for longest, in a loop."""
        while True:
            await asyncio.sleep(CHECK_S)
            with suppress(OwnlmError, httpx.HTTPError, OSError):  # the home is busy, or the server has ended: try later
                for version in await asyncio.to_thread(self._gone):
                    await self._drop(version, SupersededError("The adapter is no longer there", hint="ask again"))
                for version in list(self._given)[: -2 * self.server.settings.in_memory]:
                    if version not in self._live.values() and version != ZERO:
                        await self._drop(version, None)

    def _gone(self) -> set[str]:
        """Returns versions that were deleted or are stale."""
        given = set(self._given) - {ZERO}
        return gone(self.store, self.server.copies) | (given - current(self.store, given))

    async def _drop(self, version: str, error: OwnlmError | None) -> None:
        """Unloads an adapter from the server, then removes its copy.

        In the other order, a running request could miss the folder, at which vLLM exits.
        """
        self._dropping[version] = asyncio.Event()
        try:
            using = [stream for stream, used in self._live.items() if used == version and stream.prompt_tokens]
            if using and error:
                await self._end(using, error)
                await asyncio.sleep(ABORT_S)
            assert self._client is not None
            if self.server.process.poll() is None:
                headers = {NAME: version}
                (await self._client.post(DROP, headers=headers, timeout=DROP_S)).raise_for_status()
            await asyncio.to_thread(remove_copy, self.server.copies, version)
            self._given.pop(version, None)
            self._counts["evictions"] += 1
        finally:
            self._dropping.pop(version).set()

    async def _end(self, streams: list[VllmStream], error: OwnlmError) -> None:
        for stream in streams:
            stream.put(RequestOutput(error=error))
            stream.cancel()
        if tasks := [stream.task for stream in streams if stream.task]:
            await asyncio.wait(tasks)

    def _broken(self) -> OwnlmError:
        """Returns the reason for a broken connection."""
        try:
            self.server.check_runs()
        except OwnlmError as error:
            return error
        return EngineError("The connection to vLLM broke", hint="ask again")
