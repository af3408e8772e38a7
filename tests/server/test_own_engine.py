"""The engine: everybody is answered by their own adapter, as if alone, whoever comes and goes."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, DataError, OwnlmError, StoreError
from ownlm.home import Home
from ownlm.inference.decoder import Decoder
from ownlm.model.piece_bank import PieceBank
from ownlm.server.engine import Busy, EngineError, Work
from ownlm.server.own_engine import OwnEngine
from ownlm.server.prompts import PromptReader
from ownlm.server.slots import Slot, Slots
from ownlm.server.stream import OwnStream
from ownlm.store.rows import AdapterInfo
from tests.community import with_context
from tests.server.answering import PEOPLE, TEXTS, Office, answered, read, serving


async def first_piece(stream: OwnStream) -> None:
    """Until it has begun."""
    async for piece in stream:
        if piece.text:
            return


def test_mixed_company_is_answered_as_each_alone(office: Office, people: list[AdapterInfo]) -> None:
    works = [office.work(one, text, 5 + len(text) % 7) for text in TEXTS for one in (None, *people)]
    engine = OwnEngine(office.home, slots=4, tokens_per_pass=16)

    async def use() -> tuple[list[str], Mapping[str, float]]:
        streams = [engine.submit(work) for work in works]
        answers = await asyncio.gather(*map(read, streams))
        for stream, work in zip(streams, works, strict=True):
            assert stream.adapter == (work.adapter.id if work.adapter else None)
            assert stream.prompt_tokens == len(office.base.encode_prompt(work.prompt))
            assert 1 <= stream.completion_tokens <= work.max_tokens
        return answers, engine.counts()

    answers, counts = serving(engine, use)
    assert answers == [office.alone(work) for work in works] and len(set(answers)) > 8
    assert counts["queued"] == counts["live"] == 0 and counts["slots_used"] == counts["slots"] == 4
    assert counts["misses"] - counts["evictions"] == 4 and counts["hits"] + counts["misses"] == len(TEXTS) * PEOPLE
    assert counts["tokens"] > counts["passes"] > 0


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 30))
def test_whoever_comes_and_goes(
    office: Office, people: list[AdapterInfo], seed: int, slots: int, live: int, tokens: int
) -> None:
    rng, engine = random.Random(seed), OwnEngine(office.home, slots=slots, live=live, tokens_per_pass=tokens)
    works = [
        office.work(rng.choice([None, *people]), rng.choice(TEXTS), rng.randint(1, 9))
        for _ in range(rng.randint(1, 12))
    ]

    async def visit(work: Work) -> str | None:
        for _ in range(rng.randint(0, 5)):
            await asyncio.sleep(0)
        stream, leaves = engine.submit(work), rng.random() < 0.3
        if leaves:
            await first_piece(stream)
            stream.cancel()
            stream.cancel()
            return None
        return await read(stream)

    async def use() -> list[str | None]:
        return await asyncio.gather(*map(visit, works))

    for work, answer in zip(works, serving(engine, use), strict=True):
        assert answer is None or answer == office.alone(work)
    assert engine.counts()["live"] == engine.counts()["queued"] == 0


def test_a_long_prompt_that_chooses_fails_alone(tmp_path: Path, tiny_base: Path) -> None:
    office = Office(tmp_path / "home", with_context(tmp_path / "short", tiny_base, 64))
    labels = ("good", "a longer label")
    frame, longest = len(office.base.encode_prompt("")), len(office.base.encode_answer(" a longer label"))
    works = [office.work(None, "x" * n, labels=labels) for n in (5, 64 - frame - longest, 65 - frame - longest, 9)]
    first, fits, too_long, last = answered(OwnEngine(office.home, tokens_per_pass=10_000), works)
    assert {first, fits, last} <= set(labels) and isinstance(too_long, DataError)


def test_the_same_as_home_ask(shared: Any) -> None:
    """Trained people, assembled ones (a mix of pieces each), and one assembled by `factors`, who needs matrices."""
    home = shared
    home.train("sorting", users=["gina"], learning_rate=1e-2, epochs=2)
    home.assemble("sorting", users=["kara", "luca"], top_k=2)
    home.assemble("sorting", users=["mona"], top_k=2, combine="factors")
    latest, base = home.latest_adapters("sorting"), {one.name: one for one in home.bases()}
    users = ["gina", "kara", "luca", "mona"]
    asked = {choose: {u: home.ask(u, "thing", "sorting", choose=choose).answer for u in users} for choose in (0, 1)}
    from ownlm.prompt.example import query_prompt

    task, works = home.task("sorting"), []
    for choose in (0, 1):
        for user in users:
            info = latest["sorting", user]
            prompt, _ = query_prompt(task, {"text": "thing"}, home.history(user, "sorting"))
            how = {"labels": task.labels} if choose else {}
            works.append(Work(base[info.base], info, prompt, task.max_new_tokens, one_line=task.one_line, **how))
    engine = OwnEngine(home)
    assert answered(engine, works) == [asked[choose][user] for choose in (0, 1) for user in users]


def test_the_least_recently_used_adapter_makes_room_and_comes_again(office: Office, people: list[AdapterInfo]) -> None:
    engine = OwnEngine(office.home, slots=2)

    async def use() -> None:
        for one, misses in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4), (0, 4)):
            work = office.work(people[one])
            assert await read(engine.submit(work)) == office.alone(work)
            assert engine.counts()["misses"] == misses

    serving(engine, use)


def test_an_adapter_in_use_stays(office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    put = Slot.put

    def watched(self: Slot, name: str, content: Any) -> None:
        assert not self.users
        put(self, name, content)

    monkeypatch.setattr(Slot, "put", watched)
    engine = OwnEngine(office.home, slots=1)
    works = [office.work(one, most=4) for one in people]
    assert answered(engine, works) == [office.alone(work) for work in works]
    assert engine.counts()["evictions"] == PEOPLE - 1


def test_a_full_queue(office: Office, people: list[AdapterInfo]) -> None:
    engine = OwnEngine(office.home, queue=3)

    async def use() -> None:
        streams = [engine.submit(office.work(people[0])) for _ in range(3)]  # the thread has had no time to begin
        with pytest.raises(Busy, match="3 requests wait already") as caught:
            engine.submit(office.work(people[0]))
        assert 1 <= caught.value.retry_after <= 60
        await asyncio.gather(*map(read, streams))
        await read(engine.submit(office.work(people[0])))

    serving(engine, use)


def test_who_is_damaged_has_an_error_and_nobody_else(
    office: Office, people: list[AdapterInfo], caplog: pytest.LogCaptureFixture
) -> None:
    lost, odd = office.hire("lost", 50), office.hire("odd", 51)
    path = next(office.home.store.blobs.folder.rglob(f"{lost.blob}*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    wrong = {"r": 2} | {name: value for name, value in odd.shape.items() if name != "r"}
    from dataclasses import replace

    works = [
        office.work(people[0]), office.work(lost), office.work(replace(odd, shape=wrong)), office.work(people[1]),
        office.work(replace(odd, base_fingerprint="0" * 64)), office.work(replace(odd, method="ia3")),
        office.work(people[0], "x" * 3000), office.work(people[2]),
    ]  # fmt: skip
    answers = answered(OwnEngine(office.home), works)
    kinds = [str, StoreError, AdapterError, str, AdapterError, AdapterError, DataError, str]
    assert [type(answer) for answer in answers] == kinds
    for work, answer in zip(works, answers, strict=True):
        assert isinstance(answer, OwnlmError) or answer == office.alone(work)
    assert "Sort this" not in caplog.text


def test_a_pass_that_fails_ends_those_in_it_and_the_engine_lives_on(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, failing = Decoder.step, [False]

    def sometimes(self: Decoder) -> Any:
        if failing.pop() if failing else False:
            raise MemoryError(TEXTS[0])
        return step(self)

    monkeypatch.setattr(Decoder, "step", sometimes)
    engine = OwnEngine(office.home)

    async def use() -> None:
        stream = engine.submit(office.work(people[0], most=40))
        await first_piece(stream)
        failing.append(True)
        with pytest.raises(EngineError, match="MemoryError"):
            await read(stream)
        work = office.work(people[0])
        assert await read(engine.submit(work)) == office.alone(work)

    serving(engine, use)
    assert "MemoryError while answering" in caplog.text and TEXTS[0] not in caplog.text


def test_nobody_gets_what_another_adapter_said(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever may have gone wrong before: a slot that does not hold what was asked answers nothing."""
    take = Slots.take

    def mixed_up(self: Slots, info: AdapterInfo) -> Slot | None:
        return take(self, people[1] if info.id == people[0].id else info)

    monkeypatch.setattr(Slots, "take", mixed_up)
    works = [office.work(people[0]), office.work(people[0], labels=("a", "b")), office.work(people[2])]
    write, choose, other = answered(OwnEngine(office.home), works)
    assert isinstance(write, EngineError) and isinstance(choose, EngineError) and other == office.alone(works[2])


