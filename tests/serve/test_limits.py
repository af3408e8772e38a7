"""What ends by time: tokens, and limits of rates, which no change of the clock prolongs."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ownlm.serve import answering
from ownlm.serve.engine import Busy
from ownlm.serve.limits import IDLE, Limits, Meter
from ownlm.store import rows
from ownlm.store.tokens import give_token
from tests.serve.conftest import Served

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
    monkeypatch.setattr(rows, "datetime", Later)
    for path in ("/v1/users/me", "/v1/models"):
        assert "expired" in served.get(path, who, 401)["error"]["message"]
    assert served.client.get("/v1/models", headers=who).headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_ends_with_its_token(stream: bool, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LOOK_S", -1.0)  # at each piece
    who = short_lived(served, "ada")
    served.engine.meanwhile = lambda: monkeypatch.setattr(rows, "datetime", Later)
    told = served.client.post(CHAT, headers=who, json=QUESTION | {"stream": stream})
    assert told.status_code in (200 if stream else 401, 401)
    assert "The token has expired" in told.text and "letters" not in told.text


def test_a_clock_that_is_set_back_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, clock = Meter(Limits(requests_per_minute=2)), [5000.0]
    monkeypatch.setattr("ownlm.serve.limits.time.monotonic", lambda: clock[0])
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
    monkeypatch.setattr("ownlm.serve.limits.time.monotonic", lambda: clock[0])
    for number in range(IDLE):
        meter.count(f"token {number}")
    clock[0] += 61
    meter.count("another")
    assert list(meter._requests) == ["another"]
