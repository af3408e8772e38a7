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
from ownlm.server.vllm.terms import NOBODY
from ownlm.store.exports import current, gone, version_of
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.bases import pick_base

LOOK_S: Final = 1.0  # how often copies of adapters that are gone are looked for
ABORT_S: Final = 1.0  # within which vLLM gives up an answer whose connection was closed
DROP_S: Final = 30.0


def start_engine(
    store: Store, settings: VllmSettings, *, base: str | None = None, device: str | None = None, most: int = 512
) -> "VllmEngine":
    """Starts a vLLM server, waits until it answers, and returns the engine that asks it.

    Args:
        base: which the server serves; by default that of the home's newest adapter, else the home's newest.
        device: where vLLM runs; None for a GPU if there is one, else the CPU.
        most: how many requests may be under way.

    Raises:
        NotFoundError: the home has no such base. OwnlmError: vLLM does not start.
    """
    server = start_server(store, served_base(store, base), settings, device)
    server.wait()
    return VllmEngine(store, server, most=most)


def served_base(store: Store, name: str | None = None) -> BaseInfo:
    """The base called `name`; by default that of the newest adapter that vLLM can serve, else the home's newest."""
    newest = [one.base for one in store.adapters() if one.method in ("lora", RECIPE) and one.stale is None]
    return store.base(name or newest[-1]) if name or newest else pick_base(store, "", None)


def on_other_bases(store: Store, base: BaseInfo) -> list[AdapterInfo]:
    """The newest adapters that a server of this base cannot answer with, as they stand on another."""
    return [one for one in store.latest_adapters().values() if one.base_fingerprint != base.fingerprint]


