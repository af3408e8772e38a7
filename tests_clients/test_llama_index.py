"""llama-index's OpenAILike: chat and completion models."""

import asyncio
from typing import Any

import openai
import pytest
from conftest import MANY, PATIENCE_S, Served
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from texts import SAYS


def model(served: Served, user: str = "ada", **how: Any) -> OpenAILike:
    settings = {"is_chat_model": True, "temperature": 0.0, "max_retries": 0, "timeout": PATIENCE_S} | how
    key = served.tokens.get(user, user)
    return OpenAILike(model="reply", api_base=served.url, api_key=key, context_window=2048, **settings)


def test_a_chat_whole_and_streamed(served: Served, user: str) -> None:
    own = model(served, user)
    turns = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="hello")]
    assert own.complete("hello").text == SAYS[user] == own.chat(turns).message.content
    assert "".join(piece.delta or "" for piece in own.stream_chat(turns)) == SAYS[user]


def test_async_and_many_at_once(served: Served) -> None:
    async def run() -> list[str]:
        own = model(served, "bela")
        return [one.text for one in await asyncio.gather(*(own.acomplete("hello") for _ in range(MANY)))]

    assert asyncio.run(run()) == [SAYS["bela"]] * MANY


def test_settings_that_people_use(served: Served) -> None:
    assert model(served, max_tokens=100_000).complete("hello").text == SAYS["ada"]
    assert model(served, temperature=0.1).complete("hello").text  # by default it draws


def test_texts_are_continued(served: Served) -> None:
    own = model(served, is_chat_model=False, max_tokens=8)
    (text,) = served.continued(["message: a"], max_tokens=8)
    assert own.complete("message: a").text == text
    assert list(own.stream_complete("message: a"))[-1].text == text


def test_errors_are_the_clients_own(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="token"):
        model(served, "own_wrong").complete("hello")
    with pytest.raises(openai.BadRequestError, match="'logprobs' is not supported"):
        model(served, logprobs=True).complete("hello")
