"""Runs a plan: every method answers every query of every set under each seed. Answers are kept as they come.

    OUT/plan.json                             the resolved plan
    OUT/code.json                             versions of the code that have run there
    OUT/stages/STAGE-DIGEST/                  a home for each stage that trains
    OUT/predictions/SET/METHOD-seed-N-DIGEST.jsonl
                                              one answer a line; when complete, its costs beside it, and the answers in
                                              LaMP's output format, for `ownlm bench score SET/golds.json`
    OUT/results.json, report.*, figures/      results so far, written after each set

A killed run continues where it stopped: answers are not asked for again, and homes know what is trained. File names
hold digests of all inputs, so that a changed plan reads no other plan's files. The code is not in them: answers of
another commit of this version are used, stages of another version too, and results and report name both.
"""

import gc
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from threading import Thread
from typing import Any

from ownlm import __version__
from ownlm.bench.case import Case, fingerprint, known_of
from ownlm.bench.check import Ready, check_plan
from ownlm.bench.data import SetData, least_like
from ownlm.bench.machine import commit, hardware, versions
from ownlm.bench.methods import METHODS
from ownlm.bench.metrics import metrics_of
from ownlm.bench.plan import MethodPlan, Plan, slug_of
from ownlm.bench.predictions import Prediction, Writer, read_predictions, write_lamp
from ownlm.bench.report import write_report
from ownlm.bench.results import Answered, Costs, Results, SetResult, SharedCost, measure, write_results
from ownlm.bench.warnings import of_answers
from ownlm.durable import write_whole
from ownlm.errors import DataError
from ownlm.filesystem import read_regular
from ownlm.history.record import Query
from ownlm.model.bases.placement import DEFAULT, Placement
from ownlm.progress import Progress, silent
from ownlm.store.database import working
from ownlm.workflows.plan import digest


