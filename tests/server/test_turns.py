"""Whose turn it is: nobody keeps the others waiting, whatever they ask for, and bases take turns."""

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import BaseModelError
from ownlm.model.bases.random_base import make_random_base
from ownlm.server import own_engine, running
from ownlm.server.engine import Work
from ownlm.server.own_engine import OwnEngine
from ownlm.server.stream import OwnStream
from ownlm.store.rows import AdapterInfo
from tests.server.answering import PEOPLE, Office, answered, read, serving


def test_bases_take_turns(tmp_path: Path, office: Office, people: list[AdapterInfo]) -> None:
    other = office.home.add_base(str(make_random_base(tmp_path / "other", seed=5)), "other")
    gone = office.home.add_base(str(make_random_base(tmp_path / "gone", seed=6)), "gone")
    (tmp_path / "gone" / "model.safetensors").unlink()
    engine = OwnEngine(office.home, bases=1)
    mine = office.work(people[0])
    works = [mine, Work(other, None, "a", 5), Work(gone, None, "a", 5), Work(other, None, "a", 5), mine]
    one, two, three, four, five = answered(engine, works)
    assert one == five == office.alone(mine) and two == four != "" and isinstance(three, BaseModelError)
    assert engine.counts()["tokens"] > 0


def test_a_base_that_left_takes_no_memory(tmp_path: Path, office: Office, people: list[AdapterInfo]) -> None:
    other = office.home.add_base(str(make_random_base(tmp_path / "next", seed=8)), "next")
    engine = OwnEngine(office.home, bases=1)

    async def use() -> None:
        await read(engine.submit(office.work(people[0])))
        first = engine._workers["tiny"].running
        assert first is not None
        model = weakref.ref(first.base.model)
        del first
        await read(engine.submit(Work(other, None, "a", 5)))
        assert list(engine._workers) == ["next"] and model() is None

    serving(engine, use)


def ended(engine: OwnEngine, works: Sequence[Work]) -> list[str]:
    """Whose answers ended, in that order."""
    done = list[str]()

    async def visit(stream: OwnStream) -> None:
        await read(stream)
        done.append(stream.work.caller)

    async def use() -> None:
        await asyncio.gather(*[visit(stream) for stream in [engine.submit(work) for work in works]])

    serving(engine, use)
    return done


def test_who_has_fewer_answers_under_way_goes_first(office: Office, people: list[AdapterInfo]) -> None:
    many = [office.work(people[0], most=30, caller="many")] * 8
    few = office.work(people[1], most=2, caller="few")
    assert ended(OwnEngine(office.home, live=2), [*many, few]).index("few") <= 2


def test_others_pass_who_does_not_fit_yet(office: Office, people: list[AdapterInfo]) -> None:
    sizes = {"first": 150, "too long for now": 180, "short": 3}
    works = [office.work(people[0], most=most, caller=who) for who, most in sizes.items()]
    assert ended(OwnEngine(office.home, places=200), works) == ["short", "first", "too long for now"]


def test_who_has_left_does_not_fill_the_queue(office: Office, people: list[AdapterInfo]) -> None:
    engine = OwnEngine(office.home, queue=2)

    async def use() -> None:
        for _ in range(10):
            engine.submit(office.work(people[0])).cancel()
        work = office.work(people[1])
        assert await read(engine.submit(work)) == office.alone(work)

    serving(engine, use)


def test_choosing_leaves_others_their_turns(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, choose = list[int](), running.choose

    def watched(base: Any, banks: Any, prompts: Any, labels: Any, **how: Any) -> Any:
        sizes.append(sum(len(prompt.tokens) for prompt in prompts))
        return choose(base, banks, prompts, labels, **how)

    monkeypatch.setattr(running, "choose", watched)
    works = [office.work(one, "Sort this" * 5, labels=("a", "b")) for one in people]
    tokens = len(office.base.encode_prompt(works[0].prompt))
    together = answered(OwnEngine(office.home, tokens_per_pass=2 * tokens), works)
    assert max(sizes) == 2 * tokens and sum(sizes) == PEOPLE * tokens  # the first may begin before the others come
    assert together == [answered(OwnEngine(office.home), [work])[0] for work in works]


def test_a_base_that_is_never_idle_gives_way(
    tmp_path: Path, office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_engine, "TURN_S", 0.2)
    other = office.home.add_base(str(make_random_base(tmp_path / "second", seed=7)), "second")
    engine, over = OwnEngine(office.home, bases=1), asyncio.Event()

    async def use() -> None:
        async def keep_busy() -> None:
            while not over.is_set():
                await read(engine.submit(office.work(people[0], most=60)))

        busy = [asyncio.create_task(keep_busy()) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert await read(engine.submit(Work(other, None, "a", 5)))
        over.set()
        await asyncio.gather(*busy)

    serving(engine, use)
