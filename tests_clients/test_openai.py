"""OpenAI's own Python client."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from conftest import LONGEST, MANY, PATIENCE_S, Served
from openai import AsyncOpenAI, OpenAI
from texts import SAYS

LONG = "word " * 2000  # more than the base reads at once


def hello(text: str = "hello") -> Any:
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(served: Served) -> OpenAI:
    return client_of(served, "ada")


def client_of(served: Served, user: str) -> OpenAI:
    return OpenAI(base_url=served.url, api_key=served.tokens[user], timeout=PATIENCE_S)


def text_of(pieces: Any) -> str:
    return "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)


def test_models(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["reply"]
    assert client.models.retrieve("reply").owned_by == "ownlm"
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.models.retrieve("gpt-4o")


def test_each_user_is_answered_by_their_own_model(served: Served, user: str) -> None:
    client = client_of(served, user)
    whole = client.chat.completions.create(model="reply", messages=hello())
    assert whole.choices[0].message.content == SAYS[user] and whole.choices[0].finish_reason == "stop"
    assert whole.usage and whole.usage.total_tokens > whole.usage.completion_tokens > 10
    pieces = list(
        client.chat.completions.create(
            model="reply", messages=hello(), stream=True, stream_options={"include_usage": True}
        )
    )
    assert text_of(pieces) == SAYS[user] and len(pieces) > 5
    assert pieces[-1].usage == whole.usage and pieces[-2].choices[0].finish_reason == "stop"


def test_a_chat_of_several_turns(client: OpenAI) -> None:
    turns: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "ada"},
    ]
    for question in ("what is new?", "and then?"):
        answer = client.chat.completions.create(model="reply", messages=turns).choices[0].message
        assert answer.content == SAYS["ada"]
        turns += [answer, {"role": "user", "content": question}]  # as people do: with all its empty fields
    assert client.chat.completions.create(model="reply", messages=turns).choices[0].message.content == SAYS["ada"]


def test_the_helper_for_streams(client: OpenAI) -> None:
    with client.chat.completions.stream(model="reply", messages=hello("Grüße, 世界 😀")) as stream:
        seen = "".join(event.delta for event in stream if event.type == "content.delta")
        assert seen == SAYS["ada"] == stream.get_final_completion().choices[0].message.content


def test_lines_of_a_stream_are_whole_events(client: OpenAI) -> None:
    asked: Any = {"model": "reply", "messages": hello(), "stream": True}
    with client.chat.completions.with_streaming_response.create(**asked) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)


def test_many_at_once(served: Served) -> None:
    async def run() -> list[str | None]:
        client = AsyncOpenAI(base_url=served.url, api_key=served.tokens["bela"], timeout=PATIENCE_S)

        async def ask(stream: bool) -> str | None:
            if not stream:
                answer = await client.chat.completions.create(model="reply", messages=hello())
                return answer.choices[0].message.content
            pieces = await client.chat.completions.create(model="reply", messages=hello(), stream=True)
            return text_of([piece async for piece in pieces])

        return list(await asyncio.gather(*(ask(n % 2 == 0) for n in range(MANY))))

    assert asyncio.run(run()) == [SAYS["bela"]] * MANY


NEUTRAL: dict[str, Any] = {
    "n": 1, "stream": False, "stop": None, "seed": 7, "temperature": 0, "top_p": 1, "user": "u1", "store": False,
    "metadata": {"a": "b"}, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": False,
    "top_logprobs": None, "response_format": {"type": "text"}, "parallel_tool_calls": None, "service_tier": "auto",
    "stream_options": None, "max_completion_tokens": LONGEST, "modalities": ["text"], "tools": [], "functions": [],
}  # fmt: skip


@pytest.mark.parametrize("name", [*NEUTRAL, "all"])
def test_values_that_ask_for_nothing(client: OpenAI, name: str) -> None:
    how = NEUTRAL if name == "all" else {name: NEUTRAL[name]}
    answer = client.chat.completions.create(model="reply", messages=hello(), **how)
    assert answer.choices[0].message.content == SAYS["ada"]


def test_null_everywhere(client: OpenAI) -> None:
    nulls = dict.fromkeys((*NEUTRAL, "max_tokens", "tool_choice", "reasoning_effort"))
    answer = client.chat.completions.create(model="reply", messages=hello(), extra_body=nulls)
    assert answer.choices[0].message.content == SAYS["ada"]


def test_answers_longer_than_the_server_gives_end_with_length(client: OpenAI) -> None:
    base: Any = {"base_only": True}  # its random weights come to no end
    text = client.completions.create(model="reply", prompt="hello", max_tokens=100_000, extra_body=base)
    assert text.choices[0].finish_reason == "length" and text.usage and text.usage.completion_tokens == LONGEST
    for name in ("max_tokens", "max_completion_tokens"):
        chat: Any = {"model": "reply", "messages": hello(), name: 100_000}
        assert client.chat.completions.create(**chat).choices[0].message.content == SAYS["ada"]
    short = client.chat.completions.create(model="reply", messages=hello(), max_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage and short.usage.completion_tokens == 3


def test_texts_are_continued_one_or_many(served: Served, client: OpenAI) -> None:
    prompts = [f"message: {n}\n\nreply:" for n in range(20)]
    many = client.completions.create(model="reply", prompt=prompts, max_tokens=8)
    alone = [client.completions.create(model="reply", prompt=one, max_tokens=8).choices[0].text for one in prompts[:3]]
    assert [one.index for one in many.choices] == list(range(20))
    assert [one.text for one in many.choices][:3] == alone == served.continued(prompts[:3], max_tokens=8)
    pieces = client.completions.create(model="reply", prompt=prompts[0], max_tokens=8, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == alone[0]
    texts = [""] * 3
    for piece in client.completions.create(model="reply", prompt=prompts[:3], max_tokens=8, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == alone


def test_prompts_of_token_ids(served: Served, client: OpenAI) -> None:
    ids = [[100, 101, 102], [103]]
    one = client.completions.create(model="reply", prompt=ids[0], max_tokens=8).choices[0].text
    assert [one] == served.continued(ids[:1], max_tokens=8)
    many = client.completions.create(model="reply", prompt=ids, max_tokens=8)
    assert many.choices[0].text == one and len(many.choices) == 2


Ask = Callable[[OpenAI], object]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda c: c.completions.create(model="reply", prompt=LONG), openai.BadRequestError, "long"),
        (lambda c: c.chat.completions.create(model="gpt-4o", messages=hello()), openai.NotFoundError, "no such model"),
        (lambda c: c.chat.completions.create(model="reply", messages=[]), openai.BadRequestError, "'messages'"),
        (lambda c: c.chat.completions.create(model="reply", messages=hello(5)), openai.BadRequestError, "content"),
        (lambda c: chat(c, tools=[TOOL]), openai.BadRequestError, "'tools' is not supported"),
        (lambda c: chat(c, response_format=SCHEMA), openai.BadRequestError, "'response_format' is not supported"),
        (lambda c: chat(c, logprobs=True), openai.BadRequestError, "'logprobs' is not supported"),
        (lambda c: chat(c, n=2), openai.BadRequestError, "'n' is not supported"),
        (lambda c: chat(c, temperature=9), openai.BadRequestError, "temperature"),
        (lambda c: c.responses.create(model="reply", input="hello"), openai.NotFoundError, "nothing at this address"),
        (lambda c: c.embeddings.create(model="reply", input="a"), openai.NotFoundError, "nothing at this address"),
    ],
)
def test_errors_are_the_clients_own_and_say_why(client: OpenAI, ask: Ask, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ask(client)


def test_errors_name_the_field(client: OpenAI) -> None:
    for ask, param in (
        (lambda: chat(client, tools=[TOOL]), "tools"),
        (lambda: chat(client, temperature=9), "temperature"),
        (lambda: client.completions.create(model="reply", prompt=LONG), "prompt"),
        (lambda: client.chat.completions.create(model="gpt-4o", messages=hello()), "model"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            ask()
        assert caught.value.param == param


def chat(client: OpenAI, **how: Any) -> object:
    return client.chat.completions.create(model="reply", messages=hello(), **how)


@pytest.mark.parametrize("token", ["own_wrong", "sk-1234", "é"])
def test_a_wrong_token_is_an_error_of_authentication(served: Served, token: str) -> None:
    client = OpenAI(base_url=served.url, api_key=token, max_retries=0)
    if token.isascii():
        for ask in (chat, lambda one: one.models.list(), lambda one: chat(one, stream=True)):
            with pytest.raises(openai.AuthenticationError, match="token"):
                ask(client)


def test_a_new_user_is_answered_by_the_base_and_is_told_so(served: Served) -> None:
    answer: Any = client_of(served, "new").chat.completions.create(model="reply", messages=hello())
    assert answer.ownlm["adapter"] is None and "the base answers" in answer.ownlm["warning"]
