"""What is lost, and what is gained, where training and answering do less work: own adapters on SmolLM2-135M.

    python studies/less_work.py [--users 16] [--recent 16] [--queries 8] [--home DIR]

Users of huffpost_category, on a base adapted to the outsiders' articles. The arms differ in one setting of `train` (the
preset's otherwise), and are compared with the first, an adapter in all layers that acts on all tokens:

- quality: bits of the gold answer, end of text included, a query; the difference has a 95% interval, users drawn
  again with replacement, then queries within them. An arm shows no loss where the interval includes 0 or lies below.
- speed of training: seconds of the machine for all users, in one run of `Home.train` each, in turn.
- speed of choosing: seconds of all queries, `ask --choose`, in turn, the median of the rounds.
"""

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from ownlm import Home
from ownlm.cli.output import print_table, progress_bar
from ownlm.history.record import Query
from ownlm.inference.load import load_adapter
from ownlm.oppu.examples import tokenize
from ownlm.perpcs.adapt import answer_loss
from ownlm.prompt.example import Example, answer_text, query_prompt

STUDIES = Path(__file__).parent
sys.path.append(str(STUDIES.with_name("benchmarks")))
from record import DATA, save  # noqa: E402

TASK, SET = "LaMP_2N", "huffpost_category"
ARMS: dict[str, dict[str, Any]] = {
    "all": {}, "activated": {"activated": True}, "top:15": {"top_layers": 15}, "top:8": {"top_layers": 8}
}  # fmt: skip
Scores = dict[str, list[float]]  # by user


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--recent", type=int, default=16, help="latest records of a user")
    parser.add_argument("--queries", type=int, default=8, help="latest queries of a user")
    parser.add_argument("--outsider", type=int, default=4, help="records of each outsider in stage 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    folder = Path(asked.home or tempfile.mkdtemp())
    with progress_bar() as progress:
        first = Home(folder / "all")
        first.add_base("smollm2-135m", progress=progress)
        if "adapted" not in {base.name for base in first.bases()}:
            data = DATA / SET / "user_others.json"
            first.adapt("adapted", TASK, data=data, recent=asked.outsider, progress=progress)
            first.add_history(DATA / SET / "user_top_history.json", TASK)
        queries = first.read_queries(DATA / SET / "user_top_history.json", TASK)
        users = sorted({query.user_id for query in queries})
        users = users[:: max(len(users) // asked.users, 1)][: asked.users]
        queries = [
            query
            for user in users
            for query in [one for one in queries if one.user_id == user and one.gold is not None][-asked.queries :]
        ]
        bits, training = {"base alone": bits_of(first, queries, None)}, dict[str, dict[str, float]]()
        homes = {name: arm_home(folder, name) for name in ARMS}
        for name, how in ARMS.items():
            report = homes[name].train(TASK, users=users, recent=asked.recent, progress=progress, **how)
            assert not report.failed, report.failed
            made = homes[name].latest_adapters(TASK)
            training[name] = {
                "seconds": sum(one.seconds for one in made.values()), "tokens": sum(one.tokens for one in made.values())
            }  # fmt: skip
            bits[name] = bits_of(homes[name], queries, name)
        seconds, right = defaultdict[str, list[float]](list), dict[str, float]()
        for _ in range(asked.rounds):
            for name, home in homes.items():
                started = time.perf_counter()
                answers = list(home.ask_many(queries, TASK, choose=True, progress=progress))
                seconds[name].append(time.perf_counter() - started)
                right[name] = sum(a.answer == a.query.gold for a in answers) / len(answers)
    against = {name: paired(values, bits["all"]) for name, values in bits.items() if name != "all"}
    choosing = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    print_table(
        f"{SET}: {len(queries)} queries of {len(users)} users",
        ["arm", "bits a query#", "more than all#", "95%", "accuracy#", "training s#", "choosing s#"],
        [
            (name, f"{mean(values):.3f}",
             *((f"{against[name]['gain']:+.3f}", "{:+.3f} to {:+.3f}".format(*against[name]["interval"]))
               if name in against else ("", "")),
             *((f"{right[name]:.3f}", f"{training[name]['seconds']:.0f}", f"{choosing[name]:.1f}")
               if name in right else ("", "", "")))
            for name, values in bits.items()
        ],
    )  # fmt: skip
    save(
        "less_work",
        {
            "users": len(users), "queries": len(queries), "recent": asked.recent,
            "bits": {name: mean(values) for name, values in bits.items()},
            "more bits than all": against, "accuracy": right, "training": training, "choosing_s": dict(seconds),
        },
        folder=STUDIES,
    )  # fmt: skip


def arm_home(folder: Path, name: str) -> Home:
    """The home of an arm: a copy of the first one's, before anything is trained."""
    if name != "all" and not (folder / name).exists():
        shutil.copytree(folder / "all", folder / name)
    return Home(folder / name)


def bits_of(home: Home, queries: list[Query], arm: str | None) -> Scores:
    """Bits of each query's gold answer under the user's newest adapter, or under the base alone."""
    task, found = home.task(TASK), defaultdict[str, list[float]](list)
    model = home.load(home.store.base("adapted"))
    for user in dict.fromkeys(query.user_id for query in queries):
        info = home.latest_adapters(TASK)[task.name, user] if arm else None
        adapter = load_adapter(home.store, info, model) if info else None
        invocation = adapter.lora.alora_invocation_tokens if adapter else None
        history = home.store.history(task.name, user)
        for query in (one for one in queries if one.user_id == user):
            prompt, _ = query_prompt(task, query.fields, history)
            answer = answer_text(task, {task.answer_field: str(query.gold)})
            (example,) = tokenize(model, user, [Example(query.id, prompt, answer, ())], invocation)
            found[user].append(answer_loss(model, adapter, [example]) * len(example.answer) / math.log(2))
    return found


def mean(values: Scores) -> float:
    """The mean over all queries."""
    return float(np.mean([one for own in values.values() for one in own]))


def paired(one: Scores, other: Scores, draws: int = 10_000) -> dict[str, Any]:
    """How much more `one` is, with a 95% interval: users drawn again with replacement, then queries within them."""
    gains, random = [np.array(one[user]) - np.array(other[user]) for user in sorted(one)], np.random.default_rng(0)
    means = []
    for _ in range(draws):
        chosen = [gains[at] for at in random.integers(len(gains), size=len(gains))]
        means.append(np.mean(np.concatenate([own[random.integers(len(own), size=len(own))] for own in chosen])))
    low, high = np.quantile(means, [0.025, 0.975])
    return {"gain": float(np.mean(np.concatenate(gains))), "interval": [float(low), float(high)]}


if __name__ == "__main__":
    main()
