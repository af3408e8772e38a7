"""OpenAI's API: who is answered by what, streams, refusals."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from ownlm.config import PromptConfig
from ownlm.errors import AdapterError, BaseModelError, DataError, OwnlmError, StoreError
from ownlm.home import Home
from ownlm.server import answering
from ownlm.server.limits import Limits
from ownlm.store.rows import ProfileInfo
from ownlm.store.store import Store
from ownlm.store.tokens import revoke_token, tokens
from tests.server.conftest import Served

CHAT = "/v1/chat/completions"
TASK = "sorting"


def say(text: str = "thing") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def newest(served: Served, user: str) -> str:
    return served.home.latest_adapters()[TASK, user].id


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_each_is_answered_by_their_own_adapter(served: Served) -> None:
    for user in ("ada", "bela"):
        told = served.post(CHAT, served.token(user), model=TASK, messages=say())
        assert told["choices"][0]["message"]["content"].startswith(f"{user} read")
        assert told["choices"][0]["finish_reason"] == "stop"
        assert told["ownlm"]["adapter"] == newest(served, user)
        assert told["usage"]["total_tokens"] == told["usage"]["prompt_tokens"] + 4
        work = served.engine.streams[-1].request
        assert "message: thing" in work.prompt and work.prompt.endswith("folder:") and work.max_tokens == 4
        assert served.engine.streams[-1].cancelled  # its place is free in any case


def test_who_has_no_adapter_is_answered_by_the_base_and_told(served: Served) -> None:
    for user in ("ciro", "somebody new"):
        told = served.post(CHAT, served.token(user), model=TASK, messages=say())
        assert told["choices"][0]["message"]["content"].startswith("base read")
        assert told["ownlm"]["adapter"] is None and "the base answers" in told["ownlm"]["warning"]
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=say(), base_only=True)
    assert told["ownlm"] == {
        "adapter": None, "base": "tiny", "warning": None, "retrieved": [], "ignored_messages": 0,
    }  # fmt: skip


def test_only_the_last_message_is_read_and_that_is_told(served: Served) -> None:
    before = [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}]
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=before + say("new words"))
    assert told["ownlm"]["ignored_messages"] == 2
    prompt = served.engine.streams[0].request.prompt
    assert "new words" in prompt and "Be brief" not in prompt


def test_an_event_is_one_line_for_every_reader_of_lines(served: Served) -> None:
    served.engine.words = ("a\u2028b", "c\u2029d\u0085", "\x0b\x0c\x1c\r\n", "Grüße 世界 😀")
    asked = {"model": TASK, "messages": say(), "stream": True}
    with served.client.stream("POST", CHAT, headers=served.token("ada"), json=asked) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    told = events("\n\n".join(lines))
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in told) == " ".join(served.engine.words)


def test_messages_that_are_not_read_may_be_of_any_kind(served: Served) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    before: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=before + say())
    assert told["ownlm"]["ignored_messages"] == 3
    mixed = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    refused = served.post(CHAT, served.token("ada"), 400, model=TASK, messages=[{"role": "user", "content": mixed}])
    assert "the last message must be text" in refused["error"]["message"]


def test_a_question_is_the_tasks_input_whatever_it_looks_like(served: Served) -> None:
    """Patterns of tasks are for files of queries: a text can be made whose matching takes for ever."""
    served.home.keep_task("LaMP_1")
    text = 'the paper with the title "' * 20_000
    served.post(CHAT, served.token("ada"), 400, model="LaMP_1", messages=say(text))
    asked = {"title": 'the paper with the title "T", which reference is related?', "option_1": "A", "option_2": "B"}
    served.post(CHAT, served.token("ada"), model="LaMP_1", messages=say(json.dumps(asked)))
    assert asked["title"] in served.engine.streams[-1].request.prompt


def test_records_are_retrieved_from_the_own_history(served: Served) -> None:
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=say("ada secret3"), rag=2)
    assert "ada-3" in told["ownlm"]["retrieved"] and len(told["ownlm"]["retrieved"]) == 2
    assert "bela" not in served.engine.streams[0].request.prompt


def test_settings_reach_the_engine(served: Served) -> None:
    asked = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["x", "y"]}
    served.post(CHAT, served.token("ada"), model=TASK, messages=say(), **asked)
    work = served.engine.streams[0].request
    assert (work.max_tokens, work.temperature, work.top_p, work.seed, work.stop) == (9, 0.5, 0.9, 7, ("x", "y"))
    served.post(CHAT, served.token("ada"), model=TASK, messages=say(), max_completion_tokens=3)
    assert (served.engine.streams[1].request.max_tokens, served.engine.streams[1].request.temperature) == (3, 0.0)


def test_a_label_is_chosen_on_demand(served: Served) -> None:
    told = served.post(CHAT, served.token("ada"), model=TASK, messages=say(), choose=True)
    assert told["choices"][0]["message"]["content"] == "home"
    assert served.engine.streams[0].request.labels == ("home", "work", "bin")


def test_an_answer_comes_as_a_stream_of_events(served: Served) -> None:
    asked = {"model": TASK, "messages": say(), "stream": True, "stream_options": {"include_usage": True}}
    response = served.client.post(CHAT, headers=served.token("ada"), json=asked)
    assert response.headers["content-type"].startswith("text/event-stream")
    role, *said, last, used = events(response.text)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(one["choices"][0]["delta"]["content"] for one in said).startswith("ada read")
    assert last["choices"][0]["finish_reason"] == "stop" and last["ownlm"]["adapter"] == newest(served, "ada")
    assert used["choices"] == [] and used["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("usage", [True, False])
def test_several_prompts_come_as_one_stream_with_their_indices(served: Served, usage: bool) -> None:
    prompts = ["a" * (1 + n) for n in range(Limits().at_once + 3)]  # some wait for their turn
    asked = {"model": TASK, "prompt": prompts, "stream": True, "stream_options": {"include_usage": usage}}
    response = served.client.post("/v1/completions", headers=served.token("ada"), json=asked)
    told = events(response.text)
    if usage:
        used = told.pop()
        assert used["choices"] == [] and used["usage"]["completion_tokens"] == 4 * len(prompts)
        assert used["usage"]["prompt_tokens"] == sum(map(len, prompts))
    for index, prompt in enumerate(prompts):
        mine = [one for one in told if one["choices"][0]["index"] == index]
        assert "".join(one["choices"][0]["text"] for one in mine) == f"ada read {len(prompt)} letters"
        assert [one["choices"][0]["finish_reason"] for one in mine[-2:]] == [None, "stop"]
        assert mine[-1]["ownlm"]["adapter"] == newest(served, "ada") and "ownlm" not in mine[0]
    order = [one["choices"][0]["index"] for one in told]
    assert order != sorted(order)  # each piece as it comes


def test_a_stream_of_several_prompts_ends_with_the_first_error(served: Served) -> None:
    served.engine.before["read"] = lambda: setattr(served.engine, "error", DataError("The prompt is too long"))
    asked: dict[str, Any] = {"model": TASK, "prompt": ["a"] * (Limits().at_once + 1), "stream": True}
    response = served.client.post("/v1/completions", headers=served.token("ada"), json=asked)
    *_, last = (json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line)
    assert last["error"]["param"] == "prompt" and "too long" in last["error"]["message"]
    assert all(stream.cancelled for stream in served.engine.streams)
    served.engine.error = None
    free = served.post("/v1/completions", served.token("ada"), **asked | {"stream": False})
    assert len(free["choices"]) == len(asked["prompt"])


def revoke_soon(store: Store) -> None:
    """Revokes ada's tokens when the stream has begun: its first check has a second."""
    time.sleep(1.0)
    for one in tokens(store, "ada"):
        revoke_token(store, one.id)


