"""A real vLLM server, its CPU build, on the embedded base, float32 on both sides. `make test-vllm` runs this.

Everybody's greedy answer is what our own answering says, whoever shares the batch; who has no right gets nothing.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ownlm.errors import NotFoundError
from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.inference.request import Request
from ownlm.server.vllm.engine import VllmEngine, start_engine
from ownlm.server.vllm.server import VllmSettings
from ownlm.server.vllm.terms import name_of
from ownlm.store.exports import version_of
from ownlm.workflows.ask import assign, prompt_of
from ownlm.workflows.options import AskOptions
from tests_vllm.people import ASSEMBLED, QUESTIONS, SAYS, TRAINED, make_home, train

PEOPLE = (*TRAINED, *ASSEMBLED)
SETTINGS = VllmSettings(slots=4, in_memory=8, sequences=16, max_tokens=1024)


@dataclass
class Stand:
    """A home, and an engine that runs in a loop of its own."""

    home: Home
    engine: VllmEngine
    loop: asyncio.AbstractEventLoop

    def run(self, work: Awaitable[Any]) -> Any:
        """Within the engine's loop."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 600))

    def request(self, user: str, question: str, base_only: bool = False, **how: Any) -> Request:
        """What `ownlm serve` makes of a question."""
        home, task = self.home, self.home.task("gate")
        query = Query(user, "", {"text": question})
        one = assign(home.store, query, task, home.bases()[0], base_only)
        how = {"max_tokens": task.max_new_tokens, "one_line": task.one_line} | how
        return Request(one.base, one.adapter, prompt_of(home.store, one, AskOptions())[0], **how)

    def answers(self, requests: Sequence[Request]) -> list[str]:
        """Of requests that are sent together; each by the adapter that was asked."""

        async def one(request: Request) -> str:
            stream = self.engine.submit(request)
            text = "".join([piece.text async for piece in stream])
            assert stream.adapter == (request.adapter.id if request.adapter else None)
            return text

        async def all_of() -> list[str]:
            return await asyncio.gather(*map(one, requests))

        answers: list[str] = self.run(all_of())
        return answers

    def status(self, name: str, key: str | None = None, path: str = "/v1/completions") -> int:
        """What vLLM says to somebody who comes to its socket."""

        async def ask() -> int:
            async with self.engine.server.client() as client:
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                asked = {"model": name, "prompt": [504, 2365], "max_tokens": 1}
                return (await client.post(path, json=asked, headers=headers)).status_code

        status: int = self.run(ask())
        return status


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    home = make_home(tmp_path_factory.mktemp("people"))
    engine, loop = start_engine(home.store, SETTINGS, device="cpu"), asyncio.new_event_loop()
    engine.server._lines = deque()  # all that the server says from now on
    yield Stand(home, engine, loop)
    loop.run_until_complete(engine.stop(0))
    loop.close()
    assert not list((home.store.folder / "served").glob("*"))


def test_mixed_batches_say_what_our_own_answering_says(stand: Stand) -> None:
    home, asked = stand.home, [(user, question) for question in QUESTIONS[:2] for user in PEOPLE]
    together = stand.answers(
        [stand.request(*one) for one in asked] + [stand.request("ana", q, True) for q in QUESTIONS[:2]]
    )
    own = list(home.ask_many([Query(user, "", {"text": question}) for user, question in asked], "gate"))
    base = [home.ask("ana", question, "gate", base_only=True).answer for question in QUESTIONS[:2]]
    assert together == [one.answer for one in own] + base
    assert together[0] == SAYS["ana"]
    assert len({*together[:4], base[0]}) == 5


def test_the_base_alone_beside_as_many_people_as_there_is_room_for(stand: Stand) -> None:
    requests = [stand.request(user, QUESTIONS[0]) for user in PEOPLE]
    alone = stand.answers([stand.request("ana", QUESTIONS[2], True)])
    assert stand.answers([*requests, stand.request("ana", QUESTIONS[2], True)])[-1:] == alone


