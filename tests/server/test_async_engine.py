"""The engine: each request is answered by its own adapter, as if alone, whatever else comes and goes."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, current_thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, DataError, OwnlmError, StoreError
from ownlm.home import Home
from ownlm.inference.adapter_cache import AdapterCache, AdapterSlot
from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.decoder import Decoder
from ownlm.inference.prompts import PromptEncoder
from ownlm.inference.protocol import Busy, EngineError, OutputStream
from ownlm.inference.request import Request, RequestOutput
from ownlm.model.piece_bank import PieceBank
from ownlm.store.rows import AdapterInfo
from tests.community import with_context
from tests.server.answering import PEOPLE, TEXTS, Office, answered, read, serving


async def first_output(stream: OutputStream) -> None:
    """Waits until the answer has begun."""
    async for output in stream:
        if output.text:
            return


def banks_of(engine: AsyncEngine, base: str) -> Sequence[Any]:
    """The banks on a base."""
    scheduler = engine._workers[base].scheduler
    assert scheduler is not None and isinstance(scheduler.adapters, AdapterCache)
    return scheduler.adapters.banks.beside


async def last_output(stream: OutputStream) -> RequestOutput:
    """The last output, with the text of all."""
    outputs = [output async for output in stream]
    return replace(outputs[-1], text="".join(output.text for output in outputs))


def test_mixed_company_is_answered_as_each_alone(office: Office, people: list[AdapterInfo]) -> None:
    requests = [office.request(one, text, 5 + len(text) % 7) for text in TEXTS for one in (None, *people)]
    engine = office.engine(slots=4, prompt_tokens=16)

    async def use() -> tuple[list[str], Mapping[str, float]]:
        outputs = await asyncio.gather(*[last_output(engine.submit(request)) for request in requests])
        for output, request in zip(outputs, requests, strict=True):
            assert output.adapter == (request.adapter.id if request.adapter else None)
            assert output.prompt_tokens == len(office.base.encode_prompt(str(request.prompt)))
            assert 1 <= output.completion_tokens <= request.max_tokens
        return [output.text for output in outputs], engine.counts()

    answers, counts = serving(engine, use)
    assert answers == [office.alone(request) for request in requests] and len(set(answers)) > 8
    assert counts["queued"] == counts["live"] == 0 and counts["slots_used"] == counts["slots"] == 4
    assert counts["misses"] - counts["evictions"] == 4 and counts["hits"] + counts["misses"] == len(TEXTS) * PEOPLE
    assert counts["tokens"] > counts["passes"] > 0


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 30))
def test_whoever_comes_and_goes(
    office: Office, people: list[AdapterInfo], seed: int, slots: int, live: int, tokens: int
) -> None:
    rng, engine = random.Random(seed), office.engine(slots=slots, running=live, prompt_tokens=tokens)
    requests = [
        office.request(rng.choice([None, *people]), rng.choice(TEXTS), rng.randint(1, 9))
        for _ in range(rng.randint(1, 12))
    ]

    async def visit(request: Request) -> str | None:
        for _ in range(rng.randint(0, 5)):
            await asyncio.sleep(0)
        stream, leaves = engine.submit(request), rng.random() < 0.3
        if leaves:
            await first_output(stream)
            stream.cancel()
            stream.cancel()
            return None
        return await read(stream)

    async def use() -> list[str | None]:
        return await asyncio.gather(*map(visit, requests))

    for request, answer in zip(requests, serving(engine, use), strict=True):
        assert answer is None or answer == office.alone(request)
    assert engine.counts()["live"] == engine.counts()["queued"] == 0


def test_a_long_prompt_that_chooses_fails_alone(tmp_path: Path, tiny_base: Path) -> None:
    office = Office(tmp_path / "home", with_context(tmp_path / "short", tiny_base, 64))
    labels = ("good", "a longer label")
    frame, longest = len(office.base.encode_prompt("")), len(office.base.encode_answer(" a longer label"))
    requests = [
        office.request(None, "x" * n, labels=labels) for n in (5, 64 - frame - longest, 65 - frame - longest, 9)
    ]
    first, fits, too_long, last = answered(office.engine(prompt_tokens=10_000), requests)
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

    task, requests = home.task("sorting"), []
    for choose in (0, 1):
        for user in users:
            info = latest["sorting", user]
            prompt, _ = query_prompt(task, {"text": "thing"}, home.history(user, "sorting"))
            how = {"labels": task.labels} if choose else {}
            requests.append(Request(base[info.base], info, prompt, task.max_new_tokens, one_line=task.one_line, **how))
    engine = AsyncEngine(home.store)
    assert answered(engine, requests) == [asked[choose][user] for choose in (0, 1) for user in users]


def test_the_least_recently_used_adapter_makes_room_and_comes_again(office: Office, people: list[AdapterInfo]) -> None:
    engine = office.engine(slots=2)

    async def use() -> None:
        for one, misses in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4), (0, 4)):
            request = office.request(people[one])
            assert await read(engine.submit(request)) == office.alone(request)
            assert engine.counts()["misses"] == misses

    serving(engine, use)


def test_an_adapter_in_use_stays(office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    clear = AdapterSlot.clear

    def watched(self: AdapterSlot) -> None:
        assert not self.users
        clear(self)

    monkeypatch.setattr(AdapterSlot, "clear", watched)
    engine = office.engine(slots=1)
    requests = [office.request(one, most=4) for one in people]
    assert answered(engine, requests) == [office.alone(request) for request in requests]
    assert engine.counts()["evictions"] == PEOPLE - 1


def test_a_full_queue(office: Office, people: list[AdapterInfo]) -> None:
    engine = office.engine(queue=3)

    async def use() -> None:
        streams = [engine.submit(office.request(people[0])) for _ in range(3)]  # the thread has had no time to begin
        with pytest.raises(Busy, match="3 requests wait already") as caught:
            engine.submit(office.request(people[0]))
        assert 1 <= caught.value.retry_after <= 60
        await asyncio.gather(*map(read, streams))
        await read(engine.submit(office.request(people[0])))

    serving(engine, use)


def test_who_is_damaged_has_an_error_and_nobody_else(
    office: Office, people: list[AdapterInfo], caplog: pytest.LogCaptureFixture
) -> None:
    lost, odd = office.hire("lost", 50), office.hire("odd", 51)
    path = next(office.home.store.blobs.folder.rglob(f"{lost.blob}*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    wrong = {"r": 2} | {name: value for name, value in odd.shape.items() if name != "r"}
    requests = [
        office.request(people[0]), office.request(lost), office.request(replace(odd, shape=wrong)),
        office.request(people[1]), office.request(replace(odd, base_fingerprint="0" * 64)),
        office.request(replace(odd, method="ia3")), office.request(people[0], "x" * 3000), office.request(people[2]),
    ]  # fmt: skip
    answers = answered(office.engine(), requests)
    kinds = [str, StoreError, AdapterError, str, AdapterError, AdapterError, DataError, str]
    assert [type(answer) for answer in answers] == kinds
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, OwnlmError) or answer == office.alone(request)
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
    engine = office.engine()

    async def use() -> None:
        stream = engine.submit(office.request(people[0], most=40))
        await first_output(stream)
        failing.append(True)
        with pytest.raises(EngineError, match="MemoryError"):
            await read(stream)
        request = office.request(people[0])
        assert await read(engine.submit(request)) == office.alone(request)

    serving(engine, use)
    assert "MemoryError while answering" in caplog.text and TEXTS[0] not in caplog.text


def test_nobody_gets_what_another_adapter_said(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever may have gone wrong before: a slot that does not hold what was asked answers nothing."""
    acquire = AdapterCache.acquire

    def mixed_up(self: AdapterCache, info: AdapterInfo) -> AdapterSlot | None:
        return acquire(self, people[1] if info.id == people[0].id else info)

    monkeypatch.setattr(AdapterCache, "acquire", mixed_up)
    requests = [office.request(people[0]), office.request(people[0], labels=("a", "b")), office.request(people[2])]
    write, choose, other = answered(office.engine(), requests)
    assert isinstance(write, EngineError) and isinstance(choose, EngineError) and other == office.alone(requests[2])


