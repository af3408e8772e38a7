"""Adapters of ten thousand users from one `ownlm train`: memory, rate, and kill -9 half-way.

    python benchmarks/many_users.py [--users 10000] [--records 10] [--slots 8]

A tiny random base and synthetic users. While the command runs, its memory and the number of adapters in the home's
database are sampled. A second home is killed half-way and continued: only the rest may be trained, the adapters must
equal those of the first home, and `ownlm doctor` must find nothing wrong.
"""

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from record import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ownlm import Home
from ownlm.config import LoraConfig
from ownlm.model.adapter import Adapter
from ownlm.model.bases.random_base import make_random_base
from tests.community import FOLDERS, TASK

OWNLM = [sys.executable, "-P", "-c", "from ownlm.cli.app import main; main()"]
TRAIN = ["train", "--task", "sorting", "--base", "tiny", "--epochs", "2", "--json"]
SAMPLE, CLOSE = 200, 1e-5  # adapters compared between the two homes, and how far a number may be off


@dataclass(slots=True)
class Watch:
    """What was seen of a running command: seconds, bytes of memory, adapters kept."""

    seconds: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    adapters: list[int] = field(default_factory=list)

    def moment(self, count: int) -> float:
        """When there were `count` adapters, as if they came evenly between two looks."""
        place = next(at for at, seen in enumerate(self.adapters) if seen >= count)
        if place == 0 or self.adapters[place] == self.adapters[place - 1]:
            return self.seconds[place]
        share = (count - self.adapters[place - 1]) / (self.adapters[place] - self.adapters[place - 1])
        return self.seconds[place - 1] + share * (self.seconds[place] - self.seconds[place - 1])

    def rss_at(self, count: int) -> int:
        """The memory when there were `count` adapters."""
        return next(rss for rss, seen in zip(self.rss, self.adapters, strict=True) if seen >= count)

    def thinned(self, rows: int = 100) -> list[list[float]]:
        """About so many of the looks: seconds, MB, adapters."""
        looks = list(zip(self.seconds, self.rss, self.adapters, strict=True))
        return [[round(s, 1), round(rss / 1e6, 1), n] for s, rss, n in looks[:: max(len(looks) // rows, 1)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--records", type=int, default=10)
    parser.add_argument("--slots", type=int, help="people in flight; by default the command's own")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks")
    asked = parser.parse_args()
    train = [*TRAIN, *([] if asked.slots is None else ["--slots", str(asked.slots)])]
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")
        seconds = prepare(Path(temporary), whole, asked.users, asked.records)
        shutil.copytree(whole, killed)
        undisturbed = watch(whole, train, asked.every)
        figures = summary(undisturbed, asked.users)
        print(json.dumps(figures, indent=1), flush=True)
        again = kill_and_go_on(killed, train, asked.users, asked.every)
        again["worst difference"] = compare(whole, killed, asked.users)
        for home in (whole, killed):
            ownlm("doctor", "--home", home, "--json")  # ends with 1 where something is wrong
    print(json.dumps(again, indent=1))
    save(
        "many_users",
        {
            "users": asked.users, "records of each": asked.records, "command": ["ownlm", *train],
            "seconds to add the histories": seconds, **figures, "killed half-way": again | {"doctor": "nothing wrong"},
            "seconds, MB, adapters": undisturbed.thinned(),
        },
    )  # fmt: skip


def prepare(folder: Path, home: Path, users: int, records: int) -> float:
    """Makes a home with all users' records and a base; returns the seconds of adding the records."""
    task, data = folder / "sorting.toml", folder / "people.jsonl"
    task.write_text(TASK, "utf8")
    with data.open("w", encoding="utf8") as file:
        for user in range(users):
            draw = random.Random(user)
            for number in range(records):
                text = f"note {number} of {user}: " + " ".join(f"{draw.randrange(100)}" for _ in range(4))
                row = {"user_id": f"user{user:06d}", "id": f"{user}-{number}", "time": str(2_000_000_000 + number)}
                file.write(json.dumps(row | {"text": text, "folder": draw.choice(FOLDERS)}) + "\n")
    ownlm("base", "add", make_random_base(folder / "tiny"), "--name", "tiny", "--home", home)
    started = time.perf_counter()
    ownlm("history", "add", data, "--task", task, "--home", home)
    return time.perf_counter() - started


def watch(home: Path, train: list[str], every: float, until: Callable[[int], bool] = lambda _: False) -> Watch:
    """Runs `ownlm train` and looks at it; kills it once `until` says so of the number of adapters."""
    seen, started = Watch(), time.perf_counter()
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
        [*OWNLM, *train, "--home", str(home)], stdout=subprocess.DEVNULL, stderr=errors
    ) as process:  # fmt: skip
        while process.poll() is None:
            try:
                rss = psutil.Process(process.pid).memory_info().rss
            except psutil.Error:
                rss = 0
            if rss == 0:  # it has just ended
                break
            seen.seconds.append(time.perf_counter() - started)
            seen.rss.append(rss)
            seen.adapters.append(len(adapters(home)))
            if until(seen.adapters[-1]):
                process.kill()
            else:
                time.sleep(every)
        ended = process.wait()
        if ended and not (ended == -9 and until(seen.adapters[-1])):
            errors.seek(0)
            raise SystemExit(errors.read().decode()[-2000:])
    seen.seconds.append(time.perf_counter() - started)
    seen.rss.append(seen.rss[-1])  # as it was last seen
    seen.adapters.append(len(adapters(home)))
    return seen


def summary(seen: Watch, users: int) -> dict[str, Any]:
    """Memory early and late, and the rates of the first and the last thousand."""
    early, span = min(500, users // 4), min(1000, users // 4)
    assert seen.adapters[-1] == users, f"{seen.adapters[-1]} adapters of {users} people"
    moving = [count for count in seen.adapters if count]
    first = seen.moment(moving[0])
    return {
        "seconds": seen.seconds[-1],
        "seconds before the first adapters": first,
        f"MB after {early} users": seen.rss_at(early) / 1e6,
        "MB at the end": seen.rss[-1] / 1e6,
        "MB at most": max(seen.rss) / 1e6,
        f"users/s, first {span}": (span - moving[0]) / max(seen.moment(max(span, moving[0])) - first, 1e-9),
        f"users/s, last {span}": span / (seen.moment(users) - seen.moment(users - span)),
        "users/s": users / seen.seconds[-1],
    }


def kill_and_go_on(home: Path, train: list[str], users: int, every: float) -> dict[str, Any]:
    """kill -9 at half of the adapters, then the same command; what was kept must stay, and none be made twice."""
    watch(home, train, min(every, 0.2), until=lambda count: count >= users // 2)
    kept = adapters(home)
    assert len(kept) < users, "it was done before it could be killed: ask for more users"
    rest = watch(home, train, every)
    done = adapters(home)
    assert kept.items() <= done.items() and len(done) == users == len({user for user, _ in done.values()})
    return {"kept": len(kept), "trained afterwards": users - len(kept), "seconds": rest.seconds[-1]}


def adapters(home: Path) -> dict[str, tuple[str, str]]:
    """What the database names, as another process sees it: each adapter's person and blob."""
    with closing(sqlite3.connect(f"file:{home / 'ownlm.db'}?mode=ro", uri=True, timeout=60)) as db:
        return {name: (user, blob) for name, user, blob in db.execute("SELECT id, user, blob FROM adapters")}


def compare(one: Path, other: Path, users: int) -> float:
    """The largest difference between the two homes' adapters, over a sample of people."""
    worst = 0.0
    people = random.Random(0).sample(range(users), min(SAMPLE, users))
    homes = [Home(folder) for folder in (one, other)]
    latest = [home.latest_adapters() for home in homes]
    for number in people:
        infos = [known["sorting", f"user{number:06d}"] for known in latest]
        ours, theirs = (
            Adapter.from_bytes(home.store.blobs.get(info.blob), LoraConfig.model_validate(info.shape))
            for home, info in zip(homes, infos, strict=True)
        )
        assert ours.pairs.keys() == theirs.pairs.keys()
        for name, pair in ours.pairs.items():
            for mine, its in ((pair.A_RD, theirs.pairs[name].A_RD), (pair.B_OR, theirs.pairs[name].B_OR)):
                worst = max(worst, float(torch.dist(mine, its, p=float("inf"))))
    assert worst <= CLOSE, f"adapters differ by {worst}"
    return worst


def ownlm(*words: object) -> None:
    """Runs a command to its end."""
    done = subprocess.run([*OWNLM, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ownlm {words[0]} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
