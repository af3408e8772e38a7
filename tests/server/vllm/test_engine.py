"""Our side of a vLLM server, and the plugin inside it. vLLM is a fake here; `tests_vllm` has the real one."""

import asyncio
import hashlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, DataError, NotFoundError, OwnlmError
from ownlm.home import Home
from ownlm.inference.load import read_adapter
from ownlm.inference.protocol import Busy
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.bases.random_base import make_random_base
from ownlm.server.vllm import copies as vllm_copies
from ownlm.server.vllm import engine as vllm_engine
from ownlm.server.vllm.copies import put_copy
from ownlm.server.vllm.engine import VllmEngine, on_other_bases, served_base
from ownlm.server.vllm.plugin import DROP, NAME
from ownlm.server.vllm.server import VllmSettings, arguments
from ownlm.server.vllm.terms import ZERO, Terms, name_of, rank_for, room_for, shape_of
from ownlm.store.exports import current, serving, sweep_served, version_of
from ownlm.store.rows import AdapterInfo, BaseInfo
from tests.model.small_bases import QWEN3_MOE, SMALL
from tests.server.answering import TEXTS, Office, read
from tests.server.vllm.fake_vllm import FakeVllm, fake_vllm, make_terms
from tests.shell import QuickShell


@pytest.fixture
def office(tmp_path: Path, tiny_base: Path) -> Office:
    return Office(tmp_path / "home", tiny_base)


