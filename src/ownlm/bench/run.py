"""Running a plan: every method answers every query of every set, once a seed; what is done is kept as it comes.

    OUT/plan.json                             the plan as it was resolved
    OUT/code.json                             which versions of the code have run there
    OUT/stages/STAGE-DIGEST/                  a home for each stage that trains
    OUT/predictions/SET/METHOD-seed-N-DIGEST.jsonl
                                              an answer a line; when all are there, what they cost beside it, and the
                                              answers in LaMP's output format, for `ownlm bench score SET/golds.json`
    OUT/results.json, report.html, report.md  what it came to, so far: written after each set

A run that was killed goes on where it stopped: answers that are there are not asked for again, and homes know what is
trained. Files are named by digests of all they depend on, so that a changed plan reads nothing of another's; but for
the code: what another commit of this version left in OUT is used, stages of another version too, and results and report
name both.
"""

import gc
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from threading import Thread
from typing import Any

from ownlm import __version__
from ownlm.bench.case import Case, fingerprint, known_of
from ownlm.bench.check import check_plan
from ownlm.bench.data import SetData
from ownlm.bench.machine import commit, hardware, versions
from ownlm.bench.methods import METHODS, WITHOUT_MODEL
from ownlm.bench.plan import MethodPlan, Plan, SetPlan, slug_of
from ownlm.bench.predictions import Prediction, Writer, read_predictions, write_lamp
from ownlm.bench.report import write_report
from ownlm.bench.results import Answered, Costs, Results, SetResult, SharedCost, measure, write_results
from ownlm.bench.shift import least_like
from ownlm.bench.warnings import of_answers
from ownlm.durable import write_whole
from ownlm.errors import DataError
from ownlm.filesystem import read_regular
from ownlm.history.record import Query
from ownlm.progress import Progress, silent
from ownlm.store.work import working
from ownlm.workflows.plan import digest


def run_plan(plan: Plan, folder: Path, *, device: str | None = None, progress: Progress = silent) -> Results:
    """Runs what of a plan is not done yet, and writes its results and report.

    A method that has nothing to say to a set is left out there: the most frequent label, where a task has none; what
    is trained on, or profiled from, people's records, where these hold no answers.

    Args:
        folder: OUT; made if it is missing. Another process that runs a plan there is waited for.
        device: where models run; by default a GPU if there is one, else the CPU.

    Raises:
        ConfigError: the plan is wrong: one error lists all that is; nothing has run.
        OwnlmError: a stage failed. What is done stays, and the same call goes on from there.

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
            data = _shifted(_case(plan, one.data, folder, 0, device, progress), one.spec)
            cases = [_case(plan, data, folder, seed, device, progress) for seed in plan.seeds]
            golds = _by_id(data.queries, (query.gold or "" for query in data.queries))
            write_lamp(_folder(cases[0]) / "golds.json", data.task.name, golds)
            answered: list[Answered] = []
            shared: dict[str, SharedCost] = {}
            warnings = list(one.notes)
            for method in one.methods:
                given: list[tuple[list[str], Costs]] = []
                for case in cases:
                    progress("methods", done, total, f"{data.name}: {method.name}")
                    given.append(_answered(case, method, plan.settings_of(method)))
                    done += 1
                    _collect()  # a home and its pools know each other: else the next base comes beside this one
                shared |= cases[0].shared
                outputs, costs = zip(*given, strict=True)
                warnings += _warnings(cases, method, outputs)
                answered.append(Answered(method.name, method.method, plan.settings_of(method), outputs, costs))
            measured.append(_measured(plan, data, answered, one.left_out, shared.values(), warnings))
            results = _results(plan, measured, earlier)
            write_results(results, folder)  # after each set: the first can be read while the others run
            write_report(results, folder)
        progress("methods", done, total, "all done")
    return results


def _collect() -> None:
    """Collects garbage in a thread of its own: Ctrl-C in a callback of what is collected would be lost."""
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
    write_whole(path, (json.dumps([*(one for one in known if one != now), now], indent=1) + "\n").encode())
    return tuple(one for one in known if one != now)


def _damaged(path: Path) -> DataError:
    return DataError(f"The file {path} is damaged", hint="remove it, and run the plan again")


def _answered(case: Case, method: MethodPlan, settings: dict[str, Any]) -> tuple[list[str], Costs]:
    """A method's answers to all queries of a case, and what they cost; `Case.shared` is what it shares with others."""
    case.shared.clear()
    case.warnings.clear()
    kept = _place(case, method, settings)
    costs_file = kept.with_suffix(".costs.json")
    queries = case.data.queries
    known = {(one.user, one.id): one for one in read_predictions(kept)} if kept.exists() else {}
    left = [query for query in queries if (query.user_id, query.id) not in known]
    if left or not costs_file.exists():  # somebody may have removed the answers alone
        made = METHODS[method.method](case, **settings)
        with Writer(kept) as writer:
            started = time.perf_counter()
            for query, text in zip(left, made.answer(left), strict=True):
                told = time.perf_counter()
                known[query.user_id, query.id] = Prediction(query.user_id, query.id, text, told - started)
                writer.write(known[query.user_id, query.id])
                started = told
        outputs = [known[query.user_id, query.id].output for query in queries]
        write_lamp(kept.with_suffix(".lamp.json"), case.task.name, _by_id(queries, outputs))
        took = {
            "costs": asdict(made.costs), "shared": [asdict(one) for one in case.shared.values()],
            "warnings": list(dict.fromkeys(case.warnings)),
        }  # fmt: skip
        write_whole(costs_file, (json.dumps(took) + "\n").encode())
    try:
        took = json.loads(read_regular(costs_file))
        costs = Costs(**took["costs"])
        case.shared.update((one["name"], SharedCost(**one)) for one in took["shared"])
        case.warnings[:] = map(str, took.get("warnings", ()))  # what earlier versions left has none
    except (OSError, ValueError, TypeError, KeyError):
        raise _damaged(costs_file) from None
    mine = [known[query.user_id, query.id] for query in queries]
    return [one.output for one in mine], replace(costs, ms_per_answer=1000 * fmean(one.seconds for one in mine))