def test_a_stream_ends_when_its_token_does(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LOOK_S", -1.0)  # at each piece
    who, store = served.token("ada"), served.home.store
    served.engine.before["read"] = lambda: revoke_soon(store)
    response = served.client.post(CHAT, headers=who, json={"model": TASK, "messages": say(), "stream": True})
    _, *said, refused = (json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line)
    assert refused["error"]["code"] == "invalid_api_key" and len(said) <= 1  # the word before may have left
    assert all(one["choices"][0]["delta"]["content"] == "ada" for one in said)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_stream_looks_before_its_first_piece(served: Served, path: str) -> None:
    """Not even the role is given where the token was revoked, or the person forgotten, before that."""
    asked = {"model": TASK, "stream": True} | ({"messages": say()} if path == CHAT else {"prompt": "Once"})
    store = served.home.store
    for user, end in {
        "ada": lambda: [revoke_token(store, one.id) for one in tokens(store, "ada")],
        "bela": lambda: served.home.forget("bela"),
    }.items():
        who, served.engine.before[user] = served.token(user), end
        response = served.client.post(path, headers=who, json=asked)
        assert response.status_code == 401 and "data:" not in response.text
        assert served.engine.streams[-1].cancelled


def test_a_stream_looks_before_its_last_piece(served: Served) -> None:
    """However soon it comes after the last look."""
    who, store = served.token("ada"), served.home.store
    served.engine.words, served.engine.last_with_text = ("one", "two"), True
    served.engine.before["two"] = lambda: revoke_soon(store)
    response = served.client.post(CHAT, headers=who, json={"model": TASK, "messages": say(), "stream": True})
    assert "one" in response.text and "two" not in response.text and "invalid_api_key" in response.text


def forget_ciro(home: Home) -> None:
    home.forget("ciro")


def forget_shown(home: Home) -> None:
    home.forget_record("ciro", "ciro-0", TASK)


def renew_profile(home: Home) -> None:
    home.store.add_profile(ProfileInfo(TASK, "ciro", "Another summary.", "counted", home.histories()[2].history))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "deleted", "code"),
    [
        (CHAT, forget_ciro, 409),
        ("/v1/completions", forget_ciro, 409),
        (CHAT, forget_shown, 409),
        ("/v1/completions", forget_shown, 200),  # whose prompt shows no record
        (CHAT, renew_profile, 409),
    ],
)
def test_what_an_answer_of_the_base_is_made_from_must_still_be_there(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, deleted: Callable[[Home], None], code: int, stream: bool
) -> None:
    home, who = served.home, served.token(None)
    home.profile(TASK, users=["ciro"], counted=True)
    monkeypatch.setattr("ownlm.workflows.ask.PromptConfig", lambda: PromptConfig(rag=3, profile=True))
    served.engine.meanwhile = lambda: deleted(home)
    asked = {"model": f"{TASK}:ciro", "stream": stream} | ({"messages": say()} if path == CHAT else {"prompt": "Once"})
    response = served.client.post(path, headers=who, json=asked)
    assert response.status_code == code and (code == 200) == ("read" in response.text)