@pytest.fixture
def server(office: Office, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    monkeypatch.setattr(vllm_engine, "CHECK_S", 0.02)
    monkeypatch.setattr(vllm_engine, "ABORT_S", 0.01)
    with fake_vllm(office, monkeypatch) as fake:
        yield fake


def hire(office: Office, user: str, number: int, **changes: Any) -> AdapterInfo:
    """A person whose adapter the home knows."""
    return office.hire(user, number, id=hashlib.md5(user.encode()).hexdigest(), **changes)


def using(server: FakeVllm, use: Callable[[VllmEngine], Awaitable[Any]], **how: Any) -> Any:
    """Uses an engine in an event loop of its own."""

    async def run() -> Any:
        engine = VllmEngine(server.office.home.store, server, **how)  # type: ignore[arg-type]
        try:
            return await asyncio.wait_for(use(engine), 60)
        finally:
            await engine.stop(0)

    return asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


# What is asked for


def test_names_are_versions(office: Office, tmp_path: Path) -> None:
    info, terms = office.hire("ana", 1), make_terms(office, tmp_path, key="a-key")
    assert (name_of(info), name_of(None)) == (version_of(info), ZERO)
    assert Terms.given(terms.environment()) == terms
    assert Terms.given({}) is None
    assert "a-key" not in repr(terms)


def test_what_cannot_be_served_is_refused(office: Office, tmp_path: Path) -> None:
    terms, store, info = make_terms(office, tmp_path, rank=4), office.home.store, office.hire("ana", 1)
    terms.check(store, info)
    for changes, why in {
        "method": ({"method": "ia3"}, "vLLM cannot serve"),
        "activated": ({"shape": {"r": 4, "alora_invocation_tokens": [3]}}, "an activated one, which vLLM cannot serve"),
        "base": ({"base_fingerprint": "0" * 64}, "another base"),
        "stale": ({"stale": "withdrawn"}, "is stale"),
        "rank": ({"shape": {"r": 5}}, "started for 4"),
        "modules": ({"shape": {"r": 4, "target_modules": ["k_proj"]}}, "modules"),
    }.values():
        with pytest.raises(AdapterError, match=why):
            terms.check(store, replace(info, **changes))  # type: ignore[arg-type]


def test_room_is_what_the_home_needs(office: Office) -> None:
    store = office.home.store
    assert room_for(store, office.info) == (8, ("q_proj", "v_proj"))
    hire(office, "ana", 1)
    assert [rank_for([n]) for n in (1, 8, 9, 24, 512, 600)] == [8, 8, 16, 32, 512, 512]
    assert room_for(store, office.info) == (8, ("q_proj", "v_proj"))
    assert served_base(store, None) == office.info
    assert on_other_bases(store, office.info) == []
    assert len(on_other_bases(store, BaseInfo("other", "", "0" * 64, 1, ""))) == 1


def test_who_cannot_be_served_is_told_before_the_start(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise OwnlmError("vLLM is not here")

    monkeypatch.setattr(vllm_engine, "start_engine", start)
    command, shell = (
        ("serve", "--home", "home", "--port", 0, "--engine", "vllm"),
        QuickShell(office.home.store.folder.parent),
    )
    hire(office, "ana", 1)
    told = shell.run(*command, code=1)
    assert "starting vLLM with tiny" in told and "vLLM is not here" in told and "other bases" not in told
    other = office.home.add_base(str(make_random_base(office.home.store.folder.parent / "other", seed=5)), "other")
    hire(office, "ben", 2, base=other.name, base_fingerprint=other.fingerprint)
    hire(office, "cleo", 3)
    told = shell.run(*command, code=1)
    assert "vLLM serves tiny only" in told and "cannot answer: 1" in told


def test_a_recipe_is_served_as_what_it_makes(shared: Home, tmp_path: Path) -> None:
    shared.assemble("sorting", users=["kara"], top_k=2)
    store, info, base = shared.store, shared.latest_adapters()["sorting", "kara"], shared.bases()[0]
    adapter = read_adapter(store, info)
    assert shape_of(store, info) == adapter.lora
    rank, modules = room_for(store, base)
    assert rank >= adapter.lora.r and set(adapter.lora.target_modules) <= set(modules)
    with serving(store) as copies:
        terms = Terms(str(store.folder), str(copies), base.name, base.fingerprint, base.folder, rank, modules, "key")
        folder = put_copy(store, terms, version_of(info))
        assert (folder / "adapter_model.safetensors").read_bytes() == adapter.to_bytes()
        shared.consent("gina", False)
        with pytest.raises(AdapterError, match="consent"):
            put_copy(store, terms, version_of(info))


def test_no_secret_stands_on_the_command_line(office: Office, tmp_path: Path) -> None:
    terms = make_terms(office, tmp_path, key="a-key")
    command = arguments(office.info, terms, VllmSettings(slots=3, max_tokens=99), tmp_path / "s", "cpu")
    assert not any("a-key" in part for part in command)
    told = dict(pairwise(command))
    assert (told["--max-loras"], told["--max-lora-rank"], told["--dtype"]) == ("4", "16", "float32")


# Copies


def test_a_copy_is_whole_private_and_written_once(office: Office) -> None:
    info, store = hire(office, "ana", 1), office.home.store
    with serving(store) as copies:
        terms = make_terms(office, copies)
        folder = put_copy(store, terms, version_of(info))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 == stat.S_IMODE(copies.stat().st_mode)
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
        assert (folder / "adapter_model.safetensors").read_bytes() == office.adapters[info.id].to_bytes()
        assert put_copy(store, terms, version_of(info)) == folder
        assert [path.name for path in copies.iterdir()] == [version_of(info)]
    assert not copies.exists()


def test_no_copy_is_written_that_peft_would_load_under_other_names(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter may have been made before such modules were refused."""
    AutoConfig.for_model("qwen3_moe", **SMALL | QWEN3_MOE).save_pretrained(tmp_path / "experts")
    info, pairs = hire(office, "ana", 1), {}

    def with_these_modules(*_: object) -> Adapter:
        return Adapter(office.adapters[info.id].lora, pairs)

    monkeypatch.setattr(vllm_copies, "read_adapter", with_these_modules)
    with serving(office.home.store) as copies:
        terms = make_terms(office, copies, folder=str(tmp_path / "experts"))
        for name, rows, columns in (("mlp.up_proj", 48, 32), ("self_attn.q_proj", 32, 32)):
            pairs.clear()
            pairs[f"model.layers.0.{name}"] = LoraPair(torch.zeros(4, columns), torch.zeros(rows, 4))
            if name == "mlp.up_proj":
                with pytest.raises(AdapterError, match=r"peft does not read this adapter.*up_proj"):
                    put_copy(office.home.store, terms, version_of(info))
                assert list(copies.iterdir()) == []
        assert put_copy(office.home.store, terms, version_of(info)).is_dir()


def test_who_is_forgotten_while_a_copy_is_written_leaves_none(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    info, store = hire(office, "ana", 1), office.home.store

    def forgotten_meanwhile(*_: object) -> dict[str, None]:
        return {}

    with serving(store) as copies:
        monkeypatch.setattr("ownlm.server.vllm.copies.current", forgotten_meanwhile)
        with pytest.raises(NotFoundError):
            put_copy(store, make_terms(office, copies), version_of(info))
        assert list(copies.iterdir()) == []


def test_forgetting_removes_copies_of_servers_that_ended(office: Office) -> None:
    info, store = hire(office, "ana", 1), office.home.store
    with serving(store) as copies:
        put_copy(store, make_terms(office, copies), version_of(info))
        kept = copies.with_name("killed")
        copies.rename(kept)
    office.home.forget("ana")
    assert not kept.exists()


def test_forgetting_is_unfinished_while_a_server_keeps_a_copy(office: Office) -> None:
    info, store = hire(office, "ana", 1), office.home.store
    with serving(store) as copies:
        folder = put_copy(store, make_terms(office, copies), version_of(info))
        sweep_served(store)
        assert folder.exists()
        unfinished = office.home.forget("ana").unfinished
        assert unfinished is not None and "Copies of deleted adapters could not be removed from" in unfinished
        assert current(store, {version_of(info)}) == set()
    office.home.forget("ana")  # the same again, when the server has ended
    assert not copies.exists()


# The engine


def test_a_copy_that_two_requests_write_at_once_is_there_once(office: Office, tmp_path: Path) -> None:
    info, terms, meet = hire(office, "ana", 1), make_terms(office, tmp_path), Barrier(4)
    rename = os.rename

    def together(*paths: Any) -> None:
        meet.wait(60)
        rename(*paths)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as threads:
        patch.setattr(vllm_copies.os, "rename", together)
        copies = [threads.submit(put_copy, office.home.store, terms, version_of(info)) for _ in range(4)]
    assert {copy.result() for copy in copies} == set(tmp_path.glob("*-*"))


def test_everybody_is_answered_by_their_own(office: Office, server: FakeVllm) -> None:
    people = [hire(office, f"person {n}", n) for n in range(4)]
    requests = [office.request(who, text) for text in TEXTS[:2] for who in (*people, None)]

    async def use(engine: VllmEngine) -> list[tuple[str, str | None, int]]:
        async def one(request: Any) -> tuple[str, str | None, int]:
            stream = engine.submit(request)
            return await read(stream), stream.adapter, stream.prompt_tokens

        return await asyncio.gather(*map(one, requests))

    for request, (text, adapter, tokens) in zip(requests, using(server, use), strict=True):
        assert text == office.alone(request)
        assert adapter == (request.adapter.id if request.adapter else None)
        assert tokens == len(office.base.encode_prompt(request.prompt))
    assert all(("cache_salt" in one) == one["model"].startswith(ZERO) for one in server.requests)


def test_what_is_wrong_is_told_by_the_stream(office: Office, server: FakeVllm) -> None:
    ana = hire(office, "ana", 1)
    other = replace(office.info, name="other", fingerprint="0" * 64)
    unknown = replace(ana, id="0" * 32)
    wrong: list[tuple[Any, type[OwnlmError]]] = [
        (replace(office.request(ana), base=other), AdapterError),
        (office.request(replace(ana, method="prompt")), AdapterError),
        (office.request(unknown), NotFoundError),
        (office.request(ana, "a " * 5000), DataError),
        (office.request(ana, (10**6,)), DataError),  # type: ignore[arg-type]
    ]

    async def use(engine: VllmEngine) -> None:
        for request, kind in wrong:
            with pytest.raises(kind):
                await read(engine.submit(request))
        await until(lambda: not engine.counts()["live"] + engine.counts()["queued"])

    del wrong[1]  # the home's own row says what it is: see `Terms.check`
    using(server, use)
    assert not server.requests


def test_too_many_are_told_to_come_again(office: Office, server: FakeVllm) -> None:
    async def use(engine: VllmEngine) -> None:
        first = engine.submit(office.request(None))
        with pytest.raises(Busy):
            engine.submit(office.request(None))
        first.cancel()
        assert await read(first) == ""
        assert await read(engine.submit(office.request(None)))

    using(server, use, most=1)


def test_forgetting_reaches_the_server(office: Office, server: FakeVllm) -> None:
    ana, ben = hire(office, "ana", 1), hire(office, "ben", 2)

    async def use(engine: VllmEngine) -> None:
        for who in (ana, ben):
            await read(engine.submit(office.request(who)))
        assert {path.name for path in server.copies.iterdir()} == {version_of(ana), version_of(ben)}
        await asyncio.to_thread(office.home.forget, "ana")
        assert {path.name for path in server.copies.iterdir()} == {version_of(ben)}
        known = server.state.openai_serving_models
        assert [*known.lora_requests] == [name_of(ben)] and len(server.removed) == 1
        with pytest.raises(NotFoundError):
            await read(engine.submit(office.request(ana)))
        async with server.client() as client:
            asked = {"model": name_of(ana), "prompt": [1], "max_tokens": 1}
            assert (await client.post("/v1/completions", json=asked)).status_code == 404

    using(server, use)


def test_old_copies_make_room(office: Office, server: FakeVllm) -> None:
    server.settings = replace(server.settings, slots=1, in_memory=1)
    people = [hire(office, f"person {n}", n) for n in range(4)]

    async def use(engine: VllmEngine) -> None:
        for who in people:
            await read(engine.submit(office.request(who)))
        left = {version_of(who) for who in people[-2:]}
        await until(lambda: {path.name for path in server.copies.iterdir()} == left)
        assert await read(engine.submit(office.request(people[0]))) == office.alone(office.request(people[0]))

    using(server, use)


# The guard


def test_nobody_without_the_key_gets_anything(office: Office, server: FakeVllm) -> None:
    ana = hire(office, "ana", 1)
    name = name_of(ana)

    async def statuses(key: str) -> list[int]:
        async with server.client(key) as client:
            asked = {"model": name, "prompt": [1, 2], "max_tokens": 1}
            return [
                (await client.post("/v1/completions", json=asked)).status_code,
                (await client.post(DROP, headers={NAME: name})).status_code,
                (await client.post("/v1/load_lora_adapter", json={})).status_code,
                (await client.post("/adapters", json={})).status_code,
                (await client.get("/metrics")).status_code,
            ]

    assert asyncio.run(statuses("another")) == [404] * 5
    assert asyncio.run(statuses("key")) == [200, 204, 404, 404, 404]


def test_only_versions_of_the_home_are_resolved(office: Office, server: FakeVllm) -> None:
    ana = hire(office, "ana", 1)

    async def status(name: str) -> int:
        async with server.client() as client:
            asked = {"model": name, "prompt": [1, 2], "max_tokens": 1}
            return (await client.post("/v1/completions", json=asked)).status_code

    for name in (ana.id, f"{version_of(ana)}.", f"{ana.id}-{16 * '0'}", "../../etc", ""):
        assert asyncio.run(status(name)) == 404
    assert asyncio.run(status(name_of(ana))) == 200


def test_a_low_rank_is_enough_for_the_one_that_does_nothing(office: Office, tmp_path: Path) -> None:
    with serving(office.home.store) as copies:
        folder = put_copy(office.home.store, make_terms(office, copies), ZERO)
        assert '"r": 1' in (folder / "adapter_config.json").read_text()
    assert LoraConfig().target_modules == ("q_proj", "v_proj")
