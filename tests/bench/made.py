"""Results that nobody measured: names that mean harm, metrics of both directions, costs that do not apply."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ownlm.bench.plan import SetPlan
from ownlm.bench.results import Bucket, Costs, MethodResult, Results, SetResult, SharedCost
from ownlm.bench.statistics import Difference, Estimate

Model = TypeVar("Model", bound=BaseModel)
EVIL = 'a|b <script>alert("1")</script> $x^2$ `c` & \x1b[31m'
LONG = "own adapter with a text profile and one retrieved record, both in training and in asking"
FREE = Costs(ms_per_answer=12.5)
OWN = Costs(train_seconds=90.25, train_tokens=123456.0, ms_per_answer=30.0, bytes_per_user=921600.0)
PIECED = Costs(assemble_seconds=4.0, ms_per_answer=31.0, bytes_per_user=1500.0)
# Each with its cost, its value and its difference to the baseline: value, low, high.
METHODS = {
    "adapted base": (FREE, 0.5, None),
    "most frequent label": (FREE, 0.5, (0.0, 0.0, 0.0)),
    LONG: (OWN, 0.625, (0.125, 0.0625, 0.1875)),
    "averaged": (PIECED, 0.25, (-0.25, -0.375, -0.125)),
    EVIL: (PIECED, 0.5625, (0.0625, -0.0625, 0.125)),
}


def changed(model: Model, **changes: object) -> Model:
    """A model with other values."""
    return model.model_copy(update=changes)


def one_set(name: str, metrics: tuple[str, ...], labels: tuple[str, ...]) -> SetResult:
    """A set with all methods of `METHODS`, all metrics alike."""
    methods = []
    for method, (costs, value, difference) in METHODS.items():
        score = dict.fromkeys(metrics, Estimate(value, value - 0.125, value + 0.125))
        against = (
            dict.fromkeys(metrics, Difference(*difference, 2 * (difference[2] - difference[1]))) if difference else {}
        )
        buckets = tuple(Bucket(label=label, users=2, queries=10, scores=score) for label in labels)
        methods.append(
            MethodResult(
                name=method,
                method="own",
                settings={"rag": 1, "note": EVIL},
                scores=score,
                differences=against,
                buckets=buckets,
                costs=costs,
            )
        )
    shared = (
        SharedCost(name="stage 1", seconds=12.5, tokens=123456.0, people=30),
        SharedCost(name="the pool", seconds=40.0, tokens=None, people=1),
    )
    return SetResult(
        name=name, task="LaMP_2N", users=2 * len(labels), queries=10 * len(labels), outsiders=30, sharers=1,
        metrics=metrics, methods=tuple(methods), shared=shared,
    )  # fmt: skip


def results() -> Results:
    """Two sets, the second with one bucket."""
    return Results(
        plan="main",
        size="cpu",
        date="2026-03-01",
        hardware="a made-up machine",
        versions={"torch": "2.11", "ownlm": "0.6"},
        commit=None,
        seeds=(0, 7),
        baseline="adapted base",
        sets=(
            one_set("news", ("accuracy", "f1_macro"), ("1-20 records", "21-50 records")),
            one_set("<b>ratings", ("mae",), ("1-20 records",)),
        ),
        resolved={
            "name": "main",
            "note": EVIL,
            "fence": "```",
            "base": "smollm2-135m",
            "adapt": {"epochs": 2},
            "share": {},
            "sets": [{"name": "news", "data": "/home/somebody/news.jsonl", "queries": "their/folder/queries.jsonl"}],
        },
    )


def citations(folder: Path, people: int = 6) -> SetPlan:
    """LaMP_1 in its official layout; every second right answer is the second option."""
    for part in ("train", "dev"):
        asked, golds = [], []
        for number in range(people):
            options = [f"wanted {number}", f"unwanted {number}"]
            if number % 2:
                options.reverse()
            asked.append(
                {
                    "id": f"{part}{number}",
                    "input": f'For an author who has written the paper with the title "T{number}", which reference is '
                    f'related? Just answer with [1] or [2]. [1]: "{options[0]}" [2]: "{options[1]}"',
                    "profile": [{"id": str(n), "title": f"{part} {number} {n}", "abstract": "rain"} for n in range(12)],
                }
            )
            golds.append({"id": f"{part}{number}", "output": f"[{1 + number % 2}]"})
        (folder / f"{part}_questions.json").write_text(json.dumps(asked))
        (folder / f"{part}_outputs.json").write_text(json.dumps({"task": "LaMP_1", "golds": golds}))
    return SetPlan(
        name="papers", task="LaMP_1", data=folder / "dev_questions.json", outsiders=folder / "train_questions.json"
    )