def run_plan(plan: Plan, folder: Path, *, placement: Placement = DEFAULT, progress: Progress = silent) -> Results:
    """Runs the unfinished parts of a plan, and writes its results and report.

    A method that does not apply to a set is left out there: the most frequent label of a task without labels; training
    on, or profiles from, records without answers.

    Args:
        folder: OUT, made if missing. A second process on the same folder waits.
        placement: Where models run, and the type of their weights.

    Raises:
        ConfigError: The plan is wrong. One error lists all faults, and nothing has run.
        OwnlmError: A stage failed. What is done stays, and the same call continues from there.

    Source: ours.
    """
    progress("checking the plan", 0, 0, "its files are read")
    ready = check_plan(plan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with working(folder, "ownlm bench run", progress):
        write_whole(folder / "plan.json", (json.dumps(plan.model_dump(mode="json"), indent=1) + "\n").encode())
        earlier = _note_code(folder)
        total, done = len(plan.seeds) * sum(len(one.methods) for one in ready), 0
        measured: list[SetResult] = []
        for one in ready:
            cases = _cases(plan, one, folder, placement, progress)
            measured.append(_run_set(plan, one, cases, done, total))
            done += len(plan.seeds) * len(one.methods)
            results = _results(plan, measured, earlier)
            write_results(results, folder)  # after each set, to be read while the others run
            write_report(results, folder)
        progress("methods", done, total, "all done")
    return results


def _run_set(plan: Plan, ready: Ready, cases: Sequence[Case], done: int, total: int) -> SetResult:
    data = cases[0].data
    golds = _by_id(data.queries, (query.gold or "" for query in data.queries))
    write_lamp(_folder(cases[0]) / "golds.json", data.task.name, golds)
    answered, shared, warnings = list[Answered](), dict[str, SharedCost](), list(ready.notes)
    for method in ready.methods:
        settings = plan.settings_of(method)
        given: list[tuple[list[str], Costs]] = []
        for case in cases:
            case.progress("methods", done, total, f"{data.name}: {method.name}")
            given.append(_answered(case, method, settings))
            done += 1
            _collect()  # a home and its pools form a cycle: without this two bases are in memory
        shared |= cases[0].shared
        outputs, costs = zip(*given, strict=True)
        warnings += _warnings(cases, method, outputs)
        answered.append(Answered(
            name=method.name, method=method.method, settings=settings, outputs=tuple(map(tuple, outputs)), costs=costs
        ))  # fmt: skip
    return _measured(plan, ready, data, answered, shared.values(), warnings)


def _collect() -> None:
    """Collects garbage in a separate thread: in this one, Ctrl-C during a destructor would be lost."""
    collecting = Thread(target=gc.collect)
    collecting.start()
    collecting.join()


def _note_code(folder: Path) -> tuple[str, ...]:
    """Adds this version of the code, on this machine, to those that have run in OUT; returns the others."""
    path, now = folder / "code.json", f"ownlm {__version__}, commit {commit() or 'unknown'}, {hardware()}"
    try:
        known = [str(one) for one in json.loads(read_regular(path))] if path.exists() else []
    except (OSError, ValueError, TypeError):
        raise _damaged(path) from None
    others = [one for one in known if one != now]
    write_whole(path, (json.dumps([*others, now], indent=1) + "\n").encode())
    return tuple(others)


def _damaged(path: Path) -> DataError:
    return DataError(f"The file {path} is damaged", hint="remove it, and run the plan again")


def _answered(case: Case, method: MethodPlan, settings: dict[str, Any]) -> tuple[list[str], Costs]:
    """A method's answers to all queries of a case, and their costs. Costs shared by methods go to `case.shared`."""
    case.shared.clear()
    case.warnings.clear()
    kept = _place(case, method, settings)
    costs_file = kept.with_suffix(".costs.json")
    queries = case.data.queries
    known = {(one.user, one.id): one for one in read_predictions(kept)} if kept.exists() else {}
    left = [query for query in queries if (query.user_id, query.id) not in known]
    if left or not costs_file.exists():
        made = METHODS[method.method].make(case, **settings)
        with Writer(kept) as writer:
            started = time.perf_counter()
            for query, text in zip(left, made.answer(left), strict=True):
                now = time.perf_counter()
                known[query.user_id, query.id] = Prediction(query.user_id, query.id, text, now - started)
                writer.write(known[query.user_id, query.id])
                started = now
        outputs = [known[query.user_id, query.id].output for query in queries]
        write_lamp(kept.with_suffix(".lamp.json"), case.task.name, _by_id(queries, outputs))
        took = {
            "costs": made.costs.model_dump(), "shared": [one.model_dump() for one in case.shared.values()],
            "warnings": list(dict.fromkeys(case.warnings)),
        }  # fmt: skip
        write_whole(costs_file, (json.dumps(took) + "\n").encode())
    try:
        took = json.loads(read_regular(costs_file))
        costs = Costs(**took["costs"])
        case.shared.update((one["name"], SharedCost(**one)) for one in took["shared"])
        case.warnings[:] = map(str, took.get("warnings", ()))  # files of earlier versions have none
    except (OSError, ValueError, TypeError, KeyError):
        raise _damaged(costs_file) from None
    mine = [known[query.user_id, query.id] for query in queries]
    mean = 1000 * fmean(one.seconds for one in mine)
    return [one.output for one in mine], costs.model_copy(update={"ms_per_answer": mean})


def _by_id(queries: Sequence[Query], texts: Iterable[str]) -> dict[str, str]:
    """Texts by query id, as in LaMP's files. Ids that several users share get the user in front."""
    unique = len({query.id for query in queries}) == len(queries)
    ids = [query.id if unique else f"{query.user_id}/{query.id}" for query in queries]
    return dict(zip(ids, texts, strict=True))


def _place(case: Case, method: MethodPlan, settings: dict[str, Any]) -> Path:
    """The file of a method's predictions; its name depends on all inputs."""
    users = [known_of(histories) for histories in (case.data.targets, case.data.sharers, case.data.outsiders)]
    asked = [(query.user_id, query.id, sorted(query.fields.items()), query.gold) for query in case.data.queries]
    content = [
        __version__, case.task.model_dump_json(), fingerprint(case.raw()), case.adapt, case.share,
        case.writer.model_dump_json(), case.choose, case.seed, method.method, json.dumps(settings, sort_keys=True),
        users, asked,
    ]  # fmt: skip
    return _folder(case) / f"{slug_of(method.name)}-seed-{case.seed}-{digest(*content)[:12]}.jsonl"


def _folder(case: Case) -> Path:
    """The folder of a set's predictions."""
    folder = case.folder / "predictions" / slug_of(case.data.name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cases(plan: Plan, ready: Ready, folder: Path, placement: Placement, progress: Progress) -> list[Case]:
    """A case for each seed, with the queries that the set's `shift` leaves."""
    adapt, data, spec = None if plan.adapt is False else plan.adapt, ready.data, ready.spec

    def case(data: SetData, seed: int) -> Case:
        return Case(folder, data, plan.base, seed, adapt, plan.share, plan.profile, plan.choose, placement, progress)

    if spec.shift is not None:
        data = replace(data, queries=least_like(data, spec.shift, spec.shift_share, case(data, 0).load_raw))
    return [case(data, seed) for seed in plan.seeds]


def _results(plan: Plan, measured: Sequence[SetResult], earlier: tuple[str, ...]) -> Results:
    return Results(
        plan=plan.name, size=plan.size, date=datetime.now(UTC).date().isoformat(), hardware=hardware(),
        versions=versions(), commit=commit(), seeds=plan.seeds, baseline=plan.baseline, sets=tuple(measured),
        earlier=earlier, to_come=tuple(one.name for one in plan.sets[len(measured) :]),
        resolved=plan.model_dump(mode="json"),
    )  # fmt: skip


def _warnings(cases: Sequence[Case], method: MethodPlan, outputs: Sequence[Sequence[str]]) -> list[str]:
    """Sentences about answers and training of a method that look wrong, with the seeds they hold for."""
    found: dict[str, list[int]] = {}
    for case, texts in zip(cases, outputs, strict=True):
        golds = [query.gold or "" for query in case.data.queries]
        written = METHODS[method.method].model and not (case.choose and case.task.labels)
        lengths = case.token_counts(texts) if written else ()
        for warning in (*case.warnings, *of_answers(case.task, texts, golds, lengths)):
            found.setdefault(warning, []).append(case.seed)
    every = [case.seed for case in cases]
    under = {
        warning: "" if seeds == every else f" (seed {', '.join(map(str, seeds))})" for warning, seeds in found.items()
    }
    return [f"{method.name}: {warning}{seeds}." for warning, seeds in under.items()]


def _measured(
    plan: Plan, ready: Ready, data: SetData, answered: Sequence[Answered], shared: Iterable[SharedCost],
    warnings: Sequence[str],
) -> SetResult:  # fmt: skip
    users, golds = [query.user_id for query in data.queries], [query.gold or "" for query in data.queries]
    people, asked = dict(data.people), len(set(users))
    if unlike := people["asked"] - asked:  # a shift leaves nothing to ask of some users
        people |= {"asked": asked, "none of their queries is among the least like their history": unlike}
    return SetResult(
        name=data.name, task=data.task.name, users=asked, queries=len(users), outsiders=len(data.outsiders),
        sharers=len(data.sharers), metrics=metrics_of(data.task),
        methods=measure(data.task, users, golds, {user: len(history) for user, history in data.targets.items()},
                        answered, plan.baseline),
        left_out=ready.left_out, unlabelled=data.unlabelled, shared=tuple(shared), warnings=tuple(warnings),
        people=people, outsiders_found=dict(data.outsiders_found),
    )  # fmt: skip
