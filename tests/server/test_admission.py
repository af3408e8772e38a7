"""Many requests of one token at once: they wait for their turn, and nobody else waits for them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import pytest

from ownlm.home import Home
from ownlm.inference.protocol import LONGEST_WAIT_S, Busy
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


def test_answers_leave_the_queue_in_any_order() -> None:
    async def run() -> None:
        admission = Admission(2, 3, longest_s=0.01)
        with ExitStack() as stack:
            one, two, three, four, five = turns = admission.join(stack, "a", 5, True)
            assert [turn.came.is_set() for turn in turns] == [True, True, False, False, False]
            with pytest.raises(Busy):
                admission.join(stack, "a", 1, True)
            (other,) = admission.join(stack, "b", 1, True)
            assert other.came.is_set()
            for _ in range(2):
                four.queue.leave(four)
            async with two:
                pass
            two.queue.leave(two)
            assert three.came.is_set() and not four.came.is_set() and not five.came.is_set()
            with pytest.raises(Busy):
                async with five:
                    pass
            one.queue.leave(one)
            assert five.came.is_set()
        assert len(admission.join(ExitStack(), "a", 5, True)) == 5
        assert all(turn.came.is_set() for turn in admission.join(ExitStack(), "operator", 1000, False))

    asyncio.run(run())