def test_what_is_forgotten_is_wiped_from_memory(office: Office, tiny_base: Path, tmp_path: Path) -> None:
    office = Office(tmp_path / "home", tiny_base)
    ana, ben = (office.hire(user, number) for number, user in enumerate(("ana", "ben")))
    engine = office.engine()

    async def use() -> None:
        for one in (ana, ben):
            await read(engine.submit(office.request(one)))
        (bank,) = banks_of(engine, "tiny")
        assert bank.param_UP[0].any() and bank.param_UP[1].any()
        office.home.forget("ana")
        while bank.param_UP[0].any():
            await asyncio.sleep(0.05)
        assert bank.param_UP[1].any() and engine.counts()["slots_used"] == 1
        assert await read(engine.submit(office.request(ben))) == office.alone(office.request(ben))

    serving(engine, use)


def test_an_assembled_person_is_wiped_from_memory(shared: Home) -> None:
    shared.assemble("sorting", users=["kara", "luca"])
    latest, base, engine = shared.latest_adapters("sorting"), shared.bases()[0], AsyncEngine(shared.store)
    kara, luca = (Request(base, latest["sorting", user], "a", 5) for user in ("kara", "luca"))

    async def use() -> None:
        for one in (kara, luca):
            await read(engine.submit(one))
        (bank,) = banks_of(engine, base.name)
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
    engine = office.engine(slots=1, running=1)

    async def use() -> None:
        long, never = engine.submit(office.request(people[0], most=1000)), engine.submit(office.request(people[1]))
        await first_output(long)
        never.cancel()
        assert [output async for output in never] == []
        long.cancel()
        request = office.request(people[2])
        assert await read(engine.submit(request)) == office.alone(request)
        assert engine.counts()["misses"] == 2 and engine.counts()["live"] == 0

    serving(engine, use)