def test_who_has_learnt_what_was_forgotten_is_told(served: Served) -> None:
    who = served.token("ada")
    served.client.delete(f"/v1/users/me/history/ada-2?task={TASK}", headers=who)
    told = served.post(CHAT, who, model=TASK, messages=say())
    assert told["ownlm"]["adapter"] and "learnt from a record that was forgotten" in told["ownlm"]["warning"]


def test_what_is_not_known_is_refused_by_its_name(served: Served) -> None:
    who = served.token("ada")
    for name in ("chose", "top_k", "reasoning_effort"):
        refused = served.post(CHAT, who, 400, model=TASK, messages=say(), **{name: "low"})
        assert repr(name) in refused["error"]["message"]
    served.post(CHAT, who, model=TASK, messages=say(), user="u1", store=False, metadata={"a": "b"})
    told = served.client.post(CHAT, headers=who | {"Content-Type": "application/json"}, content=b'{"model": ').json()[
        "error"
    ]
    assert "no JSON" in told["message"] and told["param"] is None
    told = served.client.post(CHAT, headers=who, content=b"{}").json()["error"]
    assert "Content-Type: application/json" in told["message"]


def test_texts_are_continued_as_they_stand(served: Served) -> None:
    told = served.post("/v1/completions", served.token("ada"), model=TASK, prompt=["Once", "Twice"], max_tokens=3)
    assert [one["text"] for one in told["choices"]] == ["ada read 4 letters", "ada read 5 letters"]
    assert [stream.request.prompt for stream in served.engine.streams] == ["Once", "Twice"]
    response = served.client.post(
        "/v1/completions", headers=served.token("ada"), json={"model": TASK, "prompt": "Once", "stream": True}
    )
    assert "".join(one["choices"][0]["text"] for one in events(response.text)) == "ada read 4 letters"


