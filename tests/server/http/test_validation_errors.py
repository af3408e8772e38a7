"""Wrong requests: the error names the field, and the reason that holds for what was sent."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ownlm.server.http.validation_errors import describe_errors
from tests.server.conftest import Served

CHAT, TEXT, HISTORY = "/v1/chat/completions", "/v1/completions", "/v1/users/me/history"
SECRET = "a text of ada's"


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def asked(path: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A request that is right but for the changes."""
    right: dict[str, dict[str, Any]] = {
        CHAT: {"model": "sorting", "messages": user("thing")},
        TEXT: {"model": "sorting", "prompt": "thing"},
        HISTORY: {"task": "sorting", "records": [{"text": "a", "folder": "bin"}]},
    }
    return right[path] | changes


@pytest.mark.parametrize(
    ("path", "changes", "param", "reason"),
    [
        (CHAT, {"messages": user(5)}, "messages[0].content", "a string or a list"),
        (CHAT, {"messages": user({"text": SECRET})}, "messages[0].content", "a string or a list"),
        (CHAT, {"messages": user([{"type": "text", "text": 5}])}, "messages[0].content[0].text", "a string"),
        (CHAT, {"messages": user([{"text": SECRET}])}, "messages[0].content[0].type", "missing"),
        (CHAT, {"messages": user([{"type": "text", "text": "a"}, SECRET])}, "messages[0].content[1]", "an object"),
        (CHAT, {"messages": [*user("a"), *user(5)]}, "messages[1].content", "a string or a list"),
        (CHAT, {"messages": [SECRET]}, "messages[0]", "an object"),
        (CHAT, {"messages": SECRET}, "messages", "a list"),
        (CHAT, {"messages": []}, "messages", "at least 1 item"),
        (CHAT, {"messages": [{"role": SECRET, "content": "a"}]}, "messages[0].role", "'user'"),
        (CHAT, {"stop": 5}, "stop", "a string or a list"),
        (CHAT, {"stop": ["a", 5]}, "stop[1]", "a string"),
        (CHAT, {"stop": ["a"] * 5}, "stop", "at most 4 items"),
        (CHAT, {"stop": "x" * 1000}, "stop", "at most 200 characters"),
        (CHAT, {"stop": ["a", "x" * 1000]}, "stop[1]", "at most 200 characters"),
        (CHAT, {"stream_options": SECRET}, "stream_options", "an object"),
        (CHAT, {"stream_options": {"include_usage": SECRET}}, "stream_options.include_usage", "true or false"),
        (CHAT, {"temperature": SECRET}, "temperature", "a number"),
        (CHAT, {"max_tokens": 1.5}, "max_tokens", "a whole number"),
        (CHAT, {"model": 5}, "model", "a string"),
        (CHAT, {"model": None}, "model", "missing"),
        (TEXT, {"prompt": True}, "prompt", "a string or a list"),
        (TEXT, {"prompt": {}}, "prompt", "a string or a list"),
        (TEXT, {"prompt": []}, "prompt", "at least 1 item"),
        (TEXT, {"prompt": ["a", {}]}, "prompt[1]", "a string"),
        (HISTORY, {"records": SECRET}, "records", "a list"),
        (HISTORY, {"records": [{"text": "a"}, SECRET]}, "records[1]", "an object"),
        (HISTORY, {"task": 5}, "task", "a string"),
        (HISTORY, {"odd": SECRET}, "odd", "leave it out"),
        (HISTORY, {"odd" * 999: SECRET}, ("odd" * 999)[:50], "leave it out"),
    ],
)  # fmt: skip
def test_the_field_and_the_reason_are_named(
    served: Served, path: str, changes: dict[str, Any], param: str, reason: str
) -> None:
    told = served.post(path, served.token("ada"), 400, **asked(path, changes))["error"]
    assert told["param"] == param and f"at '{param}'" in told["message"]
    assert reason in told["message"] and SECRET not in str(told)


@pytest.mark.parametrize("body", ["[]", '"text"', "5", "", "null"])
def test_a_body_that_is_no_object(served: Served, body: str) -> None:
    head = served.token("ada") | {"Content-Type": "application/json"}
    told = served.client.post(CHAT, headers=head, content=body).json()["error"]
    assert told["param"] is None and "it must be a JSON object" in told["message"]


