"""kill -9 at ten random moments of a benchmark, each followed by the same call again."""

import random
import signal
import time
from pathlib import Path

import torch

from ownlm.bench.plan import Plan, read_plan
from ownlm.bench.results import Results, read_results
from ownlm.bench.run import run_plan
from tests.forks import context

PLANS_FOLDER = Path(__file__).resolve().parents[1] / "plans"
TIMES = 10
METHODS = ("adapted base", "own-history kNN", "own adapter, k=0", "pieces, product, k=0")


def plan() -> Plan:
    """The main plan at its smallest; generated text tells more apart than a few labels do."""
    whole = read_plan(PLANS_FOLDER / "main.toml", "tiny")
    settings = {**whole.settings, "own": {"epochs": 2, "learning_rate": 0.05}}
    methods = tuple(method for method in whole.methods if method.name in METHODS)
    sets = tuple(one.model_copy(update={"people": 3, "queries_each": 2}) for one in whole.sets)
    return whole.model_copy(update={"methods": methods, "sets": sets, "settings": settings, "choose": False})


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    run_plan(plan(), folder)


def table(results: Results) -> list[object]:
    """All of quality, to the last digit; seconds differ from run to run."""
    return [
        (one.name, one.queries, m.name, m.scores, m.differences, m.buckets) for one in results.sets for m in one.methods
    ]


def answers(folder: Path) -> dict[str, list[str]]:
    """What was answered, by file, without the seconds."""
    return {path.name: [path.read_text()] for path in sorted((folder / "predictions").rglob("*.lamp.json"))}


def test_the_table_is_that_of_a_run_left_in_peace(tmp_path: Path) -> None:
    moments, duration = random.Random(0), 0.0
    for name in ("warm-up", "undisturbed"):  # the first also waits for the server of forks
        started = time.perf_counter()
        process = context.Process(target=work, args=(tmp_path / name,))
        process.start()
        process.join()
        assert process.exitcode == 0
        duration = time.perf_counter() - started
    undisturbed = read_results(tmp_path / "undisturbed")
    assert len(set(map(tuple, answers(tmp_path / "undisturbed").values()))) > 2
    hits = turn = 0
    while hits < TIMES:
        folder = tmp_path / f"killed{turn}"
        process = context.Process(target=work, args=(folder,))
        process.start()
        process.join(moments.uniform(0, duration / 2))
        process.kill()
        process.join()
        hits += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            compare(tmp_path / "undisturbed", folder)
            turn += 1
        assert turn < 4 * TIMES
    work(folder)
    compare(tmp_path / "undisturbed", folder)
    assert table(read_results(folder)) == table(undisturbed)


def compare(undisturbed: Path, killed: Path) -> None:
    assert answers(killed) == answers(undisturbed)
    assert table(read_results(killed)) == table(read_results(undisturbed))
