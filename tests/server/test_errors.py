"""Every error has the status that its clients need: they repeat only what can succeed later by itself."""

import inspect
import logging
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from openai import APIStatusError, OpenAI

from ownlm import errors
from ownlm.errors import (
    AccessError,
    AdapterError,
    BaseModelError,
    ChangedRecordError,
    ConfigError,
    ConflictError,
    CopyError,
    DataError,
    DeviceMemoryError,
    ForbiddenError,
    NotFoundError,
    OwnlmError,
    PoolError,
    StoreBusyError,
    StoreError,
    SupersededError,
    TaskError,
    TrainingError,
    UnknownUserError,
)
from ownlm.inference import protocol
from ownlm.inference.protocol import AnswerTimeoutError, Busy, EngineDownError, EngineError, Overloaded, StoppedError
from ownlm.server.errors import error_response, for_client
from tests.community import TASK
from tests.server.conftest import Served

VERDICTS = {  # kind: status, whether a client repeats it
    AccessError: (401, False),
    ForbiddenError: (403, False),
    NotFoundError: (404, False),
    UnknownUserError: (404, False),
    SupersededError: (409, True),
    AdapterError: (409, False),
    PoolError: (409, False),
    CopyError: (409, False),
    ConflictError: (409, False),
    DataError: (400, False),
    ChangedRecordError: (400, False),
    TaskError: (400, False),
    ConfigError: (400, False),
    Busy: (429, True),
    Overloaded: (503, True),
    StoreBusyError: (503, True),
    StoppedError: (503, True),
    EngineError: (500, True),
    EngineDownError: (500, False),
    AnswerTimeoutError: (504, False),
    StoreError: (500, False),
    BaseModelError: (500, False),
    TrainingError: (500, False),
    DeviceMemoryError: (500, False),
    OwnlmError: (500, False),
}


def kinds() -> Iterator[type[OwnlmError]]:
    for module in (errors, protocol):
        yield from (
            kind for _, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, OwnlmError) and kind.__module__ == module.__name__
        )  # fmt: skip


def test_every_kind_of_error_has_its_verdict() -> None:
    assert set(kinds()) == set(VERDICTS)


def made(kind: type[OwnlmError]) -> OwnlmError:
    further = {Busy: (3.0,), ChangedRecordError: ("record-1",)}
    return kind("It failed", *further.get(kind, further[Busy] if issubclass(kind, Busy) else ()))


@pytest.mark.parametrize("kind", VERDICTS, ids=lambda kind: kind.__name__)
def test_a_client_repeats_what_can_succeed_and_nothing_else(kind: type[OwnlmError]) -> None:
    status, again = VERDICTS[kind]
    response, asked = error_response(made(kind)), list[httpx.Request]()
    assert response.status_code == status and response.headers["x-should-retry"] == str(again).lower()
    assert ("retry-after" in response.headers) == (status in (429, 503))
    headers = {name: value for name, value in response.headers.items() if name != "retry-after"}  # nobody waits here

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, headers=headers | {"retry-after-ms": "1"}, content=response.body)

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = OpenAI(base_url="http://home/v1", api_key="own_x", http_client=http, max_retries=2)
        with pytest.raises(APIStatusError) as caught:
            client.chat.completions.create(model=TASK, messages=[{"role": "user", "content": "x"}])
    assert len(asked) == (3 if again else 1)
    assert caught.value.code and caught.value.type and "It failed" not in (caught.value.param or "")


def test_what_is_no_request_says_so_too(served: Served) -> None:
    who = served.token("ada")
    answers = [
        served.client.get("/nowhere", headers=who), served.client.put("/v1/models", headers=who),
        served.client.post("/v1/chat/completions", headers=who, json={}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [404, 405, 400]
    assert {answer.headers["x-should-retry"] for answer in answers} == {"false"}


def test_the_log_tells_the_operator_what_and_where_and_the_client_is_not_told_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for error in (
        StoreError("The blob /home/blobs/4a is damaged", got="SHA-256 12"),
        CopyError("A copy of what is to be forgotten lies in /home/notes.txt"),
    ):
        with caplog.at_level(logging.ERROR, "ownlm.server"):
            body = error_response(error).body
        assert error.what in caplog.text and b"/home" not in bytes(body)
        caplog.clear()
    with caplog.at_level(logging.ERROR, "ownlm.server"):
        error_response(StoreBusyError("The database of the home /home is locked"))
        error_response(PoolError("Sharers of ada withdrew"))
    assert "locked" not in caplog.text and "ada" not in caplog.text


def test_a_user_learns_how_to_mend_a_record_and_no_command_of_the_operator() -> None:
    wrong = DataError("A record's answer is no label", hint="give it a label", command="ownlm history edit ada 1")
    assert str(for_client(wrong)) == "A record's answer is no label. Next: give it a label."
    assert for_client(NotFoundError("No base", hint="add one", command="ownlm base add")).hint == (
        "ask whoever runs this server"
    )