def test_models_are_the_tasks_of_the_home(served: Served) -> None:
    who = served.token("ada")
    assert [one["id"] for one in served.get("/v1/models", who)["data"]] == [TASK]
    assert served.get(f"/v1/models/{TASK}", who)["owned_by"] == "ownlm"
    assert served.get("/v1/models/other", who, 404)["error"]["code"] == "not_found"


def test_an_operator_asks_for_others_and_nobody_else_does(served: Served) -> None:
    told = served.post(CHAT, served.token(None), model=f"{TASK}:bela", messages=say())
    assert told["ownlm"]["adapter"] == newest(served, "bela")
    assert served.post(CHAT, served.token(None), model=TASK, messages=say())["ownlm"]["adapter"] is None
    ada, refusals = served.token("ada"), []
    for model in (f"{TASK}:bela", f"{TASK}:nobody", f"{TASK}:ada", "nothing:bela", "nothing"):
        refusals.append(served.post(CHAT, ada, 404, model=model, messages=say()))
    assert all(refusal == refusals[0] for refusal in refusals)
    for path, text in ((CHAT, {"messages": say()}), ("/v1/completions", {"prompt": "x"})):
        refused = served.post(path, served.token(None), 404, model=f"{TASK}:nobody", **text)["error"]
        assert "no such user: 'nobody'" in refused["message"] and refused["code"] == "not_found", path
        assert refused["param"] == "model"
    assert served.post(CHAT, served.token(None), 404, model="nothing:bela", messages=say()) == refusals[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []}, {"messages": [{"role": "assistant", "content": "x"}]}, {"n": 2}, {"tools": [{}]},
        {"logprobs": True}, {"temperature": 3}, {"max_tokens": 0},
        {"messages": say("")}, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"response_format": {"type": "json_object"}},
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_without_a_word_of_the_text(served: Served, wrong: dict[str, Any]) -> None:
    asked = {"model": TASK, "messages": say("my secret words")} | wrong
    refused = served.post(CHAT, served.token("ada"), 400, **asked)["error"]
    assert refused["type"] == "invalid_request_error" and refused["message"]
    assert "secret" not in json.dumps(refused)
    assert served.engine.streams == []


def test_unknown_revoked_and_forgotten_tokens_look_the_same(served: Served) -> None:
    revoked, forgotten = served.token("bela"), served.token("ada")
    revoke_token(served.home.store, tokens(served.home.store, "bela")[0].id)
    served.home.forget("ada")
    asked = {"model": TASK, "messages": say()}
    answers = [
        served.client.post(CHAT, headers=who, json=asked)
        for who in ({}, {"Authorization": "Bearer own_unknown"}, {"Authorization": "Basic x"}, revoked, forgotten)
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].headers["www-authenticate"] == "Bearer"


def test_another_adapters_answer_never_leaves(served: Served) -> None:
    served.engine.swap = newest(served, "bela")
    refused = served.post(CHAT, served.token("ada"), 409, model=TASK, messages=say())
    assert "Another adapter" in refused["error"]["message"]
    asked = {"model": TASK, "messages": say(), "stream": True}
    response = served.client.post(CHAT, headers=served.token("ada"), json=asked)
    assert response.status_code == 409 and "read" not in response.text


