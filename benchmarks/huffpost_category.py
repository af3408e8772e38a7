"""OPPU on real people: how journalists file articles, on SmolLM2-135M.

    python benchmarks/huffpost_category.py [--users 16] [--recent 64] [--home DIR]

Stage 1 on the outsiders, stage 2 on every n-th task user, then their queries: the plain base, the adapted base, own
adapters, and each person's most frequent label. Accuracy and macro-F1, with 95% intervals from a bootstrap over people.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from record import DATA, save

from ownlm import Home
from ownlm.bench.metrics import metric
from ownlm.bench.statistics import Resampling
from ownlm.cli.output import print_table, progress_bar
from ownlm.history.record import Query
from ownlm.progress import Progress

TASK = "LaMP_2N"
METRICS = ("accuracy", "f1_macro")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--recent", type=int, default=64)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    home = Home(asked.home or tempfile.mkdtemp())
    data, seconds = DATA / "huffpost_category", dict[str, float]()
    stage_2 = {"recent": asked.recent, "learning_rate": asked.learning_rate, "epochs": asked.epochs}
    with progress_bar() as progress:
        home.add_base("smollm2-135m", progress=progress)
        started = time.perf_counter()
        if "news" not in {base.name for base in home.bases()}:
            home.adapt("news", TASK, data=data / "user_others.json", progress=progress)
            seconds["stage 1"] = time.perf_counter() - started
        home.add_history(data / "user_top_history.json", TASK)
        everybody = home.read_queries(data / "user_top_history.json", TASK)
        people = sorted({query.user_id for query in everybody})
        people = people[:: len(people) // asked.users][: asked.users]
        started = time.perf_counter()
        training = home.train(TASK, users=people, slots=16, progress=progress, **stage_2)
        seconds["stage 2"] = time.perf_counter() - started
        queries = [query for query in everybody if query.user_id in people]
        predicted = {"most frequent label": most_frequent(home, queries)}
        for name, how in {
            "base": {"base": "smollm2-135m", "base_only": True},
            "adapted base": {"base": "news", "base_only": True},
            "own adapter": {},
        }.items():
            started = time.perf_counter()
            predicted[name] = choose(home, queries, progress, **how)
            seconds[f"asking: {name}"] = time.perf_counter() - started
    scores = {name: judge(queries, answers) for name, answers in predicted.items()}
    print_table(
        f"huffpost_category: {len(queries)} queries of {len(people)} people",
        ["method", "accuracy#", "95%", "macro-F1#", "95%"],
        [(name, *cells(s, "accuracy"), *cells(s, "f1_macro")) for name, s in scores.items()],
    )
    print(json.dumps({name: round(spent, 1) for name, spent in seconds.items()}))
    save(
        "huffpost_category",
        {
            "people": len(people), "queries": len(queries), "scores": scores, "seconds": seconds,
            "own adapter minus adapted base": difference(queries, predicted["own adapter"], predicted["adapted base"]),
            "own adapter minus most frequent label": difference(
                queries, predicted["own adapter"], predicted["most frequent label"]),
            "tokens_per_s": training.tokens_per_s, "tokens": sum(a.tokens for a in training.trained),
            "adapter": home.adapters(people[0], TASK)[-1].provenance, "stage 1": home.store.base("news").provenance,
        },
    )  # fmt: skip


def choose(home: Home, queries: list[Query], progress: Progress, **how: object) -> list[str]:
    """The label chosen for each query."""
    answers = home.ask_many(queries, TASK, choose=True, progress=progress, **how)  # type: ignore[arg-type]
    return [answer.answer or "" for answer in answers]


def most_frequent(home: Home, queries: list[Query]) -> list[str]:
    """For each query, the label its person gave most often before."""
    label = {
        user: Counter(record.fields["category"] for record in home.history(user, TASK).records).most_common(1)[0][0]
        for user in {query.user_id for query in queries}
    }
    return [label[query.user_id] for query in queries]


def judge(queries: list[Query], answers: list[str]) -> dict[str, Any]:
    """Accuracy, and macro-F1 over the labels that occur, each with a 95% interval over people."""
    people = Resampling.of([query.user_id for query in queries])
    return {name: asdict(people.estimate(metric(name), [terms(name, queries, answers)])) for name in METRICS}


def difference(queries: list[Query], one: list[str], other: list[str]) -> dict[str, Any]:
    """How much better `one` is, paired, with 95% intervals over people."""
    people = Resampling.of([query.user_id for query in queries])
    return {
        name: asdict(people.difference(metric(name), [terms(name, queries, one)], [terms(name, queries, other)]))
        for name in METRICS
    }


def terms(name: str, queries: list[Query], answers: list[str]) -> np.ndarray:
    """What a metric adds up, for each query."""
    golds = [query.gold or "" for query in queries]
    return metric(name).terms(answers, golds, sorted(set(golds)))


def cells(measures: dict[str, Any], name: str, sign: str = "") -> tuple[str, str]:
    """Two cells of a table: a measure and its interval."""
    found = measures[name]
    return f"{found['value']:{sign}.3f}", f"{found['low']:{sign}.3f} to {found['high']:{sign}.3f}"


if __name__ == "__main__":
    main()
