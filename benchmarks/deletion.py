"""Deletion of a record and of a user, from the call to the last byte in files, in homes of several sizes.

    python benchmarks/deletion.py [--megabytes 38 400] [--rounds 3] [--before OTHER_CHECKOUT/src]

A home has users of 40 records each, a kilobyte of random words a record, and one user with 2,000. In each round it is
copied for each version of the code, and there are deleted, one after the other: records and users by `Home`; records
and users by requests to a running `ownlm serve`; and records of 50 users by 50 requests at once, while another
connection asks for /healthz again and again.

Every deletion includes removing what it leaves in files; where a server says that it does so later, that is printed.
With `--before`, that version makes the homes and is asked in the first round. Where other work shares
the cores, compare processor seconds: those of this process and of the one that it starts to look through the database.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from record import save, table
from server import Reply, Server, send

from ownlm.history.record import History, Record
from ownlm.home import Home
from ownlm.store.tokens import give_token

TASK, RECORDS, LONG, LETTERS = "free-text", 40, 2_000, 1_000
EACH, AT_ONCE = 5, 50  # deletions of a kind, one after the other; and those that come together
CAREFUL_MB = 100  # above it the version before is asked for one deletion of each kind, and for none at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[38, 400])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="src of another version, which makes the home")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _child(*asked.child)
        return
    versions = {"now": Path(__file__).resolve().parents[1] / "src"}
    if asked.before:
        versions["before"] = asked.before.resolve()
    for size in asked.megabytes:
        save(f"deletion_{size}", {"rounds": asked.rounds, **_compare(size, asked.rounds, versions)})


def _compare(megabytes: int, rounds: int, versions: dict[str, Path]) -> dict[str, Any]:
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in versions}
    with tempfile.TemporaryDirectory() as folder:
        template, copy = Path(folder) / "template", Path(folder) / "copy"
        _run(list(versions.values())[-1], "make", template, megabytes)
        size = (template / "ownlm.db").stat().st_size / 1e6
        for name in [*versions, *["now"] * (rounds - 1)]:
            shutil.copytree(template, copy)
            each = 1 if name == "before" and megabytes > CAREFUL_MB else EACH
            for what, values in _run(versions[name], "measure", copy, each).items():
                seconds[name][what] += values
            shutil.rmtree(copy)
    rows = [
        (name, what, len(values), f"{statistics.median(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}")
        for name, measured in seconds.items()
        for what, values in measured.items()
    ]
    table(f"{size:.1f} MB", ["code", "what", "times#", "median s#", "least#", "most#"], rows)
    return {
        "database_mb": round(size, 1),
        "load_average": round(os.getloadavg()[1], 1),  # of the last five minutes: 2 where nothing else runs
        "seconds": {
            name: {what: [round(one, 4) for one in values] for what, values in measured.items()}
            for name, measured in seconds.items()
        },
    }


def _run(source: Path, *words: object) -> Any:
    """One step in a process that uses the code in `source`."""
    command = [sys.executable, __file__, "--child", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _child(step: str, home: str, number: str) -> None:
    if step == "make":
        measured: Any = _make(Path(home), int(number))
    else:
        measured = _direct(Home(home), int(number)) | asyncio.run(_served(Path(home), int(number)))
    print(json.dumps(measured))


def _make(folder: Path, megabytes: int) -> int:
    from ownlm.model.bases.random_base import make_random_base

    home, rng = Home(folder), random.Random(0)
    home.add_base(str(make_random_base(folder.parent / "tiny")), "tiny")
    home.keep_task(TASK)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]

    def history(user: str, count: int) -> History:
        texts = (" ".join(rng.choices(words, k=LETTERS // 6)) for _ in range(count))
        return History(user, tuple(Record(user, f"{user}-{at}", {"text": text}) for at, text in enumerate(texts)))

    home.store.add_records(TASK, [history("long", LONG)])
    users, database = 0, folder / "ownlm.db"
    while database.stat().st_size < megabytes * 1e6:
        home.store.add_records(TASK, [history(f"user{users + more}", RECORDS) for more in range(25)])
        users += 25
    return users


def _direct(home: Home, each: int) -> dict[str, list[float]]:
    """By the library: the first users' records, then these users, then the user with the long history."""
    users = [f"user{number}" for number in range(each)]
    measured = {
        "record": [_timed(lambda user=user: home.forget_record(user, f"{user}-7", TASK)) for user in users],
        "user": [_timed(lambda user=user: home.forget(user)) for user in users],
        "user with 2,000 records": [_timed(lambda: home.forget("long"))],
    }
    home.store.database.close()
    wall = {what: [one for one, _ in values] for what, values in measured.items()}
    return wall | {f"{what}: processor": [one for _, one in values] for what, values in measured.items()}


def _timed(forget: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that passed, and of processors."""
    start, before = time.perf_counter(), sum(os.times()[:4])
    done = forget()
    seconds = time.perf_counter() - start, sum(os.times()[:4]) - before
    assert getattr(done, "unfinished", None) is None, "the deletion was not finished"
    return seconds


async def _served(folder: Path, each: int) -> dict[str, list[float]]:
    """By requests to a server."""
    users = [f"user{number}" for number in range(EACH, 2 * EACH + AT_ONCE)]
    home = Home(folder)
    tokens = {user: give_token(home.store, user)[1] for user in users}
    home.store.database.close()
    with Server(folder) as server:

        async def record(user: str) -> float:
            path = f"/v1/users/me/history/{user}-7?task={TASK}"
            return await _answered(send(server, "DELETE", path, tokens[user]))

        async def person(user: str) -> float:
            return await _answered(send(server, "DELETE", f"/v1/users/me?confirm={user}", tokens[user]))

        measured = {
            "record, served": [await record(user) for user in users[:each]],
            "user, served": [await person(user) for user in users[:each]],
        }
        if each == EACH:
            over, start = asyncio.Event(), time.perf_counter()
            looks = asyncio.create_task(_looks(server, over))
            measured["50 records at once, served: each"] = await asyncio.gather(*map(record, users[EACH:]))
            measured["50 records at once, served: all"] = [time.perf_counter() - start]
            over.set()
            measured["/healthz at the same time"] = await looks
    return measured


async def _answered(reply: Awaitable[Reply]) -> float:
    start = time.perf_counter()
    measured = await reply
    seconds = time.perf_counter() - start
    assert measured.status == 200, (measured.status, measured.body)
    if not measured.content.get("finished", True):
        print("deleted, and traces in files are removed later", file=sys.stderr)
    return seconds


async def _looks(server: Server, over: asyncio.Event) -> list[float]:
    seconds = []
    while not over.is_set():
        start = time.perf_counter()
        assert (await send(server, "GET", "/healthz", "")).status == 200
        seconds.append(time.perf_counter() - start)
        await asyncio.sleep(0.02)
    return seconds


if __name__ == "__main__":
    main()
