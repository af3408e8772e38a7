"""What one user has the server do, however long it takes, does not keep the others waiting."""

import asyncio
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest

from ownlm.errors import TaskError
from ownlm.home import Home
from ownlm.inference.protocol import AnswerTimeoutError, Busy, StoppedError
from ownlm.prompt.example import query_prompt
from ownlm.server import binding
from ownlm.server.retrieval import PROCESSES, Retrieval
from ownlm.server.routes import openai
from ownlm.server.state import BINDERS, MAX_WAITING, READERS, WRITERS, UserLocks
from ownlm.store.consents import Consent
from ownlm.store.store import Store
from ownlm.workflows.ask import Assignment, assign, prompt_settings
from ownlm.workflows.options import AskOptions
from tests.server.conftest import Served

TASK = "sorting"
CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": TASK, "messages": [{"role": "user", "content": "secret4 thing"}]}
PAGE = ("/healthz", "/v1/models", f"/v1/models/{TASK}", "/v1/users/me", f"/v1/users/me/history?task={TASK}",
        f"/v1/users/me/adapter?task={TASK}", "/v1/users/me/jobs", "/v1/users/me/consent")  # fmt: skip


class Waiting:
    """Something that many requests wait for."""

    def __init__(self) -> None:
        self.here, self.go_on = Semaphore(0), Event()

    def wait(self) -> None:
        self.here.release()
        assert self.go_on.wait(60)

    def until(self, many: int) -> None:
        """So many wait, and no more come."""
        for _ in range(many):
            assert self.here.acquire(timeout=60)
        assert not self.here.acquire(timeout=0.2)


def answered_meanwhile(served: Served, pool: ThreadPoolExecutor, who: dict[str, str]) -> None:
    for path in PAGE:
        assert pool.submit(served.client.get, path, headers=who).result(20).status_code == 200, path
    assert pool.submit(served.post, CHAT, who, **QUESTION).result(20)["ownlm"]["adapter"]


def in_company(served: Served, waiting: Waiting, turns: int, asks: list[Callable[[], Any]]) -> list[Any]:
    """Asks all of it at once, and another user something else while `turns` of them wait."""
    bela = served.token("bela")
    with ThreadPoolExecutor(len(asks) + 1) as pool:
        asked = [pool.submit(one) for one in asks]
        try:
            waiting.until(turns)
            answered_meanwhile(served, pool, bela)
        finally:
            waiting.go_on.set()
        return [one.result() for one in asked]


