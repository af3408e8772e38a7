"""instructor: objects out of answers, in the mode that asks for text; the modes that ask for more are refused."""

import asyncio

import instructor
import pytest
from conftest import Served
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

EXTRACT = [{"role": "user", "content": "Extract: Ada is 36 years old."}]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def test_an_object_out_of_text(served: Served) -> None:
    own = {"base_url": served.url, "api_key": served.tokens["jo"]}
    asked = {"model": "reply", "response_model": Person, "messages": EXTRACT}
    client = instructor.from_openai(OpenAI(**own), mode=instructor.Mode.MD_JSON)
    assert client.chat.completions.create(**asked).model_dump() == {"name": "Ada", "age": 36}
    later = instructor.from_openai(AsyncOpenAI(**own), mode=instructor.Mode.MD_JSON)
    assert asyncio.run(later.chat.completions.create(**asked)).model_dump() == {"name": "Ada", "age": 36}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (instructor.Mode.TOOLS, "'tool.*' is not supported"),
        (instructor.Mode.JSON_SCHEMA, "'response_format' is not supported"),
    ],
)
def test_other_modes_are_refused_clearly(served: Served, mode: instructor.Mode, words: str) -> None:
    client = instructor.from_openai(OpenAI(base_url=served.url, api_key=served.tokens["jo"]), mode=mode)
    with pytest.raises(Exception, match=words):
        client.chat.completions.create(model="reply", response_model=Person, messages=EXTRACT, max_retries=0)


def test_a_wrong_token(served: Served) -> None:
    client = instructor.from_openai(OpenAI(base_url=served.url, api_key="own_x"), mode=instructor.Mode.MD_JSON)
    with pytest.raises(Exception, match="token"):
        client.chat.completions.create(model="reply", response_model=Person, messages=EXTRACT, max_retries=0)