def test_labels_are_chosen_as_our_own_answering_chooses(stand: Stand) -> None:
    labels = tuple(stand.home.task("gate").labels or ())
    chosen = stand.answers([stand.request(user, QUESTIONS[1], labels=labels) for user in PEOPLE])
    queries = [Query(user, "", {"text": QUESTIONS[1]}) for user in PEOPLE]
    assert chosen == [one.answer for one in stand.home.ask_many(queries, "gate", choose=True)]


def test_stop_texts_end_an_answer(stand: Stand) -> None:
    before, _, _ = SAYS["ana"].partition("burns")
    assert stand.answers([stand.request("ana", QUESTIONS[0], stop=("burns",))]) == [before.strip()]
    first = SAYS["ana"].split()[0]
    assert stand.answers([stand.request("ana", QUESTIONS[0], max_tokens=1)]) == [first]


def test_only_versions_and_only_with_the_key(stand: Stand) -> None:
    ana = stand.request("ana", QUESTIONS[0]).adapter
    assert ana is not None
    for name in (
        ana.id,
        f"{version_of(ana)}.",
        f"{ana.id}-{16 * '0'}",
        str(stand.engine.server.copies / version_of(ana)),
    ):
        assert stand.status(name) in (400, 404), name
    assert stand.status(name_of(ana), key="guessed") == 404
    assert stand.status(name_of(ana)) == 200
    for path in ("/v1/load_lora_adapter", "/adapters", "/invocations", "/tokenize", "/v1/models"):
        assert stand.status(name_of(ana), path=path) == 404


def test_who_leaves_frees_their_place(stand: Stand) -> None:
    async def leave() -> None:
        stream = stand.engine.submit(stand.request("ana", QUESTIONS[0]))
        async for _ in stream:
            stream.cancel()
        while stand.engine.counts()["live"] + stand.engine.counts()["queued"]:
            await asyncio.sleep(0.05)

    stand.run(leave())
    assert stand.answers([stand.request("ana", QUESTIONS[0])]) == [SAYS["ana"]]


def test_a_retrained_adapter_is_another(stand: Stand) -> None:
    home, before = stand.home, stand.request("ben", QUESTIONS[0])
    train(home, "ben", seed=1)
    after = stand.request("ben", QUESTIONS[0])
    assert before.adapter and after.adapter and before.adapter.id != after.adapter.id
    requests = [after, *(stand.request(user, QUESTIONS[0]) for user in PEOPLE), before]  # more than there are slots
    answers = stand.answers(requests)
    assert answers[0] == home.ask("ben", QUESTIONS[0], "gate").answer
    copies = {path.name for path in stand.engine.server.copies.iterdir()}
    assert {version_of(before.adapter), version_of(after.adapter)} <= copies


def test_forgetting_reaches_copies_and_memory(stand: Stand) -> None:
    work, server = stand.request("ana", QUESTIONS[0]), stand.engine.server
    assert work.adapter is not None
    name, version = name_of(work.adapter), version_of(work.adapter)
    assert stand.status(name) == 200 and (server.copies / version).exists()

    async def forget() -> None:
        stream = stand.engine.submit(work)
        pieces = aiter(stream)
        await anext(pieces)
        forgetting = asyncio.create_task(asyncio.to_thread(stand.home.forget, "ana"))
        try:
            while True:  # what is under way is ended, or was just done
                await anext(pieces)
        except (NotFoundError, StopAsyncIteration):
            pass
        except Exception as error:
            assert "no longer there" in str(error)
        await forgetting

    stand.run(forget())
    assert not (server.copies / version).exists()
    assert stand.status(name) == 404
    with pytest.raises(NotFoundError):
        stand.answers([work])
    assert stand.answers([stand.request("eva", QUESTIONS[0])]) == [stand.home.ask("eva", QUESTIONS[0], "gate").answer]


def test_no_text_is_in_what_the_server_said(stand: Stand) -> None:
    said = "\n".join(stand.engine.server._lines)
    secrets = (stand.engine.server.terms.key,)
    assert not any(text in said for text in (*SAYS.values(), *QUESTIONS, *secrets))


def test_the_server_ends_with_our_side(stand: Stand) -> None:
    process = stand.engine.server.process
    assert process.stdin is not None
    process.stdin.close()  # as it is when our side is killed
    process.wait(60)
    with pytest.raises(ProcessLookupError):  # none of its processes is left
        for _ in range(600):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
