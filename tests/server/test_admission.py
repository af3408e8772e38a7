"""Many requests of one token at once: they wait for their turn, and nobody else waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
import pytest

from ownlm.home import Home
from ownlm.inference.protocol import LONGEST_WAIT_S, UNKNOWN_S, AnswerTimes, Busy
from ownlm.server.admission import Admission
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.tokens import give_token
from tests.server.fake_engine import FakeEngine
from tests.server.routes.test_openai import CHAT, TASK, say


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0)


def asking(home: Home, use: Callable[[FakeEngine, Callable[..., Any]], Awaitable[None]], **how: Any) -> None:
    """Uses a server within one event loop, by many requests at once."""

    async def run() -> None:
        engine = FakeEngine()
        app = create_app(home, engine, Limits(grace_s=0, **how))
        keys = {user: give_token(home.store, user)[1] for user in ("ada", "bela")}

        def ask(user: str, path: str = CHAT, **content: Any) -> asyncio.Task[httpx.Response]:
            asked = {"model": TASK} | ({"messages": say()} if path == CHAT else {}) | content
            head = {"Authorization": f"Bearer {keys[user]}"}
            return asyncio.create_task(client.post(path, headers=head, json=asked))

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            await asyncio.wait_for(use(engine, ask), 60)

    asyncio.run(run())


@pytest.mark.parametrize("many", [32, 64])
def test_many_at_once_all_succeed_and_starve_nobody(home: Home, many: int) -> None:
    async def use(engine: FakeEngine, ask: Callable[..., Any]) -> None:
        engine.gate.clear()
        mine = [ask("ada", stream=bool(n % 2)) for n in range(many)]
        await until(lambda: len(engine.streams) == 16)
        other = ask("bela")
        await until(lambda: len(engine.streams) == 17)  # whose turn comes at once
        assert [stream.request.adapter.user for stream in engine.streams].count("ada") == 16  # type: ignore[union-attr]
        engine.gate.set()
        answers = await asyncio.gather(*mine, other)
        assert {answer.status_code for answer in answers} == {200} and len(engine.streams) == many + 1
        assert all(stream.cancelled for stream in engine.streams)

    asking(home, use)


def test_many_prompts_of_one_request_take_turns(home: Home) -> None:
    async def use(engine: FakeEngine, ask: Callable[..., Any]) -> None:
        told = (await ask("ada", "/v1/completions", prompt=["a" * n for n in range(1, 101)])).json()
        expected = [f"ada read {n} letters" for n in range(1, 101)]
        assert [choice["text"] for choice in told["choices"]] == expected

    asking(home, use)


def test_who_leaves_while_waiting_makes_room(home: Home) -> None:
    async def use(engine: FakeEngine, ask: Callable[..., Any]) -> None:
        engine.gate.clear()
        first = ask("ada")
        await until(lambda: len(engine.streams) == 1)
        refused = await ask("ada", "/v1/completions", prompt=["a", "b"])
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= LONGEST_WAIT_S
        assert "1 under way and 1 that wait" in refused.json()["error"]["message"]
        engine.gate.set()
        assert {(await first).status_code, (await ask("ada")).status_code} == {200}

    asking(home, use, at_once=1, queued=1)


def test_whose_turn_does_not_come_is_told_to_come_again(home: Home) -> None:
    async def use(engine: FakeEngine, ask: Callable[..., Any]) -> None:
        engine.gate.clear()
        first = ask("ada")
        await until(lambda: len(engine.streams) == 1)
        refused = await ask("ada")
        assert refused.status_code == 429 and "took too long for this one to begin" in refused.text
        engine.gate.set()
        assert (await first).status_code == 200

    asking(home, use, at_once=1, wait_s=0.05)


def test_waiting_is_no_part_of_the_time_that_an_answer_may_take(home: Home) -> None:
    async def use(engine: FakeEngine, ask: Callable[..., Any]) -> None:
        engine.gate.clear()
        first = ask("ada")
        await until(lambda: len(engine.streams) == 1)
        second = ask("ada")
        await until(lambda: engine.streams[0].cancelled)  # the first has taken all of its time
        engine.gate.set()
        assert [(await answer).status_code for answer in (first, second)] == [504, 200]

    asking(home, use, at_once=1, timeout_s=2)


def test_tickets_are_given_back_in_any_order() -> None:
    async def run() -> None:
        admission = Admission(2, 3)
        one, two, three, four, five = admission.take("a", 5, True)
        assert [t.turn.is_set() for t in (one, two, three, four, five)] == [True, True, False, False, False]
        with pytest.raises(Busy):
            admission.take("a", 1, True)
        (other,) = admission.take("b", 1, True)
        assert other.turn.is_set()
        four.give_back()
        four.give_back()
        two.give_back(finished=True)
        two.give_back()
        assert three.turn.is_set() and not four.turn.is_set() and not five.turn.is_set()
        one.give_back()
        assert five.turn.is_set()
        assert all(ticket.turn.is_set() for ticket in admission.take("operator", 1000, False))

    asyncio.run(run())


def test_how_long_to_wait_follows_from_what_waits_and_how_fast_answers_end() -> None:
    times = AnswerTimes()
    assert times.wait_s(32, 16) == 2 * UNKNOWN_S
    for seconds in (2.0, 4.0):
        times.add(seconds)
    assert times.wait_s(64, 16) == 12.0 and times.wait_s(1, 16) == 1.0
    assert times.wait_s(10**6, 16) == LONGEST_WAIT_S < 60
