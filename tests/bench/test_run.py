import gc
import json
import shutil
import signal
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score

import ownlm.bench.run as module
from ownlm.bench.case import Case
from ownlm.bench.check import Ready
from ownlm.bench.data import read_set
from ownlm.bench.plan import MethodPlan, Plan, read_plan
from ownlm.bench.predictions import read_lamp, read_predictions
from ownlm.bench.results import Costs, Results, read_results
from ownlm.bench.run import run_plan
from ownlm.bench.score import score
from ownlm.errors import ConfigError, DataError, OwnlmError
from ownlm.history.task import load_task
from ownlm.model.bases.placement import DEFAULT
from ownlm.progress import silent
from tests.bench.made import citations
from tests.community import write_rows

PLANS_FOLDER = Path(__file__).resolve().parents[2] / "plans"
FEW = ("adapted base", "most frequent label", "RAG, k=1", "own adapter, k=0", "pieces, product, k=0")


def few(*names: str, **changes: object) -> Plan:
    """The main plan at its smallest, with some of its methods."""
    plan = read_plan(PLANS_FOLDER / "main.toml", "tiny")
    methods = [method for method in plan.methods if method.name in (names or FEW)]
    return plan.model_copy(update={"methods": tuple(methods), **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("bench") / "out"
    return folder, run_plan(few(seeds=(0, 1)), folder)


def test_every_query_is_answered_and_scored(done: tuple[Path, Results]) -> None:
    folder, results = done
    (one,) = results.sets
    assert [method.name for method in one.methods] == list(FEW)
    assert (one.users, one.queries) == (6, 18)
    golds = {row["id"]: row["gold"] for row in map(json.loads, (PLANS_FOLDER / "tiny" / "queries.jsonl").open())}
    files = [path for path in (folder / "predictions" / "triage").glob("*.jsonl")]
    assert len(files) == 2 * len(FEW)
    for method in one.methods:
        slug = module.slug_of(method.name)
        values = []
        for path in sorted(path for path in files if path.name.startswith(f"{slug}-")):
            answers = read_predictions(path)
            assert len(answers) == 18
            values.append(accuracy_score([golds[one.id] for one in answers], [one.output for one in answers]))
        assert len(values) == 2
        assert method.scores["accuracy"].value == pytest.approx(sum(values) / 2)
        assert method.costs.ms_per_answer is not None and method.costs.ms_per_answer > 0


def test_what_is_left_behind(done: tuple[Path, Results]) -> None:
    folder, results = done
    assert read_results(folder) == results
    assert json.loads((folder / "plan.json").read_text())["seeds"] == [0, 1]
    assert "triage" in (folder / "report.md").read_text() and "<svg" in (folder / "report.html").read_text()
    assert {"torch", "transformers", "ownlm"} <= results.versions.keys()


def test_predictions_in_lamps_format_are_scored_alike(done: tuple[Path, Results]) -> None:
    folder, results = done
    place = folder / "predictions" / "triage"
    answers, _ = place.glob("most-frequent*.lamp.json")  # of both seeds, which are alike
    scored = score(place / "golds.json", answers, load_task(PLANS_FOLDER.parent / "examples" / "triage.toml"))
    (method,) = [one for one in results.sets[0].methods if one.name == "most frequent label"]
    assert scored.scores["accuracy"].value == pytest.approx(method.scores["accuracy"].value)
    assert len(read_lamp(answers).outputs) == 18


def test_nothing_is_done_twice(done: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = done

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    fails = {name: replace(method, make=fail) for name, method in module.METHODS.items()}
    monkeypatch.setattr(module, "METHODS", fails)
    assert run_plan(few(seeds=(0, 1)), folder).sets == results.sets


def own_copy(done: tuple[Path, Results], tmp_path: Path) -> tuple[Path, Path]:
    """A copy that a test may change, and the folder of its predictions."""
    folder = shutil.copytree(done[0], tmp_path / "out")
    return folder, folder / "predictions" / "triage"


def test_other_settings_are_other_predictions(tmp_path: Path, done: tuple[Path, Results]) -> None:
    folder, place = own_copy(done, tmp_path)
    names = ("adapted base", "own adapter, k=0")
    changed = few(*names, settings={"own": {"epochs": 1, "recent": 3, "learning_rate": 1e-2}})
    before = set(place.iterdir())
    again = run_plan(changed, folder)
    assert set(place.iterdir()) > before
    _, own = again.sets[0].methods
    assert own.costs.train_tokens != done[1].sets[0].methods[3].costs.train_tokens


def test_removed_answers_are_asked_for_again_and_half_of_them_only_once(
    tmp_path: Path, done: tuple[Path, Results]
) -> None:
    folder, place = own_copy(done, tmp_path)
    removed, kept = next(place.glob("adapted*.jsonl")), next(place.glob("own*.jsonl"))
    removed.unlink()
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(lines[:7]) + lines[7][:20])  # as kill -9 leaves it
    kept.with_suffix(".costs.json").unlink()
    again = run_plan(few(seeds=(0, 1)), folder)
    assert [m.scores for m in again.sets[0].methods] == [m.scores for m in done[1].sets[0].methods]
    assert kept.read_text().splitlines(keepends=True)[:7] == lines[:7]
    assert len(read_predictions(kept)) == len(read_predictions(removed)) == 18


def test_a_wrong_setting_is_told_before_anything_runs(tmp_path: Path) -> None:
    plan = few(settings={"own": {"epochz": 3}})
    with pytest.raises(ConfigError, match="epochz"):
        run_plan(plan, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no such method\. Got: owm"):
        run_plan(few(settings={"owm": {"epochs": 3}}), tmp_path / "out")
    wrong = MethodPlan(name="own, longer", method="own", epochs=-1)
    with pytest.raises(ConfigError, match=r"method 'own, longer' is wrong.*'epochs'"):
        run_plan(
            few("adapted base").model_copy(update={"methods": (few("adapted base").methods[0], wrong)}),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_a_stage_that_fails_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    plan = few("adapted base", "own adapter, k=0", settings={"own": {"learning_rate": 1.0, "since": "2099"}})
    with pytest.raises(OwnlmError):
        run_plan(plan, tmp_path / "out")
    assert len(list((tmp_path / "out" / "predictions" / "triage").glob("adapted-base*.costs.json"))) == 1


def test_the_queries_least_like_the_history(tmp_path: Path) -> None:
    plan = few("adapted base", "most frequent label")
    shifted = tuple(
        one.model_copy(update={"name": by, "shift": by, "shift_share": 0.34})
        for one in plan.sets
        for by in ("bm25", "embedding")
    )
    results = run_plan(plan.model_copy(update={"sets": (*plan.sets, *shifted)}), tmp_path / "out")
    assert [(one.name, one.queries) for one in results.sets] == [("triage", 18), ("bm25", 6), ("embedding", 6)]


def test_lamps_citations_run_to_their_end(tmp_path: Path) -> None:
    """Their records hold no answers: stage 1 learns from outsiders' queries, the rest is left out."""
    plan = read_plan(PLANS_FOLDER / "main.toml", "tiny").model_copy(update={"sets": (citations(tmp_path),)})
    results = run_plan(plan, tmp_path / "out")
    (one,) = results.sets
    assert [method.name for method in one.methods] == [
        "base", "adapted base", "random record, k=1", "RAG, k=1", "RAG, k=2", "RAG, k=4",
    ]  # fmt: skip
    assert "own adapter, k=0" in one.left_out and "most frequent label" in one.left_out
    (stage,) = [cost for cost in one.shared if cost.name == "stage 1"]
    assert stage.people == 6 and stage.tokens
    with pytest.raises(ConfigError, match="epochz"):  # also of what is left out
        run_plan(plan.model_copy(update={"settings": {"own": {"epochz": 1}}}), tmp_path / "out")


def test_sets_that_would_be_kept_in_one_folder(tmp_path: Path) -> None:
    (one,) = few().sets
    sets = tuple(one.model_copy(update={"name": name}) for name in ("news, 2018", "news 2018"))
    with pytest.raises(ConfigError, match="one folder"):
        run_plan(few(sets=sets), tmp_path / "out")


def test_a_set_can_be_read_while_the_others_are_still_to_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = few("adapted base", "most frequent label")
    (one,) = plan.sets
    plan = plan.model_copy(update={"sets": (one, one.model_copy(update={"name": "later"}))})
    answered = module._answered

    def stopped(case: Case, method: MethodPlan, settings: dict[str, Any]) -> tuple[list[str], Costs]:
        if case.data.name == "later":
            raise KeyboardInterrupt
        return answered(case, method, settings)

    monkeypatch.setattr(module, "_answered", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "out")
    kept = read_results(tmp_path / "out")
    assert ([one.name for one in kept.sets], kept.to_come) == (["triage"], ("later",))
    assert "still to be measured: later" in (tmp_path / "out" / "report.md").read_text()
    monkeypatch.undo()
    assert run_plan(plan, tmp_path / "out").to_come == ()
    assert "still to be measured" not in (tmp_path / "out" / "report.html").read_text()


def test_the_order_of_records_without_times_is_not_forgotten(tmp_path: Path) -> None:
    """It says which are the latest."""
    (one,) = few().sets
    rows = [json.loads(line) for line in one.data.read_text().splitlines()]
    for row in rows:
        row.pop("time", None)
    answers = []
    for order in (rows, rows[::-1]):
        data = write_rows(tmp_path / "people.jsonl", order)
        plan = few("adapted base", "most frequent label", sets=(one.model_copy(update={"data": data}),))
        run_plan(plan, tmp_path / "out")
        answers.append({path.name for path in (tmp_path / "out" / "predictions" / "triage").glob("most*.jsonl")})
    assert answers[0] < answers[1]


def test_other_outsiders_are_other_answers(tmp_path: Path) -> None:
    """Who shares of them, too, is in no digest of sharers."""
    (one,) = few().sets
    changed = one.model_copy(update={"sharing": 0, "outsiders": None})
    first = few("adapted base", adapt=False, sets=(changed,))
    ready = Ready(changed, read_set(changed), (), (), ())
    (case,) = module._cases(first, ready, tmp_path, DEFAULT, silent)
    moved = replace(case.data, outsiders=dict(list(case.data.targets.items())[:1]))
    method = first.methods[0]
    assert module._place(case, method, {}) != module._place(replace(case, data=moved), method, {})


def test_which_code_ran_before_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = few("adapted base")
    assert run_plan(plan, tmp_path / "out").earlier == ()
    assert run_plan(plan, tmp_path / "out").earlier == ()
    monkeypatch.setattr(module, "commit", lambda: "1234567")
    results = run_plan(plan, tmp_path / "out")
    (before,) = results.earlier
    assert "commit" in before and "1234567" not in before
    assert "The same folder was run with other code" in (tmp_path / "out" / "report.md").read_text()
    (tmp_path / "out" / "code.json").write_text("{")
    with pytest.raises(DataError, match=r"code\.json is damaged"):
        run_plan(plan, tmp_path / "out")


def test_costs_of_methods_that_left_the_plan_leave_the_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (one,) = run_plan(few("adapted base", "PAG, k=1", "pieces, product, k=0"), out).sets
    assert {"stage 1", "the pool"} < {cost.name for cost in one.shared}
    (profiles,) = [cost for cost in one.shared if cost.name.startswith("text profiles, adapted-")]
    assert profiles.people == 6 and profiles.seconds
    next((out / "predictions" / "triage").glob("PAG*.jsonl")).unlink()
    (one,) = run_plan(few("adapted base", "PAG, k=1"), out).sets
    assert {cost.name for cost in one.shared} == {"stage 1", profiles.name}
    assert profiles in one.shared  # what it took is kept
    next((out / "predictions" / "triage").glob("PAG*.jsonl")).unlink()
    next((out / "stages").glob("adapted-*/profiles.json")).unlink()  # as where it was killed right before
    (one,) = run_plan(few("adapted base", "PAG, k=1"), out).sets
    assert profiles.model_copy(update={"seconds": None}) in one.shared
    (one,) = run_plan(few("adapted base"), out).sets
    assert {cost.name for cost in one.shared} == {"stage 1"}
    costs = next((out / "predictions" / "triage").glob("adapted-base-*.costs.json"))
    costs.write_text(costs.read_text()[:20])
    with pytest.raises(DataError, match=r"costs\.json is damaged"):
        run_plan(few("adapted base"), out)


def test_ctrl_c_while_garbage_is_collected_is_not_lost() -> None:
    """Whatever is raised in a callback of what is collected, Python prints and drops."""

    class Cycle:
        pass

    one = Cycle()
    one.itself = one  # type: ignore[attr-defined]
    seen = weakref.ref(one, lambda _: signal.raise_signal(signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    gc.disable()
    try:
        del one
        with pytest.raises(KeyboardInterrupt):
            module._collect()
            time.sleep(1)
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, handler)
    assert seen() is None