def test_what_is_forgotten_is_wiped_from_memory(office: Office, tiny_base: Path, tmp_path: Path) -> None:
    office = Office(tmp_path / "home", tiny_base)
    ana, ben = (office.hire(user, number) for number, user in enumerate(("ana", "ben")))
    engine = OwnEngine(office.home)

    async def use() -> None:
        for one in (ana, ben):
            await read(engine.submit(office.work(one)))
        running = engine._workers["tiny"].running
        assert running is not None
        (bank,) = running.slots.banks.beside
        assert bank.param_UP[0].any() and bank.param_UP[1].any()
        office.home.forget("ana")
        while bank.param_UP[0].any():
            await asyncio.sleep(0.05)
        assert bank.param_UP[1].any() and engine.counts()["slots_used"] == 1
        assert await read(engine.submit(office.work(ben))) == office.alone(office.work(ben))

    serving(engine, use)


def test_an_assembled_person_is_wiped_from_memory(shared: Home) -> None:
    shared.assemble("sorting", users=["kara", "luca"])
    latest, base, engine = shared.latest_adapters("sorting"), shared.bases()[0], OwnEngine(shared)
    kara, luca = (Work(base, latest["sorting", user], "a", 5) for user in ("kara", "luca"))

    async def use() -> None:
        for one in (kara, luca):
            await read(engine.submit(one))
        running = engine._workers[base.name].running
        assert running is not None
        (bank,) = running.slots.banks.beside
        assert isinstance(bank, PieceBank)
        held = bank._held[0]
        assert held is not None and bank._held[1] is not None
        shared.forget("kara")
        while bank._held[0] is not None:
            await asyncio.sleep(0.05)
        assert not any(tensor.any() for tensor in held) and bank._held[1] is not None
        assert engine.counts()["slots_used"] == 1

    serving(engine, use)


