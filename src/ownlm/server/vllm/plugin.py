"""Plugin inside the vLLM server that the engine starts: access control, and loading of adapters.

vLLM loads `register` in each of its processes, by the entry point `ownlm` of the group `vllm.general_plugins`.
"""

import asyncio
import hmac
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, MutableMapping
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Final

from ownlm.errors import OwnlmError
from ownlm.server.vllm.copies import put_copy
from ownlm.server.vllm.terms import Terms
from ownlm.store.store import Store

DROP: Final = "/ownlm/drop"  # route that unloads the adapter named in the header
NAME: Final = "x-ownlm-adapter"
END_S: Final = 10.0  # time between SIGTERM and SIGKILL
_OPEN: Final = {("GET", "/health"), ("POST", "/v1/completions"), ("POST", DROP)}
_log = logging.getLogger("ownlm.server")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def register() -> None:
    """Registers the resolver, where the engine has started this server; elsewhere does nothing."""
    terms = Terms.given()
    if terms is None or parent_process() is not None:  # adapters are resolved in the process that listens
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    LoRAResolverRegistry.register_resolver("ownlm", Resolver(terms))
    Thread(target=_exit_with_parent, name="lifeline", daemon=True).start()


def _exit_with_parent() -> None:
    """Ends the server when its parent process has ended, which held the other end of stdin."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    if os.getpgrp() == os.getpid():  # the session is ours: vLLM ignores SIGTERM while it starts
        os.killpg(os.getpid(), signal.SIGKILL)


class Resolver:
    """Resolves the name of an adapter that vLLM has not loaded, which is its version in the home."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._store: Store | None = None

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """Returns the request with which vLLM loads an adapter; None where the home has no such version."""
        try:
            folder = await asyncio.to_thread(self._copy, lora_name)
        except OwnlmError as error:  # the engine has checked it before, and reports the error
            _log.warning("An adapter cannot be given to vLLM: %s", type(error).__name__)
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))  # vLLM numbers it itself

    def _copy(self, version: str) -> Path:
        if self._store is None:
            self._store = Store(Path(self.terms.home))
        return put_copy(self._store, self.terms, version)


class KeyMiddleware:
    """Allows only the routes that the engine uses, and only with the key of this run.

    vLLM checks its key on some routes alone; others would load an adapter from any folder.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        terms = Terms.given()
        self.key = f"Bearer {terms.key}".encode() if terms else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close"})
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        known = self.key is not None and hmac.compare_digest(given, self.key)
        if not known or (scope["method"], scope["path"]) not in _OPEN:
            return await _respond(send, 404)
        if scope["path"] != DROP:
            return await self.app(scope, receive, send)
        await _drop(scope["app"].state, headers.get(NAME.encode(), b"").decode("ascii", "replace"))
        return await _respond(send, 204)


async def _drop(state: Any, name: str) -> None:
    """Unloads an adapter. vLLM's own route leaves the weights in the worker."""
    models = state.openai_serving_models
    async with models.lora_resolver_lock[name]:
        request = models.lora_requests.pop(name, None)
        if request is not None:
            await state.engine_client.remove_lora(request.lora_int_id)
    models.lora_resolver_lock.pop(name, None)


async def _respond(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
