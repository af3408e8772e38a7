"""kill -9 of the server at random moments, while people add, remove, ask, train and leave: what it said, holds."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import httpx2

from ownlm.home import Home
from ownlm.store.tokens import give_token
from tests.server.process import Process, serve, until

TIMES, PEOPLE = 5, 6
TASK = "sorting"


@dataclass
class Person:
    """Somebody, and what the server acknowledged to them. Of a request that the kill cut off nothing is known."""

    user: str
    token: str
    draw: random.Random
    there: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)  # records of which it is not known
    jobs: set[str] = field(default_factory=set)
    shares: bool | None = False  # None where it is not known
    gone: bool | None = False
    acknowledged: int = 0
    sent: int = 0

    def live(self, server: Process) -> None:
        """Sends one request after another, until the server is gone, or the person is."""
        with suppress(httpx2.TransportError):
            while not self.gone:
                self.draw.choice((self.add, self.add, self.remove, self.ask, self.train, self.consent))(server)
                if self.draw.random() < 0.01:
                    self.leave(server)

    def add(self, server: Process) -> None:
        first, self.sent = self.sent, self.sent + self.draw.randint(1, 20)
        ids = {f"r{number}" for number in range(first, self.sent)}
        self.open |= ids
        records = [{"id": one, "text": f"{self.user} secret {one}", "folder": "bin"} for one in ids]
        self.said(server.send("POST", "/v1/users/me/history", self.token, {"task": TASK, "records": records}), 201)
        self.there |= ids
        self.open -= ids

    def remove(self, server: Process) -> None:
        if self.there:
            one = self.draw.choice(sorted(self.there))
            self.there.remove(one)
            self.open.add(one)
            self.said(server.send("DELETE", f"/v1/users/me/history/{one}?task={TASK}", self.token), 200)
            self.open.remove(one)
            self.removed.add(one)

    def ask(self, server: Process) -> None:
        content = {"model": TASK, "messages": [{"role": "user", "content": "thing"}]}
        told = server.send("POST", "/v1/chat/completions", self.token, content)
        assert told.status_code in (200, 409), told.text  # 409: their adapter was replaced while it answered

    def train(self, server: Process) -> None:
        if self.there:
            told = self.said(server.send("POST", "/v1/users/me/train", self.token, {"task": TASK}), 202)
            self.jobs.add(told.json()["id"])

    def consent(self, server: Process) -> None:
        if self.there:
            wish, self.shares = not self.shares, None
            self.said(server.send("PUT", "/v1/users/me/consent", self.token, {"shares": wish}), 200)
            self.shares = wish

    def leave(self, server: Process) -> None:
        self.gone = None
        self.said(server.send("DELETE", f"/v1/users/me?confirm={self.user}", self.token), 200)
        self.gone = True

    def said(self, told: httpx2.Response, status: int) -> httpx2.Response:
        assert told.status_code == status, told.text
        self.acknowledged += 1
        return told

    def check(self, server: Process) -> None:
        """All of it holds."""
        told = server.send("GET", "/v1/users/me", self.token)
        if self.gone or told.status_code == 401:
            assert self.gone is not False and told.status_code == 401
            self.gone = True
            return
        self.gone = False
        shown, page = set[str](), {"next": None}
        while True:
            after = "" if page["next"] is None else f"&before={page['next']}"
            page = server.send("GET", f"/v1/users/me/history?task={TASK}&limit=500{after}", self.token).json()
            shown |= {one["id"] for one in page["records"]}
            if page["next"] is None:
                break
        assert self.there <= shown and not self.removed & shown and shown <= self.there | self.open
        self.there, self.open = shown, set()
        shares = server.send("GET", "/v1/users/me/consent", self.token).json()["shares"]
        assert self.shares in (None, shares)
        self.shares = shares
        for job in self.jobs:
            assert server.send("GET", f"/v1/users/me/jobs/{job}", self.token).status_code == 200


def test_nothing_that_was_acknowledged_is_lost(home: Home) -> None:
    draw = random.Random(5)
    users = [f"zoe{n}" for n in range(PEOPLE)]
    people = [Person(one, give_token(home.store, one)[1], random.Random(one)) for one in users]
    for _ in range(TIMES):
        with serve(home.store.folder) as server:
            for one in people:
                one.check(server)
            with ThreadPoolExecutor(PEOPLE) as threads:
                before = sum(one.acknowledged for one in people)
                lives = [threads.submit(one.live, server) for one in people]
                until(
                    lambda lives=lives, before=before: (
                        sum(one.acknowledged for one in people) > before + 10 or all(life.done() for life in lives)
                    )
                )
                time.sleep(draw.uniform(0.2, 3))
                server.popen.kill()
            for life in lives:
                life.result()
    with serve(home.store.folder) as server:
        for one in people:
            one.check(server)
        here = [one for one in people if not one.gone]
        for one in here:
            for job in one.jobs:
                until(
                    lambda job=job, one=one: server.send("GET", f"/v1/users/me/jobs/{job}", one.token).json()["ended"]
                )
    assert sum(one.acknowledged for one in people) > 10 * TIMES and any(one.jobs for one in here)
    assert home.doctor().wrong == []
    assert {one.user for one in home.histories()} & {one.user for one in people if one.gone} == set()
