"""Fairness: no caller keeps the others waiting, whatever they ask for, and bases take turns."""

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import BaseModelError
from ownlm.inference import async_engine, scheduler
from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.protocol import OutputStream
from ownlm.inference.request import Request
from ownlm.model.bases.random_base import make_random_base
from ownlm.store.rows import AdapterInfo
from tests.server.answering import PEOPLE, Office, answered, read, serving


def test_bases_take_turns(tmp_path: Path, office: Office, people: list[AdapterInfo]) -> None:
    other = office.home.add_base(str(make_random_base(tmp_path / "other", seed=5)), "other")
    gone = office.home.add_base(str(make_random_base(tmp_path / "gone", seed=6)), "gone")
    (tmp_path / "gone" / "model.safetensors").unlink()
    engine = office.engine(bases=1)
    mine = office.request(people[0])
    requests = [mine, Request(other, None, "a", 5), Request(gone, None, "a", 5), Request(other, None, "a", 5), mine]
    one, two, three, four, five = answered(engine, requests)
    assert one == five == office.alone(mine) and two == four != "" and isinstance(three, BaseModelError)
    assert engine.counts()["tokens"] > 0


def test_a_base_that_left_takes_no_memory(tmp_path: Path, office: Office, people: list[AdapterInfo]) -> None:
    other = office.home.add_base(str(make_random_base(tmp_path / "next", seed=8)), "next")
    engine = office.engine(bases=1)

    async def use() -> None:
        await read(engine.submit(office.request(people[0])))
        first = engine._workers["tiny"].scheduler
        assert first is not None
        model = weakref.ref(first.base.model)
        del first
        await read(engine.submit(Request(other, None, "a", 5)))
        assert list(engine._workers) == ["next"] and model() is None

    serving(engine, use)


def ended(engine: AsyncEngine, requests: Sequence[Request]) -> list[str]:
    """Whose answers ended, in that order."""
    done = list[str]()

    async def visit(stream: OutputStream) -> None:
        await read(stream)
        done.append(stream.request.caller)

    async def use() -> None:
        await asyncio.gather(*[visit(stream) for stream in [engine.submit(request) for request in requests]])

    serving(engine, use)
    return done


def test_who_has_fewer_answers_under_way_goes_first(office: Office, people: list[AdapterInfo]) -> None:
    many = [office.request(people[0], most=30, caller="many")] * 8
    few = office.request(people[1], most=2, caller="few")
    assert ended(office.engine(running=2), [*many, few]).index("few") <= 2


def test_others_pass_who_does_not_fit_yet(office: Office, people: list[AdapterInfo]) -> None:
    sizes = {"first": 150, "too long for now": 180, "short": 3}
    requests = [office.request(people[0], most=most, caller=who) for who, most in sizes.items()]
    assert ended(office.engine(cache_tokens=200), requests) == ["short", "first", "too long for now"]


def test_who_has_left_does_not_fill_the_queue(office: Office, people: list[AdapterInfo]) -> None:
    engine = office.engine(queue=2)

    async def use() -> None:
        for _ in range(10):
            engine.submit(office.request(people[0])).cancel()
        request = office.request(people[1])
        assert await read(engine.submit(request)) == office.alone(request)

    serving(engine, use)


def test_choosing_leaves_others_their_turns(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, score = list[int](), scheduler.score_labels

    def watched(base: Any, banks: Any, sequences: Any, labels: Any) -> Any:
        sizes.append(sum(len(one.prompt) for one in sequences))
        return score(base, banks, sequences, labels)

    monkeypatch.setattr(scheduler, "score_labels", watched)
    requests = [office.request(one, "Sort this" * 5, labels=("a", "b")) for one in people]
    tokens = len(office.base.encode_prompt(requests[0].prompt))
    together = answered(office.engine(prompt_tokens=2 * tokens), requests)
    assert max(sizes) == 2 * tokens and sum(sizes) == PEOPLE * tokens  # the first may begin before the others come
    assert together == [answered(office.engine(), [request])[0] for request in requests]


def test_a_base_that_is_never_idle_gives_way(
    tmp_path: Path, office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_engine, "TURN_S", 0.2)
    other = office.home.add_base(str(make_random_base(tmp_path / "second", seed=7)), "second")
    engine, over = office.engine(bases=1), asyncio.Event()

    async def use() -> None:
        async def keep_busy() -> None:
            while not over.is_set():
                await read(engine.submit(office.request(people[0], most=60)))

        busy = [asyncio.create_task(keep_busy()) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert await read(engine.submit(Request(other, None, "a", 5)))
        over.set()
        await asyncio.gather(*busy)

    serving(engine, use)