def _by_id(queries: Sequence[Query], texts: Iterable[str]) -> dict[str, str]:
    """Texts by query id, as LaMP's files have them; where people's queries share ids, with the person before it."""
    unique = len({query.id for query in queries}) == len(queries)
    ids = [query.id if unique else f"{query.user_id}/{query.id}" for query in queries]
    return dict(zip(ids, texts, strict=True))


def _place(case: Case, method: MethodPlan, settings: dict[str, Any]) -> Path:
    """Where a method's predictions are kept."""
    people = [known_of(who) for who in (case.data.targets, case.data.sharers, case.data.outsiders)]
    asked = [(query.user_id, query.id, sorted(query.fields.items()), query.gold) for query in case.data.queries]
    content = [
        __version__, case.task.model_dump_json(), fingerprint(case.raw()), case.adapt, case.share,
        case.writer.model_dump_json(), case.choose, case.seed, method.method, json.dumps(settings, sort_keys=True),
        people, asked,
    ]  # fmt: skip
    return _folder(case) / f"{slug_of(method.name)}-seed-{case.seed}-{digest(*content)[:12]}.jsonl"


def _folder(case: Case) -> Path:
    """Where the predictions of a set are kept."""
    folder = case.folder / "predictions" / slug_of(case.data.name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _case(plan: Plan, data: SetData, folder: Path, seed: int, device: str | None, progress: Progress) -> Case:
    adapt = None if plan.adapt is False else plan.adapt
    return Case(folder, data, plan.base, seed, adapt, plan.share, plan.profile, plan.choose, device, progress)


def _shifted(case: Case, spec: SetPlan) -> SetData:
    """The set with the queries alone that are least like the histories, where the plan asks for those."""
    if spec.shift is None:
        return case.data
    kept = least_like(case.data, spec.shift, spec.shift_share, case.load_raw)
    return replace(case.data, queries=kept)


def _results(plan: Plan, measured: Sequence[SetResult], earlier: tuple[str, ...]) -> Results:
    """What the sets that are measured came to."""
    return Results(
        plan=plan.name, size=plan.size, date=datetime.now(UTC).date().isoformat(), hardware=hardware(),
        versions=versions(), commit=commit(), seeds=plan.seeds, baseline=plan.baseline, sets=tuple(measured),
        earlier=earlier, to_come=tuple(one.name for one in plan.sets[len(measured) :]),
        resolved=plan.model_dump(mode="json"),
    )  # fmt: skip


def _warnings(cases: Sequence[Case], method: MethodPlan, outputs: Sequence[Sequence[str]]) -> list[str]:
    """What the reader should know of a method's answers and training, under each seed."""
    found: dict[str, list[int]] = {}
    for case, texts in zip(cases, outputs, strict=True):
        golds = [query.gold or "" for query in case.data.queries]
        written = method.method not in WITHOUT_MODEL and not (case.choose and case.task.labels)
        lengths = case.token_counts(texts) if written else ()
        for told in (*case.warnings, *of_answers(case.task, texts, golds, lengths)):
            found.setdefault(told, []).append(case.seed)
    all_seeds = [case.seed for case in cases]
    under = {
        told: "" if seeds == all_seeds else f" (seed {', '.join(map(str, seeds))})" for told, seeds in found.items()
    }
    return [f"{method.name}: {told}{seeds}." for told, seeds in under.items()]


def _measured(
    plan: Plan, data: SetData, answered: list[Answered], left_out: tuple[str, ...], shared: Iterable[SharedCost],
    warnings: Sequence[str],
) -> SetResult:  # fmt: skip
    result = measure(
        data.name,
        data.task,
        [query.user_id for query in data.queries],
        [query.gold or "" for query in data.queries],
        {user: len(history) for user, history in data.targets.items()},
        answered,
        plan.baseline,
        outsiders=len(data.outsiders),
        sharers=len(data.sharers),
        unlabelled=data.unlabelled,
        left_out=left_out,
        shared=tuple(shared),
    )
    people, outsiders = _people(data), dict(data.outsiders_found)
    return replace(result, warnings=tuple(warnings), people=people, outsiders_found=outsiders)


def _people(data: SetData) -> dict[str, int]:
    """What became of the people in the data; where a shift leaves nothing to ask of some, they are counted apart."""
    asked, told = len({query.user_id for query in data.queries}), dict(data.people)
    unlike = told["asked"] - asked
    return told | (
        {"asked": asked, "none of their queries is among the least like their history": unlike} if unlike else {}
    )
