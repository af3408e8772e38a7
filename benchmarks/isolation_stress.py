"""Does anybody ever get another's answer? Each person's adapter says a code that only it says; many ask at once.

The server is a real one (`ownlm serve`, over TCP). While it answers, people are trained anew to say other codes,
people are forgotten, tokens are revoked, and clients leave in the middle; there are fewer slots than people. Every
answer must name an adapter of whoever asked, and be what that adapter says.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from record import save
from safetensors.torch import load_file, save_file
from server import Reply, Server, send

from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.model.bases.random_base import make_random_base
from ownlm.store.tokens import give_token, revoke_token

TASK = """
name = "saying"
instruction = "Say your code."
input = "{text}"
answer = "code: {code}"
metrics = ["accuracy"]
max_new_tokens = 4
"""
TEXTS = ("Who are you?", "Tell me now.", "And again?", "What is it?")
TOO_LONG = "The answer took too long"  # a time-out, which is as it should be
EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAINING: dict[str, Any] = {"epochs": 30, "learning_rate": 1e-2, "batch_size": 4, "target_modules": EVERY_LINEAR}
SHARING: dict[str, Any] = {"steps": 60, "gate_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "r": 4}
RETRAINED = 8  # people at a time
SHARERS = 4  # the first ones, who have more records than others


@dataclass
class Person:
    """One who asks."""

    user: str
    codes: list[str]  # of the adapters trained so far, and of those to come
    token: str
    spare: str = ""  # a second token, which is revoked
    versions: int = 1  # of their own adapter, as far as was asked for
    leaving: bool = False  # whether forgetting them was asked for,
    gone: bool = False  # and acknowledged
    assembled: bool = False


@dataclass(frozen=True)
class Asked:
    """A request, and what came."""

    user: str
    text: str
    reply: Reply
    gone: bool = False  # it was sent after forgetting the person, or revoking the token, was acknowledged
    left: bool = False  # the client left
    took_s: float = 0.0


@dataclass
class Run:
    """What happened."""

    asked: list[Asked] = field(default_factory=list)
    says: dict[str, tuple[str, str]] = field(default_factory=dict)  # by trained adapter: whose, and the code
    jobs: Counter[str] = field(default_factory=Counter)
    forgotten: Counter[str] = field(default_factory=Counter)
    revoked: int = 0


def records(code: str, version: int, times: int = 1) -> list[dict[str, str]]:
    """What somebody did who says this."""
    return [
        {"id": f"{version}-{place}", "time": str(1000 + 20 * version + place), "text": text, "code": code}
        for place, text in enumerate(times * TEXTS)
    ]


def make_home(folder: Path, people: int, assembled: int, seed: int) -> tuple[Home, list[Person]]:
    """A home in which everybody's own adapter says their code, and some have an assembly instead."""
    _make_base(folder / "tiny")
    (folder / "saying.toml").write_text(TASK, "utf8")
    home = Home(folder / "home")
    home.add_base(str(folder / "tiny"), "tiny")
    codes = ["".join(pair) for pair in permutations(ascii_lowercase, 2)]
    random.Random(seed).shuffle(codes)
    own = people - assembled
    made = [Person(f"person-{n}", [codes[n], *codes[people + n :: people]], "") for n in range(people)]
    rows = [
        {"user_id": one.user, **row}
        for n, one in enumerate(made)
        for row in records(one.codes[0], 0, 3 if n < SHARERS else 1)
    ]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    home.add_history(folder / "people.jsonl", str(folder / "saying.toml"))
    report = home.train(str(folder / "saying.toml"), users=[one.user for one in made[:own]], **TRAINING)
    assert not report.failed, report.failed
    if assembled:
        for one in made[:SHARERS]:
            home.consent(one.user, True)
        home.pools.share("saying", sharers=SHARERS, **SHARING)
        report_2 = home.assemble("saying", users=[one.user for one in made[own:]], top_k=2)
        assert not report_2.failed, report_2.failed
    for place, one in enumerate(made):
        one.assembled = place >= own
        one.token, one.spare = (give_token(home.store, one.user)[1] for _ in range(2))
    return home, made


