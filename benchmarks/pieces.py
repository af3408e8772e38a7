"""Per-Pcs on real people: newcomers assembled out of others' pieces, beside training them, on SmolLM2-135M.

    python benchmarks/pieces.py [--home DIR] [--targets 20] [--recent 40]

A third of huffpost_category's task users share (its outsiders have ten records at most, which is too few to share); of
the others, every n-th is a target. Stage 1 on the outsiders, unless the home has the adapted base `news`. Then the
targets' queries are answered by: their most frequent label, the adapted base, their own adapter, the adapter of the
sharer whose history is nearest, and their assembly by `product`, by `factors`, and adapted. Accuracy and macro-F1, with
95% intervals from a bootstrap over people, paired for the differences to the adapted base.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huffpost_category import TASK, cells, choose, difference, judge, most_frequent
from record import DATA, save

from ownlm import Home
from ownlm.answer.ask import Question, answer
from ownlm.cli.output import print_table, progress_bar
from ownlm.history.record import Query
from ownlm.perpcs.embedding import embed_histories
from ownlm.perpcs.recipe import Recipe
from ownlm.progress import Progress
from ownlm.prompt.example import query_prompt, searched_text
from ownlm.store.pools import people_of

SHARER = {"learning_rate": 1e-3, "steps": 8, "batch_size": 16, "gate_steps": 4, "gate_learning_rate": 5e-3}
OWN = {"learning_rate": 1e-3, "epochs": 3}
ADAPT_STEPS = 4
LOOKED_AT = 16  # latest records, to find the nearest sharer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--recent", type=int, default=40)
    asked = parser.parse_args()
    home, data = Home(asked.home or tempfile.mkdtemp()), DATA / "huffpost_category"
    with progress_bar() as progress:
        home.add_base("smollm2-135m", progress=progress)
        if "news" not in {base.name for base in home.bases()}:
            home.adapt("news", TASK, data=data / "user_others.json", progress=progress)
        home.add_history(data / "user_top_history.json", TASK)
        everybody = home.read_queries(data / "user_top_history.json", TASK)
        people = sorted({query.user_id for query in everybody})
        sharers, others = people[::3], [user for place, user in enumerate(people) if place % 3]
        targets = others[:: len(others) // asked.targets][: asked.targets]
        queries = [query for query in everybody if query.user_id in targets]
        predicted, seconds, facts = run(home, sharers, targets, queries, asked.recent, progress)
    scores = {name: judge(queries, answers) for name, answers in predicted.items()}
    gains = {
        name: difference(queries, answers, predicted["adapted base"])
        for name, answers in predicted.items()
        if name != "adapted base"
    }
    print_table(
        f"huffpost_category: {len(queries)} queries of {len(targets)} people, {facts['sharers']} sharers",
        ["method", "accuracy#", "95%", "minus adapted base#", "95%", "macro-F1#", "95%", "minus adapted base#", "95%"],
        [
            (
                name,
                *(cells(s, "accuracy") + gained(gains.get(name), "accuracy")),
                *(cells(s, "macro_f1") + gained(gains.get(name), "macro_f1")),
            )
            for name, s in scores.items()
        ],
    )
    settings = {"sharers": SHARER, "own": OWN, "adapt_steps": ADAPT_STEPS, "recent": asked.recent}
    save(
        "pieces",
        {"people": len(targets), "queries": len(queries), "scores": scores, "minus adapted base": gains,
         "seconds": seconds, "settings": settings, **facts},
    )  # fmt: skip


def gained(gain: dict[str, Any] | None, name: str) -> tuple[str, str]:
    """Two cells: a difference and its interval."""
    return cells(gain, name, "+") if gain else ("", "")


def run(
    home: Home, sharers: list[str], targets: list[str], queries: list[Query], recent: int, progress: Progress
) -> tuple[dict[str, list[str]], dict[str, float], dict[str, Any]]:
    """What each method answers, how long it took to make, and what there is to say about it."""
    seconds, facts = dict[str, float](), dict[str, Any]()
    predicted = {
        "most frequent label": most_frequent(home, queries),
        "adapted base": choose(home, queries, progress, base="news", base_only=True),
    }

    def timed(name: str, make: Any) -> Any:
        started = time.perf_counter()
        made = make()
        seconds[name] = time.perf_counter() - started
        return made

    for user in sharers:
        home.consent(user, True)
    shared = timed(
        "the pool",
        lambda: home.pools.share(TASK, users=sharers, base="news", recent=recent, progress=progress, **SHARER),
    )
    facts |= {"sharers": len(shared.sharers), "pool_bytes": size(Path(shared.pool.folder))}
    predicted["nearest sharer's adapter"] = nearest(home, targets, queries)
    for name, how in {
        "assembled, product": {},
        "assembled, factors": {"combine": "factors"},
        "assembled, then adapted": {"adapt_steps": ADAPT_STEPS},
    }.items():
        how = {"recent": recent, **how}
        made = timed(name, lambda how=how: home.assemble(TASK, users=targets, progress=progress, **how))
        assert not made.failed, made.failed
        predicted[name] = choose(home, queries, progress)
        facts[name] = {
            "bytes a user": max(one.bytes for one in made.assembled),
            "kept": Counter(one.kept for one in made.assembled if one.kept),
        }
    trained = timed("own adapter", lambda: home.train(TASK, users=targets, recent=recent, progress=progress, **OWN))
    assert not trained.failed, trained.failed
    predicted["own adapter"] = choose(home, queries, progress)
    return predicted, seconds, facts


def nearest(home: Home, targets: list[str], queries: list[Query]) -> list[str]:
    """Each target answered by the whole adapter of the sharer whose latest records' mean embedding is nearest."""
    info, pool = home.pools.open(task=TASK)
    people, base, task = people_of(home.store, pool=info.digest), home.load(home.store.base("news")), home.task(TASK)
    everybody = [*people.values(), *targets]
    texts = (
        [searched_text(task, record) for record in home.history(user, TASK).records[-LOOKED_AT:]] for user in everybody
    )
    vector = embed_histories(base, texts)
    vector = torch.nn.functional.normalize(vector - vector.mean(0), dim=1)
    near = vector @ vector[: len(people)].T
    recipes = {}
    for place, user in enumerate(targets):
        sharer = list(people)[int(near[len(people) + place].argmax())]
        places = [pool.manifest.sharers.index(sharer)] * len(pool.modules)  # everybody gives a piece of every module
        recipes[user] = Recipe(
            "product", np.array(places, dtype=np.uint16)[:, None], np.ones((len(places), 1), dtype=np.float32)
        )
    answers: list[str] = []
    for user in dict.fromkeys(query.user_id for query in queries):
        mine = [query for query in queries if query.user_id == user]
        prompts = [query_prompt(task, query.fields, home.history(user, TASK))[0] for query in mine]
        questions = [Question(base.encode_prompt(prompt), user) for prompt in prompts]
        recipe = {user: recipes[user]}
        answers += answer(base, {}, questions, recipes=recipe, pool=pool, labels=task.labels or (), max_new_tokens=8)
    order = [query for user in dict.fromkeys(q.user_id for q in queries) for query in queries if query.user_id == user]
    given = {id(query): text for query, text in zip(order, answers, strict=True)}
    return [given[id(query)] for query in queries]


def size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    main()
