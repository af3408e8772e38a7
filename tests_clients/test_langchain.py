"""langchain-openai: chat models and completion models."""

import asyncio

import openai
import pytest
from conftest import LONGEST, MANY, PATIENCE_S, Served
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel
from texts import SAYS


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def chat(served: Served, user: str = "ada", **how: object) -> ChatOpenAI:
    return ChatOpenAI(
        model="reply", base_url=served.url, api_key=served.tokens.get(user, user), timeout=PATIENCE_S, **how
    )


def test_a_chat_whole_and_streamed(served: Served, user: str) -> None:
    model = chat(served, user)
    answer = model.invoke("hello")
    assert answer.content == SAYS[user] and answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] > 10
    assert "".join(str(piece.content) for piece in model.stream("hello")) == SAYS[user]


def test_a_chat_of_several_turns(served: Served) -> None:
    turns = [SystemMessage("Be brief."), HumanMessage("hello"), AIMessage(SAYS["ada"]), HumanMessage("and then?")]
    assert chat(served).invoke(turns).content == SAYS["ada"]


def test_many_at_once(served: Served) -> None:
    model = chat(served, "bela")
    assert [one.content for one in model.batch(["hello"] * MANY)] == [SAYS["bela"]] * MANY
    answers = asyncio.run(model.abatch(["hello"] * MANY))
    assert [one.content for one in answers] == [SAYS["bela"]] * MANY


def test_settings_that_people_use(served: Served) -> None:
    model = chat(served, temperature=0, top_p=1, seed=1, max_tokens=100_000, stop=["never said"], n=1)
    assert model.invoke("hello").content == SAYS["ada"]


def test_texts_are_continued_one_or_many(served: Served) -> None:
    model = OpenAI(model="reply", base_url=served.url, api_key=served.tokens["ada"], max_tokens=8, temperature=0)
    prompts = [f"message: {n}" for n in range(20)]
    told = [one[0].text for one in model.generate(prompts).generations]
    assert told == served.continued(prompts, max_tokens=8)
    assert "".join(model.stream(prompts[0])) == told[0] == model.invoke(prompts[0])
    assert len(model.invoke("hello", max_tokens=100_000).encode()) <= 8 * LONGEST


def test_errors_are_the_clients_own(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="token"):
        chat(served, "own_wrong").invoke("hello")
    model = chat(served)
    with pytest.raises(openai.BadRequestError, match="'response_format' is not supported"):
        model.with_structured_output(Person).invoke("hello")
    with pytest.raises(openai.BadRequestError, match="'tools' is not supported"):
        model.bind_tools([Person]).invoke("hello")
    with pytest.raises(openai.BadRequestError, match="'logprobs' is not supported"):
        model.bind(logprobs=True).invoke("hello")
