"""litellm: chats and continued texts, alone and in batches."""

import asyncio
from typing import Any

import litellm
import pytest
from conftest import MANY, PATIENCE_S, Served
from texts import SAYS

HELLO = [{"role": "user", "content": "hello"}]


def how(served: Served, user: str = "ada", **more: Any) -> dict[str, Any]:
    key = served.tokens.get(user, user)
    return {"model": "openai/reply", "api_base": served.url, "api_key": key, "timeout": PATIENCE_S} | more


def test_a_chat_whole_and_streamed(served: Served, user: str) -> None:
    answer = litellm.completion(messages=HELLO, **how(served, user))
    assert answer.choices[0].message.content == SAYS[user] and answer.usage.completion_tokens > 10
    pieces = litellm.completion(messages=HELLO, stream=True, **how(served, user))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == SAYS[user]


def test_many_at_once(served: Served) -> None:
    async def run() -> list[Any]:
        asked = (litellm.acompletion(messages=HELLO, **how(served, "bela")) for _ in range(MANY))
        return list(await asyncio.gather(*asked))

    assert [one.choices[0].message.content for one in asyncio.run(run())] == [SAYS["bela"]] * MANY
    batch = litellm.batch_completion(messages=[HELLO] * MANY, **how(served, "bela"))
    assert [one.choices[0].message.content for one in batch] == [SAYS["bela"]] * MANY


def test_settings_that_people_use(served: Served) -> None:
    more = {"temperature": 0, "top_p": 1, "n": 1, "max_tokens": 100_000, "stop": None, "seed": 1}
    assert litellm.completion(messages=HELLO, **how(served, **more)).choices[0].message.content == SAYS["ada"]


def test_texts_are_continued_one_or_many(served: Served) -> None:
    prompts = ["message: a", "message: b"]
    asked = how(served, model="text-completion-openai/reply", max_tokens=8)
    told = litellm.text_completion(prompt=prompts, **asked)
    assert [one.text for one in told.choices] == served.continued(prompts, max_tokens=8)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"api_key": "own_wrong"}, litellm.AuthenticationError, "token"),
        ({"model": "openai/gpt-4o"}, litellm.NotFoundError, "no such model"),
        ({"response_format": {"type": "json_object"}}, litellm.BadRequestError, "'response_format' is not supported"),
        ({"temperature": 9}, litellm.BadRequestError, "temperature"),
    ],
)
def test_errors_are_the_clients_own(served: Served, more: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        litellm.completion(messages=HELLO, **how(served, **more))
    with pytest.raises(error, match=words):
        asyncio.run(litellm.acompletion(messages=HELLO, stream=True, **how(served, **more)))