def test_every_union_of_the_api_names_its_field_and_all_that_it_takes(served: Served) -> None:
    names = {"string": "a string", "array": "a list", "object": "an object", "boolean": "true or false",
             "integer": "a whole number", "number": "a number"}  # fmt: skip
    wrongs = {"boolean": True, "object": {"a": 1}, "array": [], "string": "x", "number": 1.5}
    places: dict[str, tuple[str, str, Any]] = {
        "ChatRequest": (CHAT, "", lambda name, wrong: {name: wrong}),
        "CompletionRequest": (TEXT, "", lambda name, wrong: {name: wrong}),
        "Message": (CHAT, "messages[0].", lambda name, wrong: {"messages": [{"role": "user", name: wrong}]}),
    }
    seen = set()
    for schema, described in served.get("/openapi.json", {})["components"]["schemas"].items():
        for name, of in described.get("properties", {}).items():
            kinds = {one.get("type", "object") for one in of.get("anyOf", ())} - {"null"}
            if len(kinds) < 2 or kinds <= {"integer", "number"}:
                continue
            wrong = next(value for kind, value in wrongs.items() if kind not in kinds)
            path, before, changes = places[schema]
            told = served.post(path, served.token("ada"), 400, **asked(path, changes(name, wrong)))["error"]
            assert told["param"] == before + name
            assert all(names[kind] in told["message"] for kind in kinds), told
            seen.add(f"{schema}.{name}")
    assert {"Message.content", "ChatRequest.stop", "CompletionRequest.stop", "CompletionRequest.prompt"} <= seen


class Cat(BaseModel):
    kind: Literal["cat"]
    names: list[str] = []


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int | list[int]


class Zoo(BaseModel):
    """Kinds of unions that the API may have one day."""

    model_config = ConfigDict(extra="forbid")

    tagged: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    plain: Cat | Dog | None = None
    prompt: str | list[str] | list[int] | list[list[int]] | None = None
    nested: list[dict[str, int | list[Cat]]] = []
    bounded: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None


@pytest.mark.parametrize(
    ("sent", "param", "words"),
    [
        ({"tagged": {"kind": SECRET}}, "tagged.kind", "'cat', 'dog'"),
        ({"tagged": {}}, "tagged.kind", "missing"),
        ({"tagged": {"kind": "cat", "names": ["a", 5]}}, "tagged.names[1]", "a string"),
        ({"tagged": {"kind": "dog", "age": SECRET}}, "tagged.age", "a whole number or a list"),
        ({"tagged": {"kind": "dog", "age": [1, SECRET]}}, "tagged.age[1]", "a whole number"),
        ({"tagged": SECRET}, "tagged", "an object"),
        ({"plain": {"kind": "dog", "age": [1, SECRET]}}, "plain.age[1]", "a whole number"),
        ({"plain": {"kind": "cat", "names": 5}}, "plain.names", "a list"),
        ({"prompt": ["a", 5]}, "prompt[1]", "a string"),
        ({"prompt": [5, "a"]}, "prompt[1]", "a whole number"),
        ({"prompt": [[1, 2], [3, SECRET]]}, "prompt[1][1]", "a whole number"),
        ({"prompt": [[1, 2], SECRET]}, "prompt[1]", "a list"),
        ({"prompt": [{}]}, "prompt[0]", "a string, a whole number or a list"),
        ({"prompt": {}}, "prompt", "a string or a list"),
        ({"nested": [{"a": [{"kind": "cat", "names": [5]}]}]}, "nested[0].a[0].names[0]", "a string"),
        ({"nested": [{"str": SECRET}]}, "nested[0].str", "a whole number or a list"),
        ({"bounded": 0}, "bounded", "greater than or equal to 1"),
        ({"bounded": [SECRET]}, "bounded", "a whole number or 'auto'"),
    ],
)
def test_unions_of_other_kinds(sent: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Zoo).validate_python(sent)
    errors = [{**one, "loc": ("body", *one["loc"])} for one in caught.value.errors()]
    place, why = describe_errors(errors, sent)
    assert place == param and words in why and SECRET not in why