def test_an_answer_does_not_leave_when_its_person_was_forgotten_meanwhile(served: Served) -> None:
    who = served.token("ada")
    served.engine.meanwhile = lambda: served.home.forget("ada")
    refused = served.post(CHAT, who, 401, model=TASK, messages=say())
    assert refused["error"]["code"] == "invalid_api_key"


def test_an_operators_answer_for_somebody_forgotten_meanwhile_does_not_leave(served: Served) -> None:
    served.engine.meanwhile = lambda: served.home.forget("ada")
    refused = served.post(CHAT, served.token(None), 409, model=f"{TASK}:ada", messages=say())
    assert "kept back" in refused["error"]["message"]


def test_errors_of_the_engine_are_told_as_such(served: Served) -> None:
    served.engine.error = AdapterError("It is damaged", hint="train again")
    assert "train again" in served.post(CHAT, served.token("ada"), 409, model=TASK, messages=say())["error"]["message"]
    served.engine.error = OwnlmError("It stops")
    assert served.post(CHAT, served.token("ada"), 500, model=TASK, messages=say())["error"]["type"] == "server_error"


@pytest.mark.parametrize("stream", [False, True])
def test_whose_weights_went_with_them_is_told_what_the_token_is_worth(served: Served, stream: bool) -> None:
    who = served.token("ada")
    served.engine.meanwhile = lambda: served.home.forget("ada")
    served.engine.error = StoreError("The blob /secret/home/blobs/4a is missing")
    refused = served.post(CHAT, who, 401, model=TASK, messages=say(), stream=stream)
    assert refused["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("kind", [StoreError, BaseModelError])
def test_files_of_the_server_are_named_to_nobody(served: Served, kind: type[OwnlmError]) -> None:
    served.engine.error = kind("The blob /secret/home/blobs/4a is damaged", got="/secret/x", hint="see /secret")
    for stream in (False, True):
        refused = served.post(CHAT, served.token("ada"), 500, model=TASK, messages=say(), stream=stream)
        assert "secret" not in json.dumps(refused) and "its log says why" in refused["error"]["message"]


def test_whoever_comes_when_all_is_full_is_told_when_to_come_again(served: Served) -> None:
    served.engine.full = True
    response = served.client.post(CHAT, headers=served.token("ada"), json={"model": TASK, "messages": say()})
    assert response.status_code == 429 and response.headers["retry-after"] == "3"


class TestLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(grace_s=0, requests_per_minute=3, body_bytes=2000, timeout_s=0.2, at_once=1, queued=1)

    def test_of_rates_are_each_tokens_own(self, served: Served) -> None:
        ada, bela = served.token("ada"), served.token("bela")
        codes = [served.client.get("/v1/models", headers=ada).status_code for _ in range(5)]
        assert codes == [200, 200, 200, 429, 429]
        response = served.client.get("/v1/models", headers=ada)
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert served.client.get("/v1/models", headers=bela).status_code == 200

    def test_of_sizes(self, served: Served) -> None:
        long = {"model": TASK, "messages": say("x" * 3000)}
        assert served.client.post(CHAT, headers=served.token("ada"), json=long).status_code == 413
        chunks = (b"x" * 500 for _ in range(10))  # whose length nobody announces
        assert served.client.post(CHAT, headers=served.token("ada"), content=chunks).status_code == 413

    def test_of_time(self, served: Served) -> None:
        served.engine.gate.clear()
        refused = served.post(CHAT, served.token("ada"), 504, model=TASK, messages=say())
        assert "took too long" in refused["error"]["message"]
        assert served.engine.streams[0].cancelled

    def test_of_answers_that_wait(self, served: Served) -> None:
        refused = served.post("/v1/completions", served.token("ada"), 429, model=TASK, prompt=["a", "b", "c"])
        assert "1 under way and 1 that wait" in refused["error"]["message"]
        served.post("/v1/completions", served.token("ada"), model=TASK, prompt=["a", "b"])
        served.post("/v1/completions", served.token(None), model=TASK, prompt=["a", "b", "c"])  # operators ask for many
