"""pydantic-ai: agents that answer with text, and with objects out of text."""

import asyncio
from typing import Any

import pytest
from conftest import MANY, Served
from pydantic import BaseModel
from pydantic_ai import Agent, PromptedOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from texts import SAYS


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def agent(served: Served, user: str = "ada", *, profile: Any = None, **how: Any) -> Agent[Any, Any]:
    provider = OpenAIProvider(base_url=served.url, api_key=served.tokens.get(user, user))
    return Agent(OpenAIChatModel("reply", provider=provider, profile=profile), **how)


def test_an_agent_whole_and_streamed(served: Served, user: str) -> None:
    own = agent(served, user, instructions="Be brief.")

    async def run() -> tuple[str, str]:
        whole = await own.run("hello")
        async with own.run_stream("hello") as streamed:
            return whole.output, await streamed.get_output()

    assert asyncio.run(run()) == (SAYS[user], SAYS[user])


def test_turns_and_many_at_once(served: Served) -> None:
    async def run() -> list[str]:
        own = agent(served, "bela")
        first = await own.run("hello")
        second = await own.run("and then?", message_history=first.all_messages())
        many = await asyncio.gather(*(own.run("hello") for _ in range(MANY)))
        return [second.output, *(one.output for one in many)]

    assert asyncio.run(run()) == [SAYS["bela"]] * (MANY + 1)


def test_settings_that_people_use(served: Served) -> None:
    settings = {"temperature": 0.0, "max_tokens": 100_000, "seed": 1, "top_p": 1.0}
    assert agent(served, model_settings=settings).run_sync("hello").output == SAYS["ada"]


def test_an_object_out_of_text(served: Served) -> None:
    profile = OpenAIModelProfile(supports_json_object_output=False)
    own = agent(served, "jo", profile=profile, output_type=PromptedOutput(Person))
    assert own.run_sync("Extract: Ada is 36 years old.").output == Person(name="Ada", age=36)


def test_errors_are_the_clients_own(served: Served) -> None:
    for own, status, words in (
        (agent(served, "own_wrong"), 401, "token"),
        (agent(served, output_type=Person), 400, "'tool.*' is not supported"),
    ):
        with pytest.raises(ModelHTTPError, match=words) as caught:
            own.run_sync("hello")
        assert caught.value.status_code == status