def test_sampling_with_a_seed_in_any_company(office: Office, people: list[AdapterInfo]) -> None:
    how: dict[str, Any] = {"most": 12, "temperature": 1.2, "top_p": 0.95}
    mine = office.request(people[0], seed=5, **how)
    alone = answered(office.engine(), [mine])
    others = [office.request(one, text, seed=n, **how) for n, one in enumerate(people) for text in TEXTS]
    assert answered(office.engine(), [*others, mine])[-1:] == alone
    assert len(set(answered(office.engine(), [office.request(people[0], **how)] * 4))) > 1


def test_stop_texts_are_not_shown(office: Office, people: list[AdapterInfo]) -> None:
    whole = office.alone(office.request(people[0], most=9))
    stop = whole[3:5]
    assert answered(office.engine(), [office.request(people[0], most=9, stop=(stop,))]) == [
        whole[: whole.find(stop)].rstrip()
    ]


def test_adapters_of_several_shapes_side_by_side(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ownlm.inference.adapter_cache.MAX_BANKS", 2)
    shapes = [
        LoraConfig(r=2),
        LoraConfig(r=4, target_modules=("o_proj",)),
        LoraConfig(r=3, target_modules=("up_proj",)),
    ]
    others = [office.hire(f"other {n}", 60 + n, lora) for n, lora in enumerate(shapes)]
    requests = [office.request(one, text) for text in TEXTS for one in (people[0], *others)]
    assert answered(office.engine(), requests) == [office.alone(request) for request in requests]


def test_the_newest_base_is_loaded_before_anybody_asks(tmp_path: Path, tiny_base: Path) -> None:
    office = Office(tmp_path / "home", tiny_base)
    engine = office.engine()

    async def use() -> None:
        engine.start()
        worker = engine._workers["tiny"]
        while worker.scheduler is None:
            await asyncio.sleep(0.01)
        await read(engine.submit(office.request(None)))
        assert engine._workers["tiny"] is worker

    serving(engine, use)


def test_a_home_without_a_base_can_be_served(tmp_path: Path) -> None:
    engine = AsyncEngine(Home(tmp_path / "empty").store)
    engine.start()
    assert not any(engine.counts().values())


def test_stopping(office: Office, people: list[AdapterInfo]) -> None:
    engine = office.engine()

    async def use() -> None:
        short, endless = engine.submit(office.request(people[0])), engine.submit(office.request(people[1], most=10**6))
        texts = asyncio.gather(read(short), read(endless), return_exceptions=True)
        await asyncio.sleep(0)
        await engine.stop(3)
        finished, ended = await texts
        assert finished == office.alone(office.request(people[0]))
        assert isinstance(ended, EngineError) or len(ended) < office.base.max_tokens
        with pytest.raises(Busy):
            engine.submit(office.request(people[0]))
        await engine.stop(0)  # again is no error

    asyncio.run(use())


def test_long_prompts_become_tokens_beside_the_answers(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are answered meanwhile, and whoever leaves, or is refused, keeps nobody waiting."""
    begun, go_on, encode, threads = Event(), Event(), PromptEncoder.encode, set[str]()

    def slow(self: PromptEncoder, text: str, *rest: Any) -> list[int]:
        threads.add(current_thread().name)
        if "long" in text:
            begun.set()
            assert go_on.wait(60)
        return encode(self, text, *rest)

    monkeypatch.setattr(PromptEncoder, "encode", slow)
    engine = office.engine(queue=4)

    async def use() -> None:
        first = await read(engine.submit(office.request(people[0])))
        under_way = engine.submit(office.request(people[0], most=60))
        await first_output(under_way)
        long, gone = (engine.submit(office.request(people[1], "long " + "a" * n)) for n in (50, 60))
        assert await asyncio.to_thread(begun.wait, 60)
        assert await read(under_way) and engine.counts()["queued"] == 2
        gone.cancel()
        assert engine.counts()["queued"] == 1
        go_on.set()
        refused = engine.submit(office.request(people[2], "b " * 10_000))
        assert await read(long) == office.alone(office.request(people[1], "long " + "a" * 50))
        with pytest.raises(DataError, match="too long"):
            await read(refused)
        assert await read(engine.submit(office.request(people[0]))) == first and engine.counts()["queued"] == 0

    serving(engine, use)
    assert threads == {"ownlm tokens"}


def test_what_waits_for_its_tokens_ends_with_the_engine(
    office: Office, people: list[AdapterInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, encode = Event(), Event(), PromptEncoder.encode

    def slow(self: PromptEncoder, text: str, *rest: Any) -> list[int]:
        begun.set()
        assert go_on.wait(60)
        return encode(self, text, *rest)

    monkeypatch.setattr(PromptEncoder, "encode", slow)
    engine = office.engine()

    async def use() -> None:
        streams = [engine.submit(office.request(people[0])) for _ in range(2)]
        assert await asyncio.to_thread(begun.wait, 60)
        await engine.stop(0.05)
        for one in streams:
            with pytest.raises(EngineError):
                await read(one)
        go_on.set()

    asyncio.run(asyncio.wait_for(use(), 60))
