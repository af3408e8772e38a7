"""What stands where a vLLM server would: our plugin is real, and the answers are those of the folders it writes."""

import json
import sys
from asyncio import Lock
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from ownlm.config import LoraConfig
from ownlm.inference.text import Detokenizer
from ownlm.model.adapter import WEIGHTS, Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.segments import BASE
from ownlm.server.vllm.plugin import KeyMiddleware, Resolver
from ownlm.server.vllm.server import VllmSettings
from ownlm.server.vllm.terms import Terms
from ownlm.store.exports import serving
from tests.decoding import generate
from tests.server.answering import Office

TEXT = "a\u2028b\u0085c"  # of every piece; vLLM sends such letters as they are


@dataclass
class FakeVllm:
    """See `VllmServer`."""

    office: Office
    terms: Terms
    settings: VllmSettings = field(default_factory=lambda: VllmSettings(slots=4, in_memory=8))
    code: int | None = None

    def __post_init__(self) -> None:
        self.base, self.copies = self.office.info, Path(self.terms.copies)
        self.process = SimpleNamespace(poll=lambda: self.code)
        self.requests: list[dict[str, Any]] = []
        self.removed: list[int] = []
        self.state = SimpleNamespace(
            openai_serving_models=SimpleNamespace(lora_requests={}, lora_resolver_lock=defaultdict(Lock)),
            engine_client=SimpleNamespace(remove_lora=self._remove),
        )
        self.resolver, self.guard = Resolver(self.terms), KeyMiddleware(self._answer)

    async def _remove(self, number: int) -> None:
        self.removed.append(number)

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.terms.key if key is None else key}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url="http://vllm", headers=headers)

    def check_runs(self) -> None: ...

    def stop(self) -> None:
        self.code = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await self.guard({**scope, "app": self}, receive, send)

    async def _answer(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        asked = json.loads(body or b"{}")
        self.requests.append(asked)
        known = self.state.openai_serving_models.lora_requests
        if (name := asked.get("model", "")) not in known:
            found = await self.resolver.resolve_lora("base", name)
            if found is None:
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            known[name] = found
        lines = [
            f"data: {json.dumps(one, ensure_ascii=False)}\n\n"
            for one in self._chunks(asked, Path(known[name].lora_path))
        ]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": "".join([*lines, "data: [DONE]\n\n"]).encode()})

    def _chunks(self, asked: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
        config = json.loads((folder / "adapter_config.json").read_text())
        lora = LoraConfig.model_validate({name: config[name] for name in LoraConfig.model_fields if name in config})
        adapter = Adapter.from_bytes((folder / WEIGHTS).read_bytes(), lora)
        base, bank = self.office.base, LoraBank(self.office.base.model, adapter.lora, 1)
        told: list[int] = []
        nothing = not any(pair.B_OR.any() for pair in adapter.pairs.values())
        with bank.attached(), pytest.MonkeyPatch.context() as patch:
            if not nothing:
                bank.load(0, adapter)
            patch.setattr(Detokenizer, "append", lambda _, token: told.append(token))
            generate(base, bank, [(BASE if nothing else 0, asked["prompt"])], asked["max_tokens"])
        finish = "length" if len(told) == asked["max_tokens"] else "stop"
        for token in told:
            choice = {"index": 0, "text": TEXT, "token_ids": [token], "finish_reason": None}
            yield {"model": asked["model"], "choices": [choice]}
        yield {"model": asked["model"], "choices": [{"index": 0, "token_ids": [], "finish_reason": finish}]}


@contextmanager
def fake_vllm(office: Office, patch: pytest.MonkeyPatch, **changes: Any) -> Iterator[FakeVllm]:
    """A server for the office's base, with a folder for copies in its home."""
    request = ModuleType("vllm.lora.request")
    request.LoRARequest = SimpleNamespace  # type: ignore[attr-defined]
    for name, module in {
        "vllm": ModuleType("vllm"),
        "vllm.lora": ModuleType("vllm.lora"),
        request.__name__: request,
    }.items():
        patch.setitem(sys.modules, name, module)
    with serving(office.home.store) as copies:
        terms = make_terms(office, copies, **changes)
        patch.setenv("OWNLM_VLLM", terms.environment()["OWNLM_VLLM"])
        yield FakeVllm(office, terms)


def make_terms(office: Office, copies: Path, **changes: Any) -> Terms:
    """What a server of the office's base is told."""
    info = office.info
    told = {
        "home": str(office.home.store.folder), "copies": str(copies), "base": info.name, "rank": 16,
        "fingerprint": info.fingerprint, "folder": info.folder, "modules": ("q_proj", "v_proj"),
        "key": "key",
    }  # fmt: skip
    return Terms(**told | changes)
