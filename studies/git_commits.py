"""OPPU on real people's commits: who writes which subject line, on SmolLM2-135M.

    python studies/git_commits.py [--recent 48] [--home DIR]

The log in the shared data is replayed into a repository and imported from there; the diffs are left out of the prompts,
since the replayed files' contents are made up. Stage 1 learns from authors with fewer
than 30 commits; each other author gets an adapter, and their last ten commits are held back. ROUGE-L of the subjects
written by the base, the adapted base, both shown the author's two most similar earlier commits, and own adapters.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from replay_commits import replay
from rouge_score.rouge_scorer import RougeScorer

from ownlm import Home
from ownlm.cli.output import print_table, progress_bar
from ownlm.history.record import Query
from ownlm.importers.git import import_git

STUDIES = Path(__file__).parent
sys.path.append(str(STUDIES.with_name("benchmarks")))
from record import DATA, save  # noqa: E402

TASK, LEAST, HELD_BACK = "git-commit", 30, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recent", type=int, default=48, help="train on this many latest commits of an author")
    parser.add_argument("--outsider", type=int, default=4, help="and in stage 1 on this many of each outsider")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    folder = Path(asked.home or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    commits, seconds = imported(folder), dict[str, float]()
    outsiders, people, held_back = split(folder, commits)
    home = Home(folder / "home")
    stage_2 = {
        "recent": asked.recent, "learning_rate": asked.learning_rate, "epochs": asked.epochs,
        "batch_size": asked.batch_size,
    }  # fmt: skip
    scores: dict[str, list[float]] = {}
    with progress_bar() as progress:
        home.add_base("smollm2-135m", progress=progress)
        started = time.perf_counter()
        if "commits" not in {base.name for base in home.bases()}:
            home.adapt("commits", TASK, data=outsiders, recent=asked.outsider, progress=progress)
            seconds["stage 1"] = time.perf_counter() - started
        home.add_history(people, TASK)
        queries = home.read_queries(held_back, TASK)
        users = sorted({query.user_id for query in queries})
        started = time.perf_counter()
        training = home.train(TASK, users=users, progress=progress, **stage_2)
        seconds["stage 2"] = time.perf_counter() - started
        for name, how in {
            "base": {"base": "smollm2-135m", "base_only": True},
            "base, RAG k=2": {"base": "smollm2-135m", "base_only": True, "rag": 2},
            "adapted base": {"base": "commits", "base_only": True},
            "adapted base, RAG k=2": {"base": "commits", "base_only": True, "rag": 2},
            "own adapter": {},
            "own adapter, RAG k=2": {"rag": 2},
        }.items():
            started = time.perf_counter()
            answers = [answer.answer or "" for answer in home.ask_many(queries, TASK, progress=progress, **how)]
            seconds[f"asking: {name}"] = time.perf_counter() - started
            scores[name] = rouge_l(queries, answers)
            (folder / f"{name}.json").write_text(json.dumps(answers, indent=1), "utf8")  # to be read, not to be kept
    report(queries, scores, seconds)
    versions = {"tokens": sum(a.tokens for a in training.trained), "tokens_per_s": training.tokens_per_s}
    adapter = home.adapters(users[0], TASK)[-1]
    save(
        "git_commits",
        {
            "people": len(users), "queries": len(queries), "seconds": seconds, **versions,
            "rouge_l": {name: float(np.mean(values)) for name, values in scores.items()},
            "by_person": {name: by_person(queries, values) for name, values in scores.items()},
            "own adapter minus": {
                name: paired(queries, scores["own adapter"], values)
                for name, values in scores.items() if name != "own adapter"
            },
            "records": {a.user: a.records for a in home.adapters(task=TASK)},
            "config": adapter.provenance["config"], "stage 1": (home.store.base("commits").provenance or {})["config"],
        },
        folder=STUDIES,
    )  # fmt: skip


def imported(folder: Path) -> list[dict[str, str]]:
    """The rows that `ownlm import git` writes of the replayed log."""
    repository, out = folder / "repository.git", folder / "commits.jsonl"
    if not out.exists():
        replay(DATA / "git_commits" / "lm_eval_harness.jsonl", repository)
        done = import_git(repository, out)
        print(f"imported {sum(done.records.values())} commits of {len(done.records)} authors, left out {done.left_out}")
    return [json.loads(line) for line in out.read_text("utf8").splitlines()]


def split(folder: Path, commits: list[dict[str, str]]) -> tuple[Path, Path, Path]:
    """Files of the outsiders' commits, of the people's earlier ones, and of the people's last ten."""
    mine = defaultdict(list)
    for row in sorted(commits, key=lambda row: row["time"]):
        mine[row["user_id"]].append({name: value for name, value in row.items() if name != "diff"})
    people = [rows for rows in mine.values() if len(rows) >= LEAST]
    files = {
        "outsiders": [row for rows in mine.values() if len(rows) < LEAST for row in rows],
        "people": [row for rows in people for row in rows[:-HELD_BACK]],
        "held-back": [
            {name: value for name, value in row.items() if name != "subject"} | {"gold": row["subject"]}
            for rows in people for row in rows[-HELD_BACK:]
        ],
    }  # fmt: skip
    paths = {name: folder / f"{name}.jsonl" for name in files}
    for name, path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in files[name]), "utf8")
    return paths["outsiders"], paths["people"], paths["held-back"]


