"""A home on the tiny base, people whose adapters make it say different things, and what each one's own says alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ownlm.config import LoraConfig
from ownlm.home import Home
from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.protocol import OutputStream
from ownlm.inference.request import Request
from ownlm.inference.scheduler import EngineLimits
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.store.blobs import blob_name
from ownlm.store.rows import AdapterInfo
from tests.decoding import answers
from tests.store.rows import adapter as adapter_row
from tests.store.rows import keep

LORA = LoraConfig(r=4, lora_alpha=8)
PEOPLE = 6
TEXTS = ("Sort this: a", "Sort this: a longer message, about something else", "Other words", "b")


class Office:
    """A home whose base is loaded, for tests that compare."""

    def __init__(self, folder: Path, tiny_base: Path) -> None:
        self.home = Home(folder)
        self.info = self.home.add_base(str(tiny_base), "tiny")
        self.base: BaseLM = load_base(tiny_base, name="tiny", fingerprint=self.info.fingerprint)
        self.adapters: dict[str, Adapter] = {}
        self.task = self.home.keep_task("free-text").name

    def hire(self, user: str, number: int, lora: LoraConfig = LORA, **changes: object) -> AdapterInfo:
        """Gives a person an adapter of random weights, by which the base says other things."""
        bank = LoraBank(self.base.model, lora, 1)
        bank.param_UP.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
        adapter, data = bank.read(0), bank.read(0).to_bytes()
        known = {"base": "tiny", "base_fingerprint": self.info.fingerprint, "shape": adapter.shape()}
        info = adapter_row(number, user, task=self.task, blob=blob_name(data), **known | changes)
        keep(self.home.store, info, data)
        self.adapters[info.id] = adapter
        return info

    def request(self, adapter: AdapterInfo | None, prompt: str = TEXTS[0], most: int = 9, **how: Any) -> Request:
        """A request."""
        return Request(self.info, adapter, prompt, most, **how)

    def engine(self, queue: int = 256, bases: int = 1, **limits: Any) -> AsyncEngine:
        """An engine of the home."""
        return AsyncEngine(self.home.store, limits=EngineLimits(**limits), queue=queue, bases=bases)

    def alone(self, request: Request) -> str:
        """What it is answered when no other request runs."""
        owner = request.adapter.id if request.adapter else None
        adapters = {} if owner is None else {owner: self.adapters[owner]}
        prompt = self.base.encode_prompt(str(request.prompt))
        return answers(self.base, adapters, [(owner, prompt)], request.max_tokens, one_line=request.one_line)[0]


async def read(stream: OutputStream) -> str:
    """All of an answer."""
    return "".join([output.text async for output in stream])


def serving(engine: AsyncEngine, use: Callable[[], Awaitable[Any]]) -> Any:
    """Uses an engine in an event loop of its own, and stops it."""

    async def run() -> Any:
        try:
            return await asyncio.wait_for(use(), 60)
        finally:
            await engine.stop(0)

    return asyncio.run(run())


def answered(engine: AsyncEngine, requests: Sequence[Request]) -> list[Any]:
    """Each one's answer, or the error instead."""

    async def use() -> list[Any]:
        streams = [engine.submit(request) for request in requests]
        return await asyncio.gather(*map(read, streams), return_exceptions=True)

    outcomes: list[Any] = serving(engine, use)
    return outcomes