def test_cancelling_frees_slot_and_place(office: Office, people: list[AdapterInfo]) -> None:
    engine = OwnEngine(office.home, slots=1, live=1)

    async def use() -> None:
        long, never = engine.submit(office.work(people[0], most=1000)), engine.submit(office.work(people[1]))
        await first_piece(long)
        never.cancel()
        assert [piece async for piece in never] == []
        long.cancel()
        work = office.work(people[2])
        assert await read(engine.submit(work)) == office.alone(work)
        assert engine.counts()["misses"] == 2 and engine.counts()["live"] == 0

    serving(engine, use)


def test_sampling_with_a_seed_in_any_company(office: Office, people: list[AdapterInfo]) -> None:
    how: dict[str, Any] = {"most": 12, "temperature": 1.2, "top_p": 0.95}
    mine = office.work(people[0], seed=5, **how)
    alone = answered(OwnEngine(office.home), [mine])
    others = [office.work(one, text, seed=n, **how) for n, one in enumerate(people) for text in TEXTS]
    assert answered(OwnEngine(office.home), [*others, mine])[-1:] == alone
    assert len(set(answered(OwnEngine(office.home), [office.work(people[0], **how)] * 4))) > 1


def test_stop_texts_are_not_shown(office: Office, people: list[AdapterInfo]) -> None:
    whole = office.alone(office.work(people[0], most=9))
    stop = whole[3:5]
    assert answered(OwnEngine(office.home), [office.work(people[0], most=9, stop=(stop,))]) == [
        whole[: whole.find(stop)].rstrip()
    ]