def rouge_l(queries: list[Query], answers: list[str]) -> list[float]:
    """The F-measure of each answer's longest common subsequence of words with what the author wrote."""
    scorer = RougeScorer(["rougeL"])
    return [scorer.score(q.gold or "", answer)["rougeL"].fmeasure for q, answer in zip(queries, answers, strict=True)]


def by_person(queries: list[Query], values: list[float]) -> dict[str, float]:
    """The mean of each person's queries."""
    groups = defaultdict(list)
    for query, value in zip(queries, values, strict=True):
        groups[query.user_id].append(value)
    return {user: float(np.mean(group)) for user, group in sorted(groups.items())}


def paired(queries: list[Query], one: list[float], other: list[float], draws: int = 10_000) -> dict[str, object]:
    """How much higher `one` is, with a 95% interval: people drawn again with replacement, then queries within them."""
    groups = defaultdict(list)
    for query, a, b in zip(queries, one, other, strict=True):
        groups[query.user_id].append(a - b)
    gains, random = np.array([groups[user] for user in sorted(groups)]), np.random.default_rng(0)
    chosen = gains[random.integers(len(gains), size=(draws, len(gains)))]
    within = random.integers(gains.shape[1], size=chosen.shape)
    means = np.take_along_axis(chosen, within, axis=2).mean(axis=(1, 2))
    return {"gain": float(gains.mean()), "interval": [float(x) for x in np.quantile(means, [0.025, 0.975])]}


def report(queries: list[Query], scores: dict[str, list[float]], seconds: dict[str, float]) -> None:
    """A table: methods by people."""
    users = sorted({query.user_id for query in queries})
    print_table(
        f"git_commits: ROUGE-L of {len(queries)} subjects of {len(users)} authors",
        ["method", "all#", "own adapter minus it#", "95%", *(f"{user[:6]}#" for user in users)],
        [
            (name, f"{np.mean(values):.3f}", f"{gain['gain']:+.3f}", "{:+.3f} to {:+.3f}".format(*gain["interval"]),
             *(f"{mean:.3f}" for mean in by_person(queries, values).values()))
            for name, values in scores.items()
            for gain in [paired(queries, scores["own adapter"], values)]
        ],
    )  # fmt: skip
    print(json.dumps({name: round(spent, 1) for name, spent in seconds.items()}))


if __name__ == "__main__":
    main()