@pytest.mark.parametrize("users", [1, WRITERS + 3])
def test_writers_that_wait_do_not_keep_the_page_waiting(
    users: int, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them wait for each other, or for a database that is locked; of each user one."""
    waiting, consent, names = Waiting(), Home.consent, [f"user {n}" for n in range(users)]

    def slow(home: Home, user: str, *asked: Any) -> Consent:
        if user in names:
            waiting.wait()
            return Consent(user=user, shares=True)
        return consent(home, user, *asked)

    monkeypatch.setattr(Home, "consent", slow)
    tokens = [served.token(names[n % users]) for n in range(45)]
    asks = [lambda t=t: served.client.put("/v1/users/me/consent", headers=t, json={"shares": True}) for t in tokens]
    told = in_company(served, waiting, min(users, WRITERS), asks)
    assert {one.status_code for one in told} == {200}


def test_prompts_that_take_long_do_not_keep_the_page_waiting(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, bind, ada = Waiting(), openai.bind_question, served.token("ada")

    def slow(*asked: Any) -> Assignment:
        waiting.wait()
        return bind(*asked)

    monkeypatch.setattr(openai, "bind_question", slow)
    with ThreadPoolExecutor(READERS + 6) as pool:
        asked = [pool.submit(served.post, CHAT, ada, **QUESTION, rag=1) for _ in range(READERS + 5)]
        try:
            waiting.until(BINDERS)
            for path in PAGE:
                assert pool.submit(served.client.get, path, headers=ada).result(20).status_code == 200
        finally:
            waiting.go_on.set()
        assert all(one.result()["ownlm"]["adapter"] for one in asked)


@pytest.mark.parametrize("what", ["questions", "searches", "downloads"])
def test_a_user_with_a_long_history_waits_for_their_own_work_alone(
    what: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, ada = Waiting(), served.token("ada")
    monkeypatch.setattr(binding, "LONG_BYTES", 300)  # ada has more, bela has less
    work: tuple[Any, str] = {
        "questions": (Retrieval, "__call__"), "searches": ("ownlm.server.routes.history", "history_page"),
        "downloads": (Home, "export"),
    }[what]  # fmt: skip
    owner = work[0] if not isinstance(work[0], str) else __import__(work[0], fromlist=["x"])
    original = getattr(owner, work[1])

    def slow(*asked: Any, **how: Any) -> Any:
        if what != "searches" or how["contains"]:
            waiting.wait()
        return original(*asked, **how)

    monkeypatch.setattr(owner, work[1], slow)
    ask: Callable[[], Any] = {
        "questions": lambda: served.post(CHAT, ada, **QUESTION, rag=1),
        "searches": lambda: served.get(f"/v1/users/me/history?task={TASK}&q=secret4", ada),
        "downloads": lambda: served.client.get(f"/v1/users/me/adapter/download?task={TASK}", headers=ada),
    }[what]
    told = in_company(served, waiting, 1, [ask] * (PROCESSES + BINDERS + 5))
    match what:
        case "questions":
            assert all(one["ownlm"]["retrieved"] == ["ada-4"] for one in told)
        case "searches":
            assert all([record["id"] for record in one["records"]] == ["ada-4"] for one in told)
        case _:
            assert {one.status_code for one in told} == {200}


def test_the_prompt_of_a_long_history_is_that_of_any_other(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = served.token("ada")
    for rag in (1, 3, None):
        told, prompts = [], []
        for long in (10**9, 0):
            monkeypatch.setattr(binding, "LONG_BYTES", long)
            told.append(served.post(CHAT, ada, **QUESTION, rag=rag)["ownlm"]["retrieved"])
            prompts.append(served.engine.streams[-1].request.prompt)
        assert prompts[0] == prompts[1] and told[0] == told[1] and len(told[0]) == (rag or 0)
    asked = QUESTION | {"model": f"{TASK}:ada", "rag": 1}
    assert served.post(CHAT, served.token(None), **asked)["ownlm"]["retrieved"] == ["ada-4"]
    assert served.post(CHAT, ada, 400, **QUESTION | {"messages": [{"role": "user", "content": " "}]}, rag=1)


@pytest.fixture
def asked(home: Home) -> tuple[Store, tuple[Any, ...], tuple[str, list[str]]]:
    """A home's store, what is asked of it, and the right answer."""
    fields = {"text": "secret4"}
    one = assign(home.store, "ada", home.task(TASK))
    how = prompt_settings(home.store, one, AskOptions(rag=2))
    prompt, shown = query_prompt(one.task, fields, home.store.history(TASK, "ada"), **how)
    return home.store, (one.task.model_dump_json(), "ada", fields, how), (prompt, list(shown))


def test_a_search_that_dies_fails_alone(asked: tuple[Store, tuple[Any, ...], tuple[str, list[str]]]) -> None:
    store, question, right = asked
    search = Retrieval(store.folder, 60)
    assert search(*question) == right and search(*question) == right
    (process,) = search._idle
    process.kill()
    process.wait()
    with pytest.raises(Exception, match="could not be searched"):
        search(*question)
    assert search(*question) == right
    with pytest.raises(TaskError):
        search(question[0], "ada", {}, question[3])
    (process,) = search._idle
    search.stop()
    assert process.poll() is not None
    with pytest.raises(StoppedError):
        search(*question)


def test_a_search_that_takes_too_long_ends(
    asked: tuple[Store, tuple[Any, ...], tuple[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, question, _ = asked
    search = Retrieval(store.folder, 0.2)
    pipe = subprocess.PIPE
    sleeping = subprocess.Popen(["sleep", "600"], stdin=pipe, stdout=pipe, encoding="utf8")
    monkeypatch.setattr(search, "_start", lambda: sleeping)
    with pytest.raises(AnswerTimeoutError, match="too long"):
        search(*question)
    assert sleeping.poll() is not None and not search._idle and not search._busy


def test_a_search_keeps_nothing_on_disk_and_ends_with_its_server(
    asked: tuple[Store, tuple[Any, ...], tuple[str, list[str]]], tmp_path: Path
) -> None:
    store, question, right = asked
    search = Retrieval(store.folder, 60)
    before = sorted(path.name for path in store.folder.rglob("*"))
    assert search(*question) == right
    (process,) = search._idle
    assert process.stdin is not None
    process.stdin.close()  # as when the server is killed
    assert process.wait(60) == 0 and sorted(path.name for path in store.folder.rglob("*")) == before


def test_turns_are_taken_in_order_and_bounded() -> None:
    async def use() -> None:
        turns, done, go_on = UserLocks(), list[object](), asyncio.Event()

        async def work(number: int, user: str = "ada", kind: str = "search") -> None:
            async with turns.hold(kind, user):
                await go_on.wait()
                done.append(number)

        tasks = [asyncio.create_task(work(n)) for n in range(MAX_WAITING + 1)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await work(-1)
        others = [asyncio.create_task(work(100, "bela")), asyncio.create_task(work(101, kind="write"))]
        tasks[5].cancel()
        go_on.set()
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        assert [one for one in done if isinstance(one, int) and one < 100] == [n for n in range(65) if n != 5]
        assert not turns._locks

    asyncio.run(use())