def test_adapters_of_several_shapes_side_by_side(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ownlm.server.slots.MOST_SHELVES", 2)
    shapes = [
        LoraConfig(r=2),
        LoraConfig(r=4, target_modules=("o_proj",)),
        LoraConfig(r=3, target_modules=("up_proj",)),
    ]
    others = [office.hire(f"other {n}", 60 + n, lora) for n, lora in enumerate(shapes)]
    works = [office.work(one, text) for text in TEXTS for one in (people[0], *others)]
    assert answered(OwnEngine(office.home), works) == [office.alone(work) for work in works]


def test_the_newest_base_is_loaded_before_anybody_asks(tmp_path: Path, tiny_base: Path) -> None:
    office = Office(tmp_path / "home", tiny_base)
    engine = OwnEngine(office.home)

    async def use() -> None:
        engine.start()
        worker = engine._workers["tiny"]
        while worker.running is None:
            await asyncio.sleep(0.01)
        await read(engine.submit(office.work(None)))
        assert engine._workers["tiny"] is worker

    serving(engine, use)


def test_a_home_without_a_base_can_be_served(tmp_path: Path) -> None:
    engine = OwnEngine(Home(tmp_path / "empty"))
    engine.start()
    assert not any(engine.counts().values())


def test_stopping(office: Office, people: list[AdapterInfo]) -> None:
    engine = OwnEngine(office.home)

    async def use() -> None:
        short, endless = engine.submit(office.work(people[0])), engine.submit(office.work(people[1], most=10**6))
        texts = asyncio.gather(read(short), read(endless), return_exceptions=True)
        await asyncio.sleep(0)
        await engine.stop(3)
        finished, ended = await texts
        assert finished == office.alone(office.work(people[0]))
        assert isinstance(ended, EngineError) or len(ended) < office.base.max_tokens
        with pytest.raises(Busy):
            engine.submit(office.work(people[0]))
        await engine.stop(0)  # again is no error

    asyncio.run(use())


def test_long_prompts_become_tokens_beside_the_answers(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered meanwhile, and whoever leaves, or is refused, keeps nobody waiting."""
    begun, go_on, encode, threads = Event(), Event(), PromptReader.read, set[str]()

    def slow(self: PromptReader, text: str, *rest: Any) -> list[int]:
        threads.add(current_thread().name)
        if "long" in text:
            begun.set()
            assert go_on.wait(60)
        return encode(self, text, *rest)

    monkeypatch.setattr(PromptReader, "read", slow)
    engine = OwnEngine(office.home, queue=4)

    async def use() -> None:
        first = await read(engine.submit(office.work(people[0])))
        under_way = engine.submit(office.work(people[0], most=60))
        await first_piece(under_way)
        long, gone = (engine.submit(office.work(people[1], "long " + "a" * n)) for n in (50, 60))
        assert await asyncio.to_thread(begun.wait, 60)
        assert await read(under_way) and engine.counts()["queued"] == 2
        gone.cancel()
        assert engine.counts()["queued"] == 1
        go_on.set()
        refused = engine.submit(office.work(people[2], "b " * 10_000))
        assert await read(long) == office.alone(office.work(people[1], "long " + "a" * 50))
        with pytest.raises(DataError, match="too long"):
            await read(refused)
        assert await read(engine.submit(office.work(people[0]))) == first and engine.counts()["queued"] == 0

    serving(engine, use)
    assert threads == {"ownlm tokens"}


def test_what_waits_for_its_tokens_ends_with_the_engine(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, encode = Event(), Event(), PromptReader.read

    def slow(self: PromptReader, text: str, *rest: Any) -> list[int]:
        begun.set()
        assert go_on.wait(60)
        return encode(self, text, *rest)

    monkeypatch.setattr(PromptReader, "read", slow)
    engine = OwnEngine(office.home)

    async def use() -> None:
        streams = [engine.submit(office.work(people[0])) for _ in range(2)]
        assert await asyncio.to_thread(begun.wait, 60)
        await engine.stop(0.05)
        for one in streams:
            with pytest.raises(EngineError):
                await read(one)
        go_on.set()

    asyncio.run(asyncio.wait_for(use(), 60))