class VllmEngine:
    """Answers of one base, by a vLLM server: it batches, and keeps adapters in its own slots.

    An adapter that is gone from the home, or may not be used any more, is asked for no more, from the next request on;
    within seconds what is under way with it is ended, the server drops it from memory, and its copy is removed.

    Args:
        server: which answers already; the engine ends it.
        most: how many requests may be under way.
    """

    def __init__(self, store: Store, server: VllmServer, *, most: int = 512) -> None:
        self.store, self.server, self.most = store, server, most
        base = server.base
        self.base = load_without_weights(Path(base.folder), name=base.name, fingerprint=base.fingerprint)
        self.max_tokens = min(server.settings.max_tokens or self.base.max_tokens, self.base.max_tokens)
        self._prompts = PromptEncoder(self.base, self.max_tokens)
        self._ends = self.base.stop_tokens
        self._client: httpx.AsyncClient | None = None
        self._looking: asyncio.Task[None] | None = None
        self._live: dict[VllmStream, str] = {}  # with which version
        self._given: OrderedDict[str, None] = OrderedDict()  # versions that the server may know, the latest last
        self._dropping: dict[str, asyncio.Event] = {}
        self._counts = {"hits": 0, "misses": 0, "evictions": 0, "tokens": 0, "chosen": 0}
        self._times = AnswerTimes()
        self._stopping = False

    def start(self) -> httpx.AsyncClient:
        """Looks after copies from now on; again is no error. Returns how the server is reached."""
        if self._client is None:
            self._client = self.server.client()
            self._looking = asyncio.create_task(self._look())
        return self._client

    def submit(self, request: Request) -> VllmStream:
        """Asks the server. Everything else than too many requests is told by the stream.

        Raises:
            Overloaded: too many are under way.
        """
        if self._stopping or len(self._live) >= self.most:
            what = "Too many requests are under way, or the server stops"
            raise Overloaded(what, self._times.wait_s(1, 1), expected=f"at most {self.most}", option="--queue")
        client = self.start()
        stream = VllmStream(request)
        self._live[stream] = NOBODY if request.adapter is None else version_of(request.adapter)
        stream.task = asyncio.create_task(self._answer(request, stream, client))
        began = time.monotonic()
        stream.task.add_done_callback(
            lambda _: self._done(stream, began, bool(request.labels))
        )  # also of one that was cancelled before it began
        return stream

    def _done(self, stream: VllmStream, began: float, chosen: bool) -> None:
        if stream.completion_tokens:
            self._counts["chosen"] += chosen
            self._times.add(time.monotonic() - began)
        self._counts["tokens"] += stream.completion_tokens
        del self._live[stream]
        stream.put(None)

    def counts(self) -> Mapping[str, float]:
        """Of the requests under way, and the adapters they ask for. What vLLM does with its slots it does not tell."""
        live = list(self._live)
        waiting = sum(1 for stream in live if not stream.completion_tokens)
        slots = {
            "slots": self.server.settings.slots,
            "slots_used": min(self.server.settings.slots, len(set(self._live.values()))),
        }
        return {"queued": waiting, "live": len(live) - waiting, **slots, **self._counts}

    async def stop(self, grace_s: float) -> None:
        """Takes no more, waits for what is under way, ends the rest with an error, and the server."""
        self._stopping = True
        tasks = [stream.task for stream in self._live if stream.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        await self._end(list(self._live), StoppedError("The server is stopping", hint="ask again later"))
        if self._looking:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        if self._client:
            await self._client.aclose()
        await asyncio.to_thread(self.server.stop)

    async def _answer(self, request: Request, stream: VllmStream, client: httpx.AsyncClient) -> None:
        try:
            prompt = await self._ready(request, self._live[stream])
            stream.prompt_tokens = len(prompt)  # from here to the request nobody else's turn comes: see `_drop`
            name, terms = self.server.terms.name(request.adapter), self.server.terms
            if request.labels:
                await read_likeliest(client, name, prompt, request.labels, self.base, stream, terms)
            else:
                text = Detokenizer(self.base, request.stop, request.one_line, prompt if request.continues else None)
                body = generating(name, prompt, request, self._prompts.context - len(prompt), self._ends)
                await read_text(client, body, text, stream, self._ends, terms)
        except OwnlmError as error:
            stream.put(RequestOutput(error=error))
        except httpx.TransportError:
            stream.put(RequestOutput(error=self._broken()))
        except Exception as error:  # a fault of ours: nobody must wait for ever; what it says may be a person's text
            failure = EngineError("The answer could not be finished", got=type(error).__name__, hint="ask again")
            stream.put(RequestOutput(error=failure))

    async def _ready(self, request: Request, version: str) -> list[int]:
        """The prompt's tokens, when the adapter is not just being dropped."""
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
        """The prompt's tokens, once it is sure that the server can and may answer."""
        terms = self.server.terms
        if request.base.fingerprint != terms.fingerprint:
            what = f"vLLM serves another base than {request.base.name!r}"
            raise AdapterError(what, expected=terms.base, hint="a vLLM server serves one base; start another one")
        if request.adapter is not None:
            terms.check(self.store, find(self.store, version_of(request.adapter)))
        room = answer_tokens(self.base, request.labels, 0)
        return self._prompts.encode(request.prompt, room + 1)  # vLLM always says one token more

    async def _look(self) -> None:
        """Ends what is gone, again and again; and of copies, those that were not asked for longest."""
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(OwnlmError, httpx.HTTPError, OSError):  # the home is busy, or the server gone: later
                for version in await asyncio.to_thread(self._gone):
                    await self._drop(version, SupersededError("The adapter is no longer there", hint="ask again"))
                for version in list(self._given)[: -2 * self.server.settings.in_memory]:
                    if version not in self._live.values() and version != NOBODY:
                        await self._drop(version, None)

    def _gone(self) -> set[str]:
        """Versions that the home has no more, or that may not be used any more."""
        given = set(self._given) - {NOBODY}
        return gone(self.store, self.server.copies) | (given - current(self.store, given))

    async def _drop(self, version: str, error: OwnlmError | None) -> None:
        """Has the server forget an adapter, and removes its copy, when nothing reads it any more.

        The other way round, an answer under way could find the folder missing, at which vLLM ends.
        """
        self._dropping[version] = asyncio.Event()
        try:
            using = [stream for stream, used in self._live.items() if used == version and stream.prompt_tokens]
            if using and error:
                await self._end(using, error)
                await asyncio.sleep(ABORT_S)
            assert self._client is not None
            if self.server.process.poll() is None:
                headers = {NAME: self.server.terms.name_of(version)}
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
        """Why a connection broke."""
        try:
            self.server.check_runs()
        except OwnlmError as error:
            return error
        return EngineError("The connection to vLLM broke", hint="ask again")