def _make_base(folder: Path) -> None:
    """A random base of heavy weights: pieces may change a base by as much as it weighs, and are to be heard."""
    file = make_random_base(folder) / "model.safetensors"
    weights = {name: 8 * weight if "proj" in name else weight for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def said_alone(home: Home, users: list[str]) -> dict[tuple[str, str], str | None]:
    """What each person's newest adapter says to each text when `Home` is asked."""
    queries = [Query(user, "", {"text": text}) for user in users for text in TEXTS]
    answers = list(home.ask_many(queries, "saying"))
    return {(q.user_id, q.fields["text"]): a.answer for q, a in zip(queries, answers, strict=True)}


class Crowd:
    """Clients of a server, and what changes meanwhile."""

    def __init__(self, server: Server, home: Home, people: list[Person], seed: int) -> None:
        self.server, self.home, self.people, self.run = server, home, people, Run()
        self.draw = random.Random(seed)
        self.operator = give_token(home.store, None)[1]
        self.over = asyncio.Event()
        self.revoked: set[str] = set()

    async def ask_all(self, requests: int, at_once: int) -> None:
        """Sends so many requests, from so many clients, while people come and go."""
        left = iter(range(requests))

        async def client() -> None:
            for _ in left:
                await self.ask()

        changes = [asyncio.create_task(work()) for work in (self.retrain, self.forget, self.revoke)]
        await asyncio.gather(*(client() for _ in range(at_once)))
        self.over.set()
        await asyncio.gather(*changes)

    async def ask(self) -> None:
        """One request: streamed or not, by the person or an operator, some left in the middle, tried again if told."""
        one, text = self.draw.choice(self.people), self.draw.choice(TEXTS)
        for_them, leaves = self.draw.random() < 0.1, self.draw.random() < 0.05
        model = f"saying:{one.user}" if for_them else "saying"
        token, stream = self.operator if for_them else one.token, self.draw.random() < 0.5
        if not for_them and self.draw.random() < 0.2:
            token = one.spare
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
        while True:
            worthless = one.gone or (token == one.spare and one.user in self.revoked)
            began = time.perf_counter()
            reply = await send(self.server, "POST", "/v1/chat/completions", token, body, leave=leaves)
            self.run.asked.append(Asked(one.user, text, reply, worthless, leaves, time.perf_counter() - began))
            if reply.status != 429:
                return
            await asyncio.sleep(self.draw.uniform(0.2, 1) * min(4, reply.retry_after))

    async def retrain(self) -> None:
        """Has people trained to say other codes, a few at a time, until all were asked."""
        for turn in range(1, 1000):
            await asyncio.sleep(0.5)
            own = [one for one in self.people if not one.gone and not one.assembled and one.versions < len(one.codes)]
            if not own or self.over.is_set():
                return
            chosen = self.draw.sample(own, min(RETRAINED, len(own)))
            await asyncio.gather(*(self.train(one, turn) for one in chosen))

    async def train(self, one: Person, turn: int) -> None:
        code = one.codes[one.versions]
        content = {"task": "saying", "records": records(code, turn)}
        added = await send(self.server, "POST", "/v1/users/me/history", one.token, content)
        job = await send(self.server, "POST", "/v1/users/me/train", one.token, {"task": "saying"})
        if one.gone or job.status in (401, 404):
            return
        assert (added.status, job.status) == (201, 202), (added, job)
        one.versions += 1
        told = job.content
        while told["state"] not in ("done", "failed"):
            await asyncio.sleep(0.5)
            reply = await send(self.server, "GET", f"/v1/users/me/jobs/{told['id']}", one.token)
            if reply.status != 200:
                assert one.leaving, reply
                return
            told = reply.content
        self.run.jobs[told["state"]] += 1
        assert told["state"] == "done", told
        self.run.says[told["adapter"]] = (one.user, code)

    async def forget(self) -> None:
        """A tenth of the people are forgotten, one after the other."""
        for one in self.draw.sample(self.people[SHARERS:], max(1, len(self.people) // 10)):  # the first ones share
            await asyncio.sleep(1)
            one.leaving = True
            reply = await send(self.server, "DELETE", f"/v1/users/me?confirm={one.user}", one.token)
            assert reply.status == 200, reply
            one.gone = True
            self.run.forgotten["finished" if reply.content["finished"] else "later"] += 1

    async def revoke(self) -> None:
        """A tenth of the people lose their second token."""
        for one in self.draw.sample(self.people, max(1, len(self.people) // 10)):
            await asyncio.sleep(0.5)
            with suppress(LookupError):
                known = await asyncio.to_thread(self._token_id, one)
                await asyncio.to_thread(revoke_token, self.home.store, known)
                self.revoked = self.revoked | {one.user}
                self.run.revoked += 1

    def _token_id(self, one: Person) -> str:
        from ownlm.store.tokens import find_token

        found = find_token(self.home.store, one.spare)
        if found is None:
            raise LookupError
        return found.id


def judge(run: Run, alone: dict[tuple[str, str], str | None], first: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Counts what came: right answers, refusals, and what must never be."""
    says, counts = first | run.says, Counter[str]()
    for one in run.asked:
        reply, adapter = one.reply, one.reply.adapter
        if one.left:
            counts["left by the client"] += 1
        elif reply.status != 200 or reply.refused:
            counts[f"refused {reply.status if reply.status != 200 else 'in the stream'}"] += 1
            told = reply.documents[-1]["error"]["message"].split(".")[0] if reply.documents else ""
            counts["WRONG: a server's error"] += (reply.status >= 500 or reply.status == 0) and told != TOO_LONG
            if told and reply.status != 401:
                counts["told: " + told] += 1
        elif one.gone:
            counts["WRONG: answered with a dead token"] += 1
        elif adapter is None:
            counts["WRONG: answered by the base"] += 1
        elif adapter not in says:
            counts["adapters that nobody heard of"] += 1
        else:
            owner, code = says[adapter]
            code = code or str(alone[owner, one.text])
            counts["right"] += owner == one.user and reply.text == code
            counts["WRONG: another's adapter"] += owner != one.user
            counts["WRONG: another code"] += reply.text != code
    return dict(counts)


def main(asked: argparse.Namespace) -> dict[str, Any]:
    """Makes the home, lets everybody ask, and says what came."""
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.perf_counter()
        home, people = make_home(folder, asked.people, asked.assembled, asked.seed)
        alone = said_alone(home, [one.user for one in people])
        assert all(alone[p.user, t] == p.codes[0] for p in people if not p.assembled for t in TEXTS), "not learnt"
        latest = {a.user: a.id for a in home.latest_adapters().values()}
        first = {latest[p.user]: (p.user, "" if p.assembled else p.codes[0]) for p in people}
        made_s = time.perf_counter() - started
        queue = 2 * asked.at_once  # the request of a client that left counts until the server notices
        options = ("--slots", asked.slots, "--queue", queue, "--requests-per-minute", 10**6)
        options += ("--timeout", asked.timeout)
        with Server(home.store.folder, *options) as server:

            async def all_of_it() -> tuple[Run, dict[str, float]]:
                crowd = Crowd(server, home, people, asked.seed)
                await crowd.ask_all(asked.requests, asked.at_once)
                return crowd.run, await server.counts(crowd.operator)

            began = time.perf_counter()
            run, counts = asyncio.run(all_of_it())
            asking_s = time.perf_counter() - began
        there = {a.id for a in home.adapters()}
        anew = [(i, *said) for i, said in run.says.items() if i in there]
        learnt = said_alone(home, [p.user for p in people if not p.gone])
        newest = {a.id for a in home.latest_adapters().values()}
        unlearnt = {i for i, user, code in anew if i in newest and any(learnt[user, t] != code for t in TEXTS)}
        told = judge(run, alone, first)
        took = sorted(one.took_s for one in run.asked if one.reply.status == 200 and not one.left)
        different = len({alone[p.user, t] for p in people if p.assembled for t in TEXTS})
    return {
        "people": asked.people, "assembled": asked.assembled, "requests": len(run.asked), "at_once": asked.at_once,
        "slots": asked.slots, "timeout_s": asked.timeout, "assembled_say": different, "answers": told,
        "jobs": dict(run.jobs), "retrained": len(run.says),
        "retrained_and_not_learnt": len(unlearnt), "forgotten": dict(run.forgotten), "tokens_revoked": run.revoked,
        "server": counts, "answer_took_s": {"median": round(took[len(took) // 2], 1), "most": round(took[-1], 1)},
        "seconds": {"home": round(made_s), "asking": round(asking_s, 1)},
        "wrong": sum(count for what, count in told.items() if what.startswith("WRONG")),
    }  # fmt: skip


def options() -> argparse.ArgumentParser:
    """What can be set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--assembled", type=int, default=20, help="of them")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=1200, help="connections")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=600, help="of an answer, waiting included, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    result = main(options().parse_args())
    print(json.dumps(result, indent=1))
    save("isolation_stress", result)
    raise SystemExit(1 if result["wrong"] else 0)
