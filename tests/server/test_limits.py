"""What ends by time: tokens, and limits of rates, which no change of the clock prolongs."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.main import get_command

from ownlm.cli.app import app
from ownlm.inference.protocol import Busy, EngineError
from ownlm.server import answering
from ownlm.server.admission import Turn
from ownlm.server.limits import IDLE, Limits, Meter
from ownlm.store import tokens
from ownlm.store.jobs import add_job
from ownlm.store.rows import AdapterInfo
from ownlm.store.tokens import give_token
from tests.server.answering import Office, serving
from tests.server.conftest import Served

CHAT = "/v1/chat/completions"
QUESTION = {"model": "sorting", "messages": [{"role": "user", "content": "thing"}]}


class Later(datetime):
    """The clock, an hour on."""

    @classmethod
    def now(cls, tz: Any = None) -> "Later":
        told = datetime.now(tz) + timedelta(hours=1)
        return cls.fromtimestamp(told.timestamp(), tz)


def short_lived(served: Served, user: str | None) -> dict[str, str]:
    secret = give_token(served.home.store, user, datetime.now(UTC) + timedelta(minutes=30))[1]
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("user", ["ada", None])
def test_a_token_that_has_expired_is_refused_and_says_so(
    user: str | None, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = short_lived(served, user)
    assert served.get("/v1/users/me", who)["expires"] is not None
    monkeypatch.setattr(tokens, "datetime", Later)
    for path in ("/v1/users/me", "/v1/models"):
        assert "expired" in served.get(path, who, 401)["error"]["message"]
    assert served.client.get("/v1/models", headers=who).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_ends_with_its_token(stream: bool, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LOOK_S", -1.0)  # at each piece
    who = short_lived(served, "ada")
    served.engine.meanwhile = lambda: monkeypatch.setattr(tokens, "datetime", Later)
    told = served.client.post(CHAT, headers=who, json=QUESTION | {"stream": stream})
    assert told.status_code in (200 if stream else 401, 401)
    assert "The token has expired" in told.text and "letters" not in told.text


def test_a_clock_that_is_set_back_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, clock = Meter(Limits(requests_per_minute=2)), [5000.0]
    monkeypatch.setattr("ownlm.server.limits.time.monotonic", lambda: clock[0])
    for _ in range(2):
        meter.count("ada")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(Busy) as refused:
        meter.count("ada")
    assert refused.value.retry_after == 60
    meter.count("bela")
    clock[0] += 60
    meter.count("ada")


def test_idle_tokens_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, clock = Meter(Limits()), [0.0]
    monkeypatch.setattr("ownlm.server.limits.time.monotonic", lambda: clock[0])
    for number in range(IDLE):
        meter.count(f"token {number}")
    clock[0] += 61
    meter.count("another")
    assert list(meter._requests) == ["another"]


@pytest.mark.parametrize(
    ("limit", "user", "refused"),
    [
        (None, None, False),  # operators have no limit, unless one is asked for
        (3, None, True),
        (3, "ada", True),
        (None, "ada", True),
    ],
)
def test_operators_are_limited_only_where_asked(limit: int | None, user: str | None, refused: bool) -> None:
    meter = Meter(Limits(requests_per_minute=5, operator_requests_per_minute=limit))
    most = 5 if user else limit or 1000
    for _ in range(most):
        meter.count("token", operator=user is None)
        meter.charge("token", 400_000 if not user and limit is None else 0)
    if not refused:
        meter.count("token", operator=True)
        return
    with pytest.raises(Busy) as error:
        meter.count("token", operator=user is None)
    option = "`--requests-per-minute`" if user else "`--operator-requests-per-minute`"
    assert option in str(error.value) and f"at most {most} a minute" in str(error.value)


def test_every_refusal_for_too_much_names_its_option() -> None:
    """The option that a 429 or 503 names is one of `ownlm serve`."""
    options = {name for one in get_command(app).commands["serve"].params for name in one.opts}  # type: ignore[attr-defined]
    meter = Meter(Limits(requests_per_minute=1, at_once=1, queued=0, wait_s=0.01, bodies_bytes=100, body_bytes=10))
    meter.count("ada")
    stack = ExitStack()
    (turn,) = meter.admission.join(stack, "ada", 1, bounded=True)
    meter.hold("bela", 20)
    calls: list[Callable[[], object]] = [
        lambda: meter.count("ada"),
        lambda: meter.admission.join(stack, "ada", 1, bounded=True),
        lambda: asyncio.run(Turn(turn.queue).__aenter__()),
        lambda: meter.hold("bela", 20),
        lambda: [meter.hold(name, 20) for name in "abcdef"],
    ]
    named = set()
    for call in calls:
        with pytest.raises(Busy) as error:
            call()
        assert error.value.retry_after >= 1
        (option,) = re.findall(r"raises the limit with `(--[a-z-]+)`", str(error.value))
        named.add(option)
    assert named == {"--requests-per-minute", "--answers-waiting", "--answers-at-once", "--bodies-mb"} <= options
    assert {"--operator-requests-per-minute", "--queue"} <= options


def test_an_operator_asks_more_often_than_a_user(served: Served) -> None:
    served.client.app.state.ownlm.meter._limits = Limits(requests_per_minute=2)  # type: ignore[attr-defined]
    operator, ada = served.token(None), served.token("ada")
    assert [served.client.get("/v1/models", headers=operator).status_code for _ in range(5)] == [200] * 5
    answers = [served.client.get("/v1/models", headers=ada) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429] and int(answers[2].headers["retry-after"]) >= 1
    assert "`--requests-per-minute`" in answers[2].json()["error"]["message"]


LABELLED = QUESTION | {"choose": True}


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (QUESTION, ['ownlm_answers_total{finish="stop",how="written"} 1.0', 'ownlm_tokens_total{kind="answer"} 4.0']),
        (LABELLED, ['ownlm_answers_total{finish="stop",how="chosen"} 1.0', 'ownlm_tokens_total{kind="answer"} 1.0']),
        (LABELLED | {"stream": True}, ['ownlm_answers_total{finish="stop",how="chosen"} 1.0',
                                       'ownlm_answer_seconds_count{how="chosen"} 1.0']),
        (QUESTION | {"stream": True}, ['ownlm_answer_seconds_count{how="written"} 1.0',
                                       "ownlm_first_token_seconds_count 1.0"]),
    ],
)  # fmt: skip
def test_answers_of_every_kind_are_counted(asked: dict[str, Any], lines: list[str], served: Served) -> None:
    assert served.client.post(CHAT, headers=served.token("ada"), json=asked).status_code == 200
    text = served.client.get("/metrics", headers=served.token(None)).text
    assert all(line in text for line in lines), text


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asked", [QUESTION, LABELLED])
def test_answers_that_fail_are_counted(asked: dict[str, Any], stream: bool, served: Served) -> None:
    """By code, with the kind of answer; also in the midst of a stream, whose status was 200 long before."""
    served.engine.error = EngineError("It broke")
    served.client.post(CHAT, headers=served.token("ada"), json=asked | {"stream": stream})
    how = "chosen" if asked is LABELLED else "written"
    text = served.client.get("/metrics", headers=served.token(None)).text
    assert f'ownlm_answer_errors_total{{code="engine",how="{how}"}} 1.0' in text and "ownlm_answers_total{" not in text


def test_jobs_are_counted(served: Served) -> None:
    add_job(served.home.store, "train", "ada", "sorting")
    text = served.client.get("/metrics", headers=served.token(None)).text
    assert re.search(r'ownlm_jobs{kind="train",state="[a-z]+"} 1.0', text)


def test_the_engine_counts_labels_that_it_chooses(office: Office, people: list[AdapterInfo]) -> None:
    labels = ("home", "a longer label")
    engine = office.engine(slots=4)

    async def use() -> tuple[list[str], list[int], Mapping[str, float]]:
        outputs = [await anext(engine.submit(office.request(one, labels=labels))) for one in people[:3]]
        return [one.text for one in outputs], [one.completion_tokens for one in outputs], engine.counts()

    answers, tokens, counts = serving(engine, use)
    length = {label: len(office.base.encode_answer(f" {label}")) for label in labels}
    assert tokens == [length[answer] for answer in answers]
    assert counts["chosen"] == 3 and counts["tokens"] == sum(tokens) and 1 <= counts["passes"] <= 3
