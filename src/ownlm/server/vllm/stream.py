"""One answer that a vLLM server gives: what is sent, and how what comes back is read."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from secrets import token_urlsafe
from typing import Any, Final

import httpx2 as httpx

from ownlm.errors import SupersededError
from ownlm.inference.label_scoring import encode_labels
from ownlm.inference.protocol import EngineError, OutputStream
from ownlm.inference.request import Finish, Request, RequestOutput
from ownlm.inference.text import Detokenizer
from ownlm.model.base import BaseLM
from ownlm.server.vllm.terms import ZERO
from ownlm.store.exports import id_of

PATH: Final = "/v1/completions"
_AGAIN: Final = "ask again"


class VllmStream(OutputStream):
    """An answer of vLLM as it comes.

    Attributes:
        adapter: Id of the adapter that vLLM reports; None for the base alone.
        prompt_tokens: Number of prompt tokens; 0 before the prompt is sent.
        completion_tokens: Number of answer tokens so far.
        task: Task that reads the answer.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.adapter: str | None = None
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Closes the connection, at which vLLM gives up the answer."""
        if self.task is not None:
            self.task.cancel()

    def put_text(self, text: str, finish: Finish | None) -> None:
        """Adds an output with new text."""
        self.put(RequestOutput(text, finish, self.adapter, self.prompt_tokens, self.completion_tokens))


def generating(model: str, prompt: list[int], asked: Request, room: int, ends: set[int]) -> dict[str, Any]:
    """Returns the body of a request for at most `room` tokens. Stop texts are found on our side."""
    request = {
        "model": model,
        "prompt": prompt,
        "max_tokens": min(asked.max_tokens, room),
        "temperature": asked.temperature,
        "stop_token_ids": sorted(ends),
        "stream": True,
        "return_token_ids": True,
    }
    if asked.adapter is None:
        request["cache_salt"] = token_urlsafe()  # timing must not reveal that another user sent it
    if asked.temperature:
        request |= {"top_p": asked.top_p} | ({} if asked.seed is None else {"seed": asked.seed})
    return request


async def read_text(
    client: httpx.AsyncClient,
    request: Mapping[str, Any],
    text: Detokenizer,
    stream: VllmStream,
    ends: set[int],
) -> None:
    """Puts the answer's pieces on the stream.

    Raises:
        SupersededError, EngineError: vLLM does not know the adapter; it says something else than an answer.
    """
    async with client.stream("POST", PATH, json=request) as response:
        _check(response)
        async for line in _lines(response):
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            model, choice = _choice(line.removeprefix(b"data: "))
            stream.adapter = _answered(model, request)
            finish = choice.get("finish_reason")
            for token in choice.get("token_ids") or ():
                stream.completion_tokens += 1
                if token in ends:
                    finish = "stop"
                    break
                text.append(token)
                if text.stopped:
                    finish = "stop"
                    break
            if finish:
                text.finish()
                finish = "stop" if text.stopped else finish
                stream.put_text(text.take(), "stop" if finish == "stop" else "length")
                return  # closes the connection, at which vLLM aborts the rest
            if piece := text.take():
                stream.put_text(piece, None)
    raise EngineError("vLLM ended an answer early", hint=_AGAIN)


async def read_likeliest(
    client: httpx.AsyncClient,
    model: str,
    prompt: list[int],
    labels: Sequence[str],
    base: BaseLM,
    stream: VllmStream,
) -> None:
    """Puts the likeliest label on the stream: each is given to vLLM as part of a prompt, for its tokens' likelihoods.

    log p(label) = sum over its tokens, end of text included: as `ownlm.inference.label_scoring`.
    """
    encoded = encode_labels(base, labels)
    prompts = [[*prompt, *tokens] for tokens in encoded]
    request = {"model": model, "prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    response = await client.post(PATH, json=request)
    _check(response)
    likelihood = [0.0] * len(labels)
    try:
        document = response.json()
        for choice in document["choices"]:
            place = choice["index"]
            last = choice["prompt_logprobs"][-len(encoded[place]) :]
            of_label = zip(last, encoded[place], strict=True)
            likelihood[place] = sum(of[str(token)]["logprob"] for of, token in of_label)
        stream.adapter = _answered(document["model"], request)
        complete = len(document["choices"]) == len(labels)
    except (ValueError, LookupError, TypeError):
        complete = False
    if not complete:
        raise EngineError("vLLM gave no likelihoods", hint=_AGAIN)
    best = max(range(len(labels)), key=likelihood.__getitem__)
    stream.completion_tokens = len(encoded[best])
    stream.put_text(labels[best].strip(), "stop")


def _check(response: httpx.Response) -> None:
    """Raises an error for vLLM's error responses. Their message is not repeated: it may contain the prompt."""
    if response.status_code == 404:
        raise SupersededError("The adapter was deleted, or vLLM cannot read it", hint=_AGAIN)
    if response.status_code != 200:
        raise EngineError("vLLM refuses to answer", got=f"status {response.status_code}", hint=_AGAIN)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The lines of a stream of events. Unlike `aiter_lines`, it splits at no letter of an answer, such as U+2028."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def _choice(line: bytes) -> tuple[str, dict[str, Any]]:
    with suppress(ValueError, LookupError, TypeError):
        document = json.loads(line)
        return document["model"], document["choices"][0]
    raise EngineError("vLLM failed during an answer", hint=_AGAIN)


def _answered(model: str, request: Mapping[str, Any]) -> str | None:
    """Returns the id of the adapter that vLLM reports; an EngineError where it is not the requested one."""
    if model != request["model"]:
        raise EngineError("vLLM answered with another adapter; the answer was thrown away", hint=_AGAIN)
    return None if model == ZERO else id_of(model)
