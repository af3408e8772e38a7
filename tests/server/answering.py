"""A home on the tiny base, people whose adapters make it say different things, and what each one's own says alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ownlm.config import LoraConfig
from ownlm.home import Home
from ownlm.inference.generate import generate
from ownlm.inference.prompt_row import Prompt
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.segments import BASE
from ownlm.server.engine import Stream, Work
from ownlm.server.own_engine import OwnEngine
from ownlm.store.blobs import blob_name
from ownlm.store.rows import AdapterInfo
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

    def work(self, adapter: AdapterInfo | None, prompt: str = TEXTS[0], most: int = 9, **how: Any) -> Work:
        """A request."""
        return Work(self.info, adapter, prompt, most, **how)

    def alone(self, work: Work) -> str:
        """What it is answered when nobody else is there."""
        tokens = self.base.encode_prompt(work.prompt)
        how: dict[str, Any] = {"max_new_tokens": work.max_tokens, "one_line": work.one_line}
        if work.adapter is None:
            return generate(self.base, None, [Prompt(BASE, tokens)], **how)[0]
        adapter = self.adapters[work.adapter.id]
        bank = LoraBank(self.base.model, adapter.lora, 1)
        bank.load(0, adapter)
        with bank.attached():
            return generate(self.base, bank, [Prompt(0, tokens)], **how)[0]


async def read(stream: Stream) -> str:
    """All of an answer."""
    return "".join([piece.text async for piece in stream])


def serving(engine: OwnEngine, use: Callable[[], Awaitable[Any]]) -> Any:
    """Uses an engine in an event loop of its own, and stops it."""

    async def run() -> Any:
        try:
            return await asyncio.wait_for(use(), 60)
        finally:
            await engine.stop(0)

    return asyncio.run(run())


def answered(engine: OwnEngine, works: Sequence[Work]) -> list[Any]:
    """Each one's answer, or the error instead."""

    async def use() -> list[Any]:
        streams = [engine.submit(work) for work in works]
        return await asyncio.gather(*map(read, streams), return_exceptions=True)

    answers: list[Any] = serving(engine, use)
    return answers
