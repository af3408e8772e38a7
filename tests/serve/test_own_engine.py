"""The engine: everybody is answered by their own adapter, as if alone, whoever comes and goes."""

import asyncio
from pathlib import Path

import pytest

from ownlm.serve.own_engine import OwnEngine
from tests.serve.answering import TEXTS, Office, read, serving


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Office:
    return Office(tmp_path_factory.mktemp("office") / "home", tiny_base)


def test_mixed_company_is_answered_as_each_alone(office: Office) -> None:
    people = [None, *(office.hire(f"person {n}", n) for n in range(5))]
    works = [office.work(one, text, 5 + len(text) % 7) for text in TEXTS for one in people]
    engine = OwnEngine(office.home, slots=4, tokens_per_pass=16)

    async def use() -> list[str]:
        streams = [engine.submit(work) for work in works]
        answers = await asyncio.gather(*map(read, streams))
        assert [stream.adapter for stream in streams] == [work.adapter and work.adapter.id for work in works]
        assert [stream.prompt_tokens for stream in streams] == [len(office.base.encode_prompt(w.prompt)) for w in works]
        return answers

    answers = serving(engine, use)
    assert answers == [office.alone(work) for work in works]
    assert len(set(answers)) > 8
