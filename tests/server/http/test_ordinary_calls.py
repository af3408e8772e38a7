"""What clients of OpenAI's API send in the ordinary course: nulls, options at their defaults, long answers, HEAD."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.errors import DataError
from ownlm.inference.prompts import PromptEncoder
from ownlm.model.base import BaseLM, load_base
from ownlm.server.limits import Limits
from ownlm.server.routes.openai_requests import Body, ChatRequest, CompletionRequest, Message, Part, StreamOptions
from ownlm.server.routes.schemas import ConsentBody, NewRecords, TaskBody
from tests.server.answering import Office, answered
from tests.server.conftest import Served
from tests.server.routes.test_openai import CHAT, TASK, newest, say

COMPLETIONS, HISTORY = "/v1/completions", "/v1/users/me/history"
BODIES: list[type[Body]] = [
    ChatRequest, CompletionRequest, StreamOptions, Message, Part, NewRecords, TaskBody, ConsentBody,
]  # fmt: skip
ASKED: dict[str, dict[str, Any]] = {CHAT: {"messages": say()}, COMPLETIONS: {"prompt": "Once"}}
FOR_NOTHING = [
    {"n": 1}, {"best_of": 1}, {"logprobs": False}, {"top_logprobs": 0}, {"presence_penalty": 0}, {"echo": False},
    {"frequency_penalty": 0.0}, {"logit_bias": {}}, {"response_format": {"type": "text"}}, {"tools": []},
    {"tool_choice": "none"}, {"tool_choice": "auto"}, {"parallel_tool_calls": True}, {"functions": []},
    {"function_call": "auto"}, {"suffix": ""}, {"modalities": ["text"]}, {"reasoning_effort": "none"},
    {"verbosity": "medium"}, {"stop": ""}, {"stop": []}, {"stop": [""]}, {"stop": ["", ""]},
    {"store": False}, {"user": "u"}, {"metadata": {"a": "b"}}, {"service_tier": "auto"}, {"top_k": -1},
    {"repetition_penalty": 1.0}, {"use_beam_search": False}, {"stream_options": {}}, {"seed": None},
    {"stream_options": {"include_usage": None}}, {"stream_options": {"include_obfuscation": False}},
]  # fmt: skip
REFUSED = [
    {"n": 2}, {"n": 0}, {"best_of": 2}, {"logprobs": True}, {"logprobs": 0}, {"top_logprobs": 3}, {"echo": True},
    {"presence_penalty": 0.5}, {"frequency_penalty": -1}, {"logit_bias": {"5": 1}}, {"tool_choice": "required"},
    {"response_format": {"type": "json_object"}}, {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"suffix": "end"}, {"modalities": ["text", "audio"]}, {"reasoning_effort": "high"}, {"web_search_options": {}},
    {"top_k": 5}, {"presence_penalty": True}, {"guided_json": {"type": "object"}}, {"choice": "auto"},
]  # fmt: skip


@pytest.mark.parametrize("path", ASKED)
def test_a_null_is_an_absent_field(served: Served, path: str) -> None:
    """Whatever the field, of ours, of OpenAI's, or of nobody's."""
    kind = ChatRequest if path == CHAT else CompletionRequest
    required = {"model", *ASKED[path]}
    known = [*kind.model_fields, "n", "logprobs", "tools", "logit_bias", "response_format", "user", "unheard_of"]
    nulls = dict.fromkeys(set(known) - required)
    told = served.post(path, served.token("ada"), model=TASK, **ASKED[path], **nulls)
    assert told["ownlm"]["adapter"] == newest(served, "ada")
    plain = served.engine.streams[0].request
    served.post(path, served.token("ada"), model=TASK, **ASKED[path])
    assert served.engine.streams[1].request.prompt == plain.prompt and not plain.temperature
    for name in required:
        refused = served.post(path, served.token("ada"), 400, **{"model": TASK, **ASKED[path], name: None})["error"]
        assert refused["param"] == name and "missing" in refused["message"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_description_says_that_fields_may_be_null(body: type[Body]) -> None:
    described = body.model_json_schema()
    for name, field in described["properties"].items():
        assert ({"type": "null"} in field.get("anyOf", ())) == (name not in described.get("required", ()))


def test_nulls_within_messages(served: Served) -> None:
    before = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}], "name": None},
        {"role": "user", "content": "hi", "name": "ada"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "audio": None},
        {"role": "assistant", "content": "", "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no", "text": None}]},
    ]
    parts = [{"type": "text", "text": text} for text in ("", "new ", "words")]
    last = {"role": "user", "content": parts}
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=[*before, last])
    assert told["ownlm"]["ignored_messages"] == 5 and "message: new words" in served.engine.streams[0].request.prompt


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}], [{"type": "text", "text": None}]])
def test_an_empty_question_is_refused_as_such(served: Served, content: Any) -> None:
    asked = {"model": TASK, "messages": [{"role": "user", "content": content}]}
    refused = served.post(CHAT, served.token("ada"), 400, **asked)["error"]
    assert "'text' is missing or blank" in refused["message"]


@pytest.mark.parametrize("path", ASKED)
def test_what_asks_for_nothing_is_accepted(served: Served, path: str) -> None:
    who = served.token("ada")
    for option in FOR_NOTHING:
        response = served.client.post(path, headers=who, json={"model": TASK} | ASKED[path] | option)
        assert response.status_code == 200, (option, response.text)
        assert served.engine.streams[-1].request.stop == (), option


@pytest.mark.parametrize("path", ASKED)
def test_what_is_not_offered_is_refused_by_its_name(served: Served, path: str) -> None:
    who = served.token("ada")
    for option in REFUSED:
        response = served.client.post(path, headers=who, json={"model": TASK} | ASKED[path] | option)
        assert response.status_code == 400, (option, response.text)
        error, name = response.json()["error"], next(iter(option))
        assert name in error["message"] and "leave it out" in error["message"] and error["param"] == name, option
    assert served.engine.streams == []


@pytest.mark.parametrize(
    ("path", "changes", "status", "param"),
    [
        (CHAT, {"model": "other"}, 404, "model"),
        (COMPLETIONS, {"model": f"{TASK}:bela"}, 404, "model"),
        (CHAT, {"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        (CHAT, {"messages": say("")}, 400, "messages"),
        (COMPLETIONS, {"prompt": ["a"] * (Limits().prompts + 1)}, 400, "prompt"),
        (HISTORY, {"task": "other"}, 404, "task"),
        (HISTORY, {"records": [{"text": "a", "folder": 5}]}, 400, "records[0]"),
        ("/v1/users/me/train", {"task": "other"}, 404, "task"),
    ],
)  # fmt: skip
def test_errors_name_the_field(served: Served, path: str, changes: dict[str, Any], status: int, param: str) -> None:
    right: dict[str, Any] = {"model": TASK} | ASKED[path] if path in ASKED else {}
    if path == HISTORY:
        right = {"task": TASK, "records": [{"text": "a", "folder": "bin"}]}
    error = served.post(path, served.token("ada"), status, **right | changes)["error"]
    assert error["param"] == param and served.engine.streams == []


@pytest.mark.parametrize(("path", "param"), [(CHAT, "messages"), (COMPLETIONS, "prompt")])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_engine_name_the_field(served: Served, path: str, param: str, stream: bool) -> None:
    served.engine.error = DataError("The prompt is too long")
    asked = {"model": TASK, **ASKED[path], "stream": stream}
    assert served.post(path, served.token("ada"), 400, **asked)["error"]["param"] == param


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("path", ASKED)
def test_a_longer_answer_than_there_is_is_cut(served: Served, path: str, name: str) -> None:
    for most in (1025, 10**30):
        served.post(path, served.token("ada"), model=TASK, **ASKED[path], **{name: most})
        assert served.engine.streams[-1].request.max_tokens == 1024
    served.post(path, served.token("ada"), 400, model=TASK, **ASKED[path], **{name: 0})


def test_sampling_at_its_ends(served: Served) -> None:
    who = served.token("ada")
    served.post(CHAT, who, model=TASK, messages=say(), temperature=2, top_p=0)
    served.post(CHAT, who, model=TASK, messages=say(), temperature=2, top_p=1)
    greedy, wide = (stream.request for stream in served.engine.streams)
    assert (greedy.temperature, greedy.top_p) == (0.0, 1.0) and (wide.temperature, wide.top_p) == (2.0, 1.0)
    served.post(CHAT, who, 400, model=TASK, messages=say(), temperature=2.1)
    served.post(CHAT, who, 400, model=TASK, messages=say(), top_p=-0.1)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]), (["", "a"], ["", "a"]), ([1, 2, 3], [(1, 2, 3)]), ([[1, 2], [3]], [(1, 2), (3,)]), ([[]], [()]),
        ([0], [(0,)]),
    ],
)  # fmt: skip
def test_prompts_of_every_kind(served: Served, prompt: Any, prompts: list[Any]) -> None:
    told = served.post(COMPLETIONS, served.token("ada"), model=TASK, prompt=prompt)
    assert [stream.request.prompt for stream in served.engine.streams] == prompts
    assert [choice["index"] for choice in told["choices"]] == list(range(len(prompts)))


@pytest.mark.parametrize("prompt", [[], [1, "a"], [[1], "a"], [-1], [True], [1.5], [2**40], {}, 1])
def test_prompts_of_no_kind(served: Served, prompt: Any) -> None:
    refused = served.post(COMPLETIONS, served.token("ada"), 400, model=TASK, prompt=prompt)["error"]
    assert refused["param"].startswith("prompt")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


class TestPrompts:
    def test_are_read_as_they_are(self, base: BaseLM) -> None:
        encoder = PromptEncoder(base, 10)
        assert encoder.encode("ab") == base.encode_prompt("ab") and encoder.encode((5, 2, 7)) == [5, 2, 7]
        assert encoder.encode("") == encoder.encode(()) == [base.tokenizer.bos_token_id]

    @pytest.mark.parametrize("prompt", ["x" * 10, (5,) * 10, "x" * 10**7, (259,), (10**9,)])
    def test_that_are_too_long_or_unknown_are_refused(self, base: BaseLM, prompt: Any) -> None:
        with pytest.raises(DataError):
            PromptEncoder(base, 10).encode(prompt)

    def test_are_answered_alike_as_text_and_as_ids(self, office: Office) -> None:
        text, ids = office.request(None, "abc"), office.request(None, tuple(office.base.encode_prompt("abc")))  # type: ignore[arg-type]
        one, other, begun = answered(office.engine(), [text, ids, office.request(None, "")])
        assert one == other == office.alone(text) and isinstance(begun, str)

    def test_leave_the_answer_the_room_that_there_is(self, office: Office) -> None:
        prompt = "a" * (office.base.max_tokens - 3)
        requests = [office.request(None, prompt, 1024), office.request(None, prompt + "aaa", 1)]
        answer, refused = answered(office.engine(), requests)
        assert isinstance(refused, DataError) and isinstance(answer, str)


@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), st.none()))
def test_nulls_change_nothing(nulls: dict[str, None]) -> None:
    asked = {"model": "m", "messages": say()}
    assert ChatRequest(**nulls | asked) == ChatRequest(**asked)  # type: ignore[arg-type]


def test_nulls_in_ones_own_data(served: Served) -> None:
    who = served.token("ada")
    row = {"text": "new words", "folder": "home", "id": None, "time": None, "user_id": None, "color": None}
    assert served.post("/v1/users/me/history", who, 201, task=TASK, records=[row])["new"] == 1
    put = served.client.put("/v1/users/me/consent", headers=who, json={"shares": True, "licence": None})
    assert put.status_code == 200 and put.json()["licence"] == "CC-BY-4.0"
    row["text"] = None
    assert "text" in served.post("/v1/users/me/history", who, 400, task=TASK, records=[row])["error"]["message"]


def test_what_can_be_got_can_be_asked_for_by_head(served: Served) -> None:
    for path in ("/v1/models", f"/v1/models/{TASK}", "/v1/tasks", "/v1/users/me", "/healthz", "/openapi.json", "/docs"):
        got, head = (served.client.request(how, path, headers=served.token("ada")) for how in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-length"] == got.headers["content-length"] and got.content
    assert served.client.head("/v1/models").status_code == 401
    assert served.client.head("/nothing").status_code == 404
    assert served.client.head(CHAT, headers=served.token("ada")).status_code == 405


def test_the_limit_of_prompts(served: Served) -> None:
    asked = {"model": TASK, "prompt": ["a"] * (Limits().prompts + 1)}
    assert "Too many prompts" in served.post(COMPLETIONS, served.token("ada"), 400, **asked)["error"]["message"]
